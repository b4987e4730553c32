"""Reading a study with whatever modalities it has."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from numpy.typing import NDArray

from medmap_components.data.layouts import check_layout, expected_names
from medmap_components.modalities import MODALITIES, modality_mask
from medmap_components.transforms.masks import EXISTS_KEY, MASK_KEY
from medmap_components.transforms.read_nifti import affines_agree, describe_affine, read_volume
from medmap_components.transforms.study_source import StudySource, Volume, resolve_source

__all__ = ["LoadStudy", "LoadStudyd", "StudySource"]


class LoadStudy(Transform):
    """Reads the modalities of one study into one image, zeros where a modality is missing.

    Missing is a modality without a file, or one whose voxels are all zero. What exists is decided here, once, on the
    whole volume, and kept in the image's meta data. A study can be given as

    - a mapping ``{modality: path}``, entries of None left out; in place of paths also images of nibabel in memory;
    - a list of paths, entries of None left out: the file names tell the modalities, or, where none of exactly four
      names does, their positions in the order of ``MODALITIES``;
    - one file ``(X, Y, Z, C)`` with modalities as channels, in the order that its ``dataset.json`` names (MSD) or else
      in that of ``MODALITIES``; ``{"file": path, "channels": [modality, ...]}`` names them itself;
    - the folder of one study;
    - the path of any one modality: its siblings are found by name in the same folder.

    Args:
        modalities: read only these and treat the others as missing; their files are not opened. None (the default)
            reads all that there are.
        layout: key of the only layout (``medmap_components.data.LAYOUTS``) that paths and folders are read in. None
            (the default) recognises it.

    Returns:
        When called with a study: a MetaTensor, float32 ``(M, X, Y, Z)`` in the order of ``MODALITIES``. Its meta
        holds ``affine`` and ``original_affine`` (float64, mm, RAS convention), ``spatial_shape``,
        ``filename_or_obj`` (``<study>.nii.gz`` beside the files, so that MONAI's SaveImage names its output after
        the study), and ``modality_exists`` and ``modality_mask``, bool ``(M,)``.

    Raises:
        FileNotFoundError: when a path does not exist.
        ValueError: for a study without any readable modality; modalities whose shapes or affines differ; files that
            are damaged, have the wrong number of axes or channels, or hold NaN, infinity or one constant value.
    """

    def __init__(self, modalities: Sequence[str] | None = None, layout: str | None = None) -> None:
        check_layout(layout)
        self.layout = layout
        wanted = MODALITIES if modalities is None else modalities
        self.wanted = dict(zip(MODALITIES, modality_mask(wanted), strict=True))

    def __call__(self, source: StudySource, study: str | None = None) -> MetaTensor:
        """Reads one study.

        Args:
            source: what to read, see the class.
            study: the study's name; None (the default) takes it from the file names.
        """
        name, files, stack, names = resolve_source(source, study, self.layout)
        if stack is not None:
            first = stack
            channels, affine = _read_channels(
                stack, name, [role if self.wanted.get(role or "") else None for role in names]
            )
        else:
            chosen = {modality: volume for modality, volume in files.items() if self.wanted[modality]}
            if not chosen:
                wanted = [modality for modality, use in self.wanted.items() if use]
                raise ValueError(
                    f"study {name!r} has no readable modality: found {sorted(files)} in {source!s}, asked for {wanted}."
                )
            first = next(iter(chosen.values()))
            channels, affine = _read_modalities(chosen, name)
        place = first.parent if isinstance(first, Path) else Path()
        image = {modality: voxels for modality, voxels in channels.items() if voxels.any()}
        if not image:
            raise ValueError(
                f"study {name!r} has no readable modality: all voxels of {sorted(channels)} in {place} are "
                "zero, which counts as missing; export the study again."
            )
        return _assemble(image, affine, place / f"{name}.nii.gz")


class LoadStudyd(MapTransform):
    """Dictionary version of :class:`LoadStudy`.

    Args:
        keys: where the studies' sources are, replaced by the images.
        modalities: as in :class:`LoadStudy`.
        layout: as in :class:`LoadStudy`.
        study_key: where the study's name is; where the key is missing, the name comes from the file names.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modalities: Sequence[str] | None = None,
        layout: str | None = None,
        study_key: str = "study",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.study_key = study_key
        self.load = LoadStudy(modalities, layout)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reads the studies of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.load(item[key], item.get(self.study_key))
        return item


