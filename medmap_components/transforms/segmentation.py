"""From a network's probabilities to a segmentation: regions' probabilities, clean-up, and what there is to report."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medmap_components.modalities import CLASS_NAMES, MODALITIES, REGIONS
from medmap_components.transforms.check_study import warnings_of
from medmap_components.transforms.masks import masks_of

__all__ = ["CleanSegmentationd", "DescribeSegmentationd", "RegionProbabilitiesd", "lesions", "voxel_volume_ml"]

CLEANUP_KEY = "cleanup"
_ENHANCING, _CORE = 3, 1
_ROUNDING_ML = 1e-6  # a lesion of exactly the limit stays, whatever the affine's last digits are


def voxel_volume_ml(image: MetaTensor) -> float:
    """The volume of one voxel in mL, from the affine; 1 mL is 1000 mm^3."""
    return abs(float(np.linalg.det(np.asarray(image.affine, dtype=float)[:3, :3]))) / 1000


def lesions(labels: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Connected components of a tumour, largest first.

    Args:
        labels: ``(X, Y, Z)``; all that is not 0 is tumour. Voxels that touch at faces, edges or corners are connected.

    Returns:
        The number of each voxel's component, from 1 on, 0 for background; and the components' sizes in voxels.
    """
    numbers, count = ndimage.label(labels != 0, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    rank = np.zeros(count + 1, np.int32)
    rank[order + 1] = np.arange(1, count + 1)
    return rank[numbers], sizes[order]


class RegionProbabilitiesd(MapTransform):
    """Adds up class probabilities to those of the overlapping regions.

    Args:
        keys: where the probabilities ``(4, X, Y, Z)`` of the classes are.
        output_key: where those of the regions go, float32 ``(3, X, Y, Z)``: whole tumour, tumour core, enhancing
            tumour. Default ``"probabilities"``.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(
        self, keys: KeysCollection = "pred", output_key: str = "probabilities", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_key = output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Computes the regions' probabilities of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            classes: Tensor = item[key]
            if classes.shape[0] != len(CLASS_NAMES):
                raise ValueError(
                    f"{key} must hold {len(CLASS_NAMES)} class probabilities, got the shape {tuple(classes.shape)}."
                )
            regions = [classes[list(members)].sum(dim=0) for members in REGIONS.values()]
            item[self.output_key] = torch.stack(regions).float()
        return item


class CleanSegmentationd(MapTransform):
    """Optional clean-up of a label map; by default nothing is changed.

    What was removed is noted in ``meta["cleanup"]``. The steps, in this order:

    Args:
        keys: where the label maps ``(1, X, Y, Z)`` with the classes 0 to 3 are.
        keep_largest: keep the largest connected tumour only. It removes real satellites of multifocal gliomas.
        min_lesion_ml: remove connected tumours that are smaller, in mL.
        min_et_ml: where there is less enhancing tumour than this in all, in mL, it becomes necrotic core, as is usual
            in BraTS (500 voxels of 1 mm, 0.5 mL).
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.

    Raises:
        ValueError: for a negative volume.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        keep_largest: bool = False,
        min_lesion_ml: float = 0.0,
        min_et_ml: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if min_lesion_ml < 0 or min_et_ml < 0:
            raise ValueError(
                f"min_lesion_ml and min_et_ml must be volumes in mL, 0 to change nothing; got {min_lesion_ml} and "
                f"{min_et_ml}."
            )
        self.keep_largest = keep_largest
        self.min_lesion_ml = min_lesion_ml
        self.min_et_ml = min_et_ml

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cleans the label maps of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self._clean(item[key])
        return item

    def _clean(self, labels: MetaTensor) -> MetaTensor:
        voxel = voxel_volume_ml(labels)
        notes = []
        if self.keep_largest or self.min_lesion_ml > 0:
            numbers, sizes = lesions(np.asarray(labels[0].cpu()))
            kept = int((sizes * voxel >= self.min_lesion_ml - _ROUNDING_ML).sum())
            kept = min(kept, 1) if self.keep_largest else kept
            if kept < len(sizes):
                removed = torch.from_numpy(numbers > kept).to(labels.device)
                labels = cast(MetaTensor, labels.masked_fill(removed[None], 0))
                notes.append(f"removed {len(sizes) - kept} small lesions, {sizes[kept:].sum() * voxel:.2f} mL in all")
        enhancing = labels == _ENHANCING
        volume = float(enhancing.sum()) * voxel
        if 0 < volume < self.min_et_ml - _ROUNDING_ML:
            labels = cast(MetaTensor, labels.masked_fill(enhancing, _CORE))
            notes.append(f"{volume:.2f} mL of enhancing tumour became necrotic core")
        labels.meta[CLEANUP_KEY] = "; ".join(notes)
        return labels


class DescribeSegmentationd(MapTransform):
    """Puts what there is to say about a segmentation into the item, for reports; MONAI Label hands it to its clients.

    The dictionary holds ``modalities_used`` and ``modalities_missing`` (names), ``volumes_ml`` (region to mL),
    ``spacing_mm`` (of the study's own grid), ``warnings`` and ``cleanup`` (sentences).

    Args:
        keys: where the label map ``(1, X, Y, Z)`` with the classes 0 to 3 is, in the study's own grid.
        image_key: where the image is, with its masks and warnings.
        output_key: where the dictionary goes. Default ``"result"``, the key that MONAI Label returns.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        image_key: str = "image",
        output_key: str = "result",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.output_key = output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Describes the segmentation of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            labels, image = item[key], item[self.image_key]
            mask = masks_of(image)[0].tolist()
            counts = torch.bincount(labels.as_tensor().flatten().int(), minlength=len(CLASS_NAMES)).tolist()
            voxel = voxel_volume_ml(labels)
            item[self.output_key] = {
                "modalities_used": [name for name, use in zip(MODALITIES, mask, strict=True) if use],
                "modalities_missing": [name for name, use in zip(MODALITIES, mask, strict=True) if not use],
                "volumes_ml": {
                    region: sum(counts[member] for member in members) * voxel for region, members in REGIONS.items()
                },
                "spacing_mm": [float(side) for side in affine_to_spacing(labels.affine)],
                "warnings": warnings_of(image),
                "cleanup": str(labels.meta.get(CLEANUP_KEY, "")),
            }
        return item
