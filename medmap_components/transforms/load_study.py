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

from medmap_components.data.layouts import (
    LABEL,
    expected_names,
    folder_contents,
    group_studies,
    is_nifti,
    parse_file_name,
)
from medmap_components.modalities import MODALITIES, modality_mask
from medmap_components.transforms.masks import EXISTS_KEY, MASK_KEY
from medmap_components.transforms.read_nifti import affines_agree, describe_affine, read_nifti

__all__ = ["LoadStudy", "LoadStudyd", "StudySource"]

StudySource = str | Path | Mapping[str, str | Path | None] | Sequence[str | Path | None]
"""What a study can be read from; see :class:`LoadStudy`."""


class LoadStudy(Transform):
    """Reads the modalities of one study into one image, zeros where a modality is missing.

    Missing is a modality without a file, or one whose voxels are all zero. What exists is decided here, once, on the
    whole volume, and kept in the image's meta data. A study can be given as

    - a mapping ``{modality: path}``, entries of None left out;
    - a list of paths, entries of None left out: the file names tell the modalities, or, where none of exactly four
      names does, their positions in the order of ``MODALITIES``;
    - one file that holds all four as channels ``(X, Y, Z, 4)`` in the order of ``MODALITIES``;
    - the folder of one study;
    - the path of any one modality: its siblings are found by name in the same folder.

    Args:
        modalities: read only these and treat the others as missing; their files are not opened. None (the default)
            reads all that there are.

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

    def __init__(self, modalities: Sequence[str] | None = None) -> None:
        wanted = MODALITIES if modalities is None else modalities
        self.wanted = dict(zip(MODALITIES, modality_mask(wanted), strict=True))

    def __call__(self, source: StudySource, study: str | None = None) -> MetaTensor:
        """Reads one study.

        Args:
            source: what to read, see the class.
            study: the study's name; None (the default) takes it from the file names.
        """
        files, name = _resolve(source, study)
        if isinstance(files, Path):
            path, (channels, affine) = files, _read_channels(files, name, self.wanted)
        else:
            chosen = {modality: path for modality, path in files.items() if self.wanted[modality]}
            if not chosen:
                wanted = [modality for modality, use in self.wanted.items() if use]
                raise ValueError(
                    f"study {name!r} has no readable modality: found {sorted(files)} in {source!s}, asked for {wanted}."
                )
            path = next(iter(chosen.values()))
            channels, affine = _read_modalities(chosen, name)
        image = {modality: voxels for modality, voxels in channels.items() if voxels.any()}
        if not image:
            raise ValueError(
                f"study {name!r} has no readable modality: all voxels of {sorted(channels)} in {path.parent} are "
                "zero, which counts as missing; export the study again."
            )
        return _assemble(image, affine, path.parent / f"{name}.nii.gz")


class LoadStudyd(MapTransform):
    """Dictionary version of :class:`LoadStudy`.

    Args:
        keys: where the studies' sources are, replaced by the images.
        modalities: as in :class:`LoadStudy`.
        study_key: where the study's name is; where the key is missing, the name comes from the file names.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modalities: Sequence[str] | None = None,
        study_key: str = "study",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.study_key = study_key
        self.load = LoadStudy(modalities)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reads the studies of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.load(item[key], item.get(self.study_key))
        return item


def _resolve(source: StudySource, study: str | None) -> tuple[dict[str, Path] | Path, str]:
    """The file per modality, or one file with all channels; and the study's name."""
    if isinstance(source, Mapping):
        paths = {str(modality).lower(): Path(path) for modality, path in source.items() if path is not None}
        name = study or _common_name(list(paths.values()))
        return _from_mapping(paths, name), name
    if not isinstance(source, (str, Path)):
        listed = [Path(path) for path in source if path is not None]
        name = study or _common_name(listed)
        return _from_list(listed, name), name
    path = Path(source)
    name = study or _common_name([path])
    if path.is_dir():
        return _from_folder(path, study)
    if not path.is_file():
        raise FileNotFoundError(f"study {name!r}: {path} does not exist; give a file or the folder of one study.")
    role = parse_file_name(path).role
    if role == LABEL:
        raise ValueError(
            f"study {name!r}: {path} is a segmentation by its name; give a modality or the study's folder."
        )
    return (path if role is None else _siblings(path)), name