def _read_modalities(
    files: Mapping[str, Volume], study: str
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float64]]:
    """The voxels ``(X, Y, Z)`` per modality and the affine that they share."""
    channels: dict[str, NDArray[np.float32]] = {}
    first, reference = "", np.eye(4)
    for modality, volume in files.items():
        (voxels, affine), path = read_volume(volume, study), _label_of(volume)
        if voxels.ndim != 3:
            raise ValueError(
                f"study {study!r}: {path} has the shape {voxels.shape}, but one modality must be (X, Y, Z); "
                "split the file, or give one file with the four modalities as channels by its path alone."
            )
        channels[modality] = _checked(voxels, modality, path, study)
        if not first:
            first, reference = modality, affine
        if voxels.shape != channels[first].shape:
            raise ValueError(
                f"study {study!r}: {first} has the shape {channels[first].shape} and {modality} {voxels.shape} "
                f"({path}); register the modalities to one grid first."
            )
        if not affines_agree(affine, reference):
            raise ValueError(
                f"study {study!r}: {first} has the affine {describe_affine(reference)} and {modality} "
                f"{describe_affine(affine)} ({path}); register the modalities to one grid first."
            )
    return channels, reference


def _read_channels(
    volume: Volume, study: str, names: Sequence[str | None]
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float64]]:
    """The channels of one volume ``(X, Y, Z, C)`` that have a name, and its affine."""
    (voxels, affine), path = read_volume(volume, study), _label_of(volume)
    if voxels.ndim != 4 or voxels.shape[3] != len(names):
        raise ValueError(
            f"study {study!r} has no readable modality: {path} has the shape {voxels.shape} and its name tells no "
            f"modality; name single modalities {expected_names()}, or give one file (X, Y, Z, {len(names)}) "
            f"with the channels {', '.join(map(str, names if any(names) else MODALITIES))}."
        )
    channels = {
        modality: _checked(voxels[..., index], modality, path, study)
        for index, modality in enumerate(names)
        if modality is not None
    }
    return {modality: channels[modality] for modality in MODALITIES if modality in channels}, affine


def _label_of(volume: Volume) -> str:
    """What to call a volume in messages."""
    return str(volume) if isinstance(volume, Path) else "image in memory"


def _checked(voxels: NDArray[np.generic], modality: str, path: str, study: str) -> NDArray[np.float32]:
    """The voxels as float32, with images that can't be real refused."""
    with np.errstate(over="ignore"):
        image = voxels.astype(np.float32)
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(low) or not np.isfinite(high):
        bad = int(image.size - np.isfinite(image).sum())
        raise ValueError(
            f"study {study!r}: {modality} has {bad} voxels that are NaN or infinite ({path}); "
            "repair the file, or leave this modality out."
        )
    if low == high and low != 0:
        raise ValueError(
            f"study {study!r}: all voxels of {modality} are {low:g} ({path}); "
            "export the file again, or leave this modality out."
        )
    return image


def _assemble(image: Mapping[str, NDArray[np.float32]], affine: NDArray[np.float64], path: Path) -> MetaTensor:
    shape = next(iter(image.values())).shape
    voxels = torch.zeros((len(MODALITIES), *shape))
    for index, modality in enumerate(MODALITIES):
        if modality in image:
            voxels[index] = torch.from_numpy(image[modality])
    exists = torch.tensor([modality in image for modality in MODALITIES])
    meta = {
        "filename_or_obj": str(path),
        "original_affine": affine.copy(),
        "original_channel_dim": 0,
        "spatial_shape": np.asarray(shape),
        "space": "RAS",
        EXISTS_KEY: exists,
        MASK_KEY: exists.clone(),
    }
    return MetaTensor(voxels, affine=torch.from_numpy(affine), meta=meta)
