"""Label maps of BraTS and the network's classes, both ways."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from numpy.typing import NDArray
from torch import Tensor

from medmap_components.data.layouts import parse_file_name
from medmap_components.modalities import CLASS_NAMES
from medmap_components.transforms.read_nifti import affines_agree, describe_affine, read_nifti

__all__ = [
    "CLASS_VOXELS_KEY",
    "LABEL_SCHEMES",
    "BratsLabels",
    "BratsLabelsd",
    "LabelsToBrats",
    "LabelsToBratsd",
    "LoadBratsLabel",
    "LoadBratsLabeld",
]

CLASS_VOXELS_KEY = "class_voxels"
"""Key in ``MetaTensor.meta``: voxels per class in the file, ``(4,)``."""

LABEL_SCHEMES: Mapping[str, Mapping[int, int]] = MappingProxyType(
    {
        "brats2018": MappingProxyType({0: 0, 1: 1, 2: 2, 4: 3}),
        "brats2023": MappingProxyType({0: 0, 1: 1, 2: 2, 3: 3}),
        "brats2024": MappingProxyType({0: 0, 1: 1, 2: 2, 3: 3, 4: 0}),
        "msd": MappingProxyType({0: 0, 1: 2, 2: 1, 3: 3}),
        "classes": MappingProxyType({0: 0, 1: 1, 2: 2, 3: 3}),
    }
)
"""Per scheme, the network class of each value: BraTS up to 2021, 2023, and 2024 (where 4, the resection cavity, counts
as background), MSD Task01, and the classes themselves."""

_ENHANCING = 3
_ROUNDING = 1e-3


def _table_of(scheme: str) -> Mapping[int, int]:
    """The network class of each value, of a named scheme or one that is spelled out, such as ``"0=0,1=2,2=1,3=3"``."""
    if scheme in LABEL_SCHEMES:
        return LABEL_SCHEMES[scheme]
    table = dict(re.findall(r"(\d+)=([0-3])(?:,|$)", scheme))
    if not table or ",".join(f"{value}={to}" for value, to in table.items()) != scheme:
        raise ValueError(
            f"label scheme {scheme!r} is unknown; choose among {sorted(LABEL_SCHEMES)}, or spell it out as "
            "value=class, such as '0=0,1=2,2=1,3=3'."
        )
    return {int(value): int(to) for value, to in table.items()}


class BratsLabels(Transform):
    """Turns a data set's label values into the network's classes 0 to 3.

    Values within 0.001 of a whole number count as that number (some label files hold floats). Which coding holds is
    a property of the data set: a case without enhancing tumour looks the same in all of them.

    Args:
        scheme: ``"brats2018"`` (0, 1, 2, 4: enhancing tumour is 4; BraTS 2018 to 2021), ``"brats2023"`` (0 to 3),
            ``"brats2024"`` (the same, and 4, the resection cavity, becomes background), ``"msd"`` (1 oedema, 2
            non-enhancing, 3 enhancing), ``"classes"`` (the default: the classes as they are), or any other table
            spelled out as value=class: ``"0=0,1=2,2=1,3=3"``.

    Returns:
        When called with a label map of any shape: the classes in the same shape, float32, meta data kept.

    Raises:
        ValueError: for an unknown scheme, or for values that the scheme does not have.
    """

    def __init__(self, scheme: str = "classes") -> None:
        _table_of(scheme)
        self.scheme = scheme

    def __call__(self, label: Tensor, scheme: str | None = None, source: str = "label") -> Tensor:
        """Converts one label map.

        Args:
            label: the values.
            scheme: overrides the constructor's for this map.
            source: what to call the label map in messages, such as its file's name.
        """
        scheme = self.scheme if scheme is None else scheme
        table = _table_of(scheme)
        classes = torch.zeros_like(label, dtype=torch.float32)
        known = torch.zeros_like(label, dtype=torch.bool)
        for value, to in table.items():
            hit = (label - value).abs() <= _ROUNDING if label.is_floating_point() else label == value
            known |= hit
            if to:
                classes.masked_fill_(hit, to)
        if not known.all():
            values = sorted({round(value, 4) for value in torch.unique(label).tolist()})[:10]
            raise ValueError(
                f"{source} holds the values {values}, but the label scheme {scheme!r} has {list(table)}; "
                f"give the data set's own scheme out of {sorted(LABEL_SCHEMES)}. (In BraTS 2024, 4 is the "
                "resection cavity: 'brats2024' reads it as background, and nothing as enhancing tumour.)"
            )
        return classes


class BratsLabelsd(MapTransform):
    """Dictionary version of :class:`BratsLabels`.

    Args:
        keys: where the label maps are.
        scheme_key: where an item names its scheme.
        default_scheme: the scheme of items that name none, default ``"classes"``.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        scheme_key: str = "label_scheme",
        default_scheme: str = "classes",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scheme_key = scheme_key
        self.convert = BratsLabels(default_scheme)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Converts the label maps of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            label = item[key]
            source = label.meta.get("filename_or_obj", key) if isinstance(label, MetaTensor) else key
            item[key] = self.convert(label, item.get(self.scheme_key), str(source))
        return item