def _from_mapping(files: Mapping[str, Path], study: str) -> dict[str, Path]:
    unknown = sorted(set(files) - set(MODALITIES))
    if unknown or not files:
        problem = f"names the unknown modalities {unknown}" if unknown else "has no readable modality: it names no file"
        raise ValueError(f"study {study!r} {problem}; map at least one of {list(MODALITIES)} to a file.")
    return {modality: files[modality] for modality in MODALITIES if modality in files}


def _from_list(paths: Sequence[Path], study: str) -> dict[str, Path]:
    roles = [parse_file_name(path).role for path in paths]
    if len(paths) == len(MODALITIES) and not any(roles):
        return dict(zip(MODALITIES, paths, strict=True))
    listed = [str(path) for path in paths]
    unknown = [str(path) for path, role in zip(paths, roles, strict=True) if role not in MODALITIES]
    if unknown or not paths:
        raise ValueError(
            f"study {study!r} has no readable modality in {unknown or listed}: expected {expected_names()}, "
            "or exactly four files in the order flair, t1ce, t1, t2, or a mapping of modality to file."
        )
    doubled = [role for role in MODALITIES if roles.count(role) > 1]
    if doubled:
        raise ValueError(f"study {study!r} has several files for {doubled} in {listed}; keep one of each.")
    files = dict(zip((str(role) for role in roles), paths, strict=True))
    return {modality: files[modality] for modality in MODALITIES if modality in files}


def _from_folder(folder: Path, study: str | None) -> tuple[dict[str, Path] | Path, str]:
    contents = sorted(folder.iterdir())
    groups, others = group_studies(contents)
    groups = [group for group in groups if group.modalities]
    if len(groups) == 1:
        return groups[0].unique_modalities(), study or groups[0].name
    name = study or folder.absolute().name
    if groups:
        raise ValueError(
            f"study {name!r}: the folder {folder} holds files of {len(groups)} studies, "
            f"{[group.name for group in groups]}; give one modality's path, or a mapping of modality to file."
        )
    if len(others) == 1:
        return others[0], study or parse_file_name(others[0]).stem
    raise ValueError(
        f"study {name!r} has no readable modality: expected {expected_names()} in {folder}, "
        f"found {folder_contents(contents)}; rename the files, or give a mapping of modality to file."
    )


def _siblings(path: Path) -> dict[str, Path]:
    stem = parse_file_name(path).stem.casefold()
    same = [
        other for other in path.parent.iterdir() if is_nifti(other) and parse_file_name(other).stem.casefold() == stem
    ]
    groups, _ = group_studies(same)
    return groups[0].unique_modalities()


def _common_name(paths: Sequence[Path]) -> str:
    """The name of the study that the first path belongs to."""
    if not paths:
        return "unnamed"
    return parse_file_name(paths[0]).stem or paths[0].absolute().parent.name


def _read_modalities(
    files: Mapping[str, Path], study: str
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float64]]:
    """The voxels ``(X, Y, Z)`` per modality and the affine that they share."""
    channels: dict[str, NDArray[np.float32]] = {}
    first, reference = "", np.eye(4)
    for modality, path in files.items():
        voxels, affine = read_nifti(path, study)
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
    path: Path, study: str, wanted: Mapping[str, bool]
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float64]]:
    """The channels of one file ``(X, Y, Z, M)`` and its affine."""
    voxels, affine = read_nifti(path, study)
    if voxels.ndim != 4 or voxels.shape[3] != len(MODALITIES):
        raise ValueError(
            f"study {study!r} has no readable modality: {path} has the shape {voxels.shape} and its name tells no "
            f"modality; name single modalities {expected_names()}, or give one file (X, Y, Z, {len(MODALITIES)}) "
            f"with the channels {', '.join(MODALITIES)}."
        )
    channels = {
        modality: _checked(voxels[..., index], modality, path, study)
        for index, modality in enumerate(MODALITIES)
        if wanted[modality]
    }
    return channels, affine


def _checked(voxels: NDArray[np.generic], modality: str, path: Path, study: str) -> NDArray[np.float32]:
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