class LoadBratsLabel(Transform):
    """Reads a label map from NIfTI and turns its values into the network's classes.

    Args:
        scheme: as in :class:`BratsLabels`, default ``"classes"``.

    Returns:
        When called with a path: a MetaTensor ``(1, X, Y, Z)``, float32, with values 0 to 3. Its meta holds the number
        of voxels per class, ``(4,)``, as ``class_voxels``: what a later crop removes can be told from it.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: for a damaged file, one that is not ``(X, Y, Z)``, values that the scheme does not have, or a grid
            other than the image's.
    """

    def __init__(self, scheme: str = "classes") -> None:
        self.convert = BratsLabels(scheme)

    def __call__(
        self,
        path: str | Path,
        scheme: str | None = None,
        study: str | None = None,
        image: Tensor | None = None,
    ) -> MetaTensor:
        """Reads one label map.

        Args:
            path: the file.
            scheme: overrides the constructor's for this file.
            study: the study's name for messages; None (the default) takes it from the file name.
            image: the study's image as :class:`LoadStudy` gives it, whose grid the label must share; None (the
                default) leaves that unchecked.
        """
        path = Path(path)
        study = study or parse_file_name(path).stem or path.absolute().parent.name
        values, affine = read_nifti(path, study)
        if values.ndim != 3:
            raise ValueError(f"study {study!r}: the label {path} has the shape {values.shape}, expected (X, Y, Z).")
        if isinstance(image, MetaTensor):
            _check_grid(values.shape, affine, image, f"study {study!r}: the label {path}")
        meta = {
            "filename_or_obj": str(path),
            "original_affine": affine.copy(),
            "original_channel_dim": 0,
            "spatial_shape": np.asarray(values.shape),
            "space": "RAS",
        }
        kind = np.float32 if values.dtype.kind == "f" else np.int32
        label = torch.from_numpy(values.astype(kind, order="C"))[None]
        classes = self.convert(label, scheme, f"study {study!r}: the label {path}")
        meta[CLASS_VOXELS_KEY] = torch.bincount(classes.flatten().to(torch.uint8), minlength=len(CLASS_NAMES))
        return MetaTensor(classes, affine=torch.from_numpy(affine), meta=meta)


class LoadBratsLabeld(MapTransform):
    """Dictionary version of :class:`LoadBratsLabel`; to be put before any spatial transform.

    Args:
        keys: where the paths are, replaced by the label maps.
        image_key: where the study's image is, whose grid the label must share; not checked where it is missing.
        scheme_key: where an item names its scheme.
        default_scheme: the scheme of items that name none, default ``"classes"``.
        study_key: where the study's name is, for messages.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        image_key: str = "image",
        scheme_key: str = "label_scheme",
        default_scheme: str = "classes",
        study_key: str = "study",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.scheme_key = scheme_key
        self.study_key = study_key
        self.load = LoadBratsLabel(default_scheme)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reads the label maps of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.load(
                item[key], item.get(self.scheme_key), item.get(self.study_key), item.get(self.image_key)
            )
        return item


class LabelsToBrats(Transform):
    """Writes enhancing tumour, class 3, with another value; the inverse of :class:`BratsLabels`.

    Args:
        enhancing: the value for enhancing tumour: 4 (the default) as in BraTS up to 2021, or 3 to change nothing.

    Returns:
        When called with a label map of classes 0 to 3, any shape: the values, in the same number type.

    Raises:
        ValueError: for another value of ``enhancing``, or for a map that holds anything but 0 to 3.
    """

    def __init__(self, enhancing: int = 4) -> None:
        if enhancing not in (3, 4):
            raise ValueError(
                f"enhancing must be 3 (BraTS 2023, and the classes) or 4 (BraTS to 2021), got {enhancing}."
            )
        self.enhancing = enhancing

    def __call__(self, label: Tensor) -> Tensor:
        """Converts one label map."""
        known = torch.zeros_like(label, dtype=torch.bool)
        for value in range(4):
            known |= label == value
        if not known.all():
            found = torch.unique(label).tolist()[:10]
            raise ValueError(f"label holds the values {found}, expected classes 0 to 3; apply argmax first.")
        if self.enhancing == _ENHANCING:
            return label
        return torch.where(label == _ENHANCING, torch.full_like(label, self.enhancing), label)


class LabelsToBratsd(MapTransform):
    """Dictionary version of :class:`LabelsToBrats`.

    Args:
        keys: where the label maps are.
        enhancing: as in :class:`LabelsToBrats`, default 4.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(self, keys: KeysCollection = "pred", enhancing: int = 4, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.convert = LabelsToBrats(enhancing)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Converts the label maps of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.convert(item[key])
        return item


def _check_grid(shape: Sequence[int], affine: NDArray[np.float64], image: MetaTensor, what: str) -> None:
    """Refuses a label that does not lie on the image's grid, as it was read."""
    expected = tuple(int(side) for side in np.asarray(image.meta.get("spatial_shape", image.shape[1:])))
    if tuple(shape) != expected:
        raise ValueError(f"{what} has the shape {tuple(shape)}, its image {expected}; give the label of this study.")
    original = np.asarray(image.meta.get("original_affine", image.affine), dtype=np.float64)
    if not affines_agree(affine, original):
        raise ValueError(
            f"{what} has the affine {describe_affine(affine)}, its image {describe_affine(original)}; "
            "resample the label to the image's grid."
        )
