"""What a cropped label map says about the grid that it was read from."""

from __future__ import annotations

from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from medmap_components.modalities import CLASS_NAMES
from medmap_components.transforms.labels import CLASS_VOXELS_KEY

__all__ = ["FullGrid", "full_grid"]


class FullGrid(NamedTuple):
    """The grid that a label map was read from.

    Attributes:
        spacing: voxel size per axis of the label map as it is given, in mm.
        diagonal: of the grid as it was read, in mm.
        class_voxels: voxels per class in the file, ``(4,)``.
        unseen: those of them that the label map, which was cropped, does not hold.
    """

    spacing: tuple[float, ...]
    diagonal: float
    class_voxels: Tensor
    unseen: Tensor


def full_grid(label: Tensor) -> FullGrid:
    """Reads the meta data that :class:`~medmap_components.transforms.LoadBratsLabel` gave to a label map.

    Where there are none, the label map itself is taken as the whole grid, with voxels of 1 mm.

    Args:
        label: ``(1, D, H, W)`` of classes 0 to 3, after flips, permutations and crops; not resampled.

    Raises:
        ValueError: when it holds more voxels of a tumour class than its file, so that it was resampled.
    """
    meta = label.meta if isinstance(label, MetaTensor) else {}
    present = torch.bincount(label.as_subclass(Tensor).flatten().to(torch.uint8).cpu(), minlength=len(CLASS_NAMES))
    affine = np.asarray(label.affine) if isinstance(label, MetaTensor) else np.eye(4)
    shape = np.asarray(meta.get("spatial_shape", label.shape[1:])).reshape(-1)
    original = np.asarray(meta.get("original_affine", affine), dtype=float).reshape(4, 4)
    diagonal = float(np.linalg.norm(shape * _voxel_sizes(original)))
    class_voxels = torch.as_tensor(meta.get(CLASS_VOXELS_KEY, present)).reshape(-1).cpu()
    unseen = class_voxels - present
    unseen[0] = 0
    if int(unseen.min()) < 0:
        raise ValueError(
            f"label holds {present.tolist()} voxels of the classes 0 to 3, its file {class_voxels.tolist()}: it was "
            "resampled; evaluate on the grid of the file."
        )
    spacing = tuple(float(size) for size in _voxel_sizes(affine))
    return FullGrid(spacing, diagonal, class_voxels, unseen)


def _voxel_sizes(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(nib.affines.voxel_sizes(affine))  # type: ignore[no-untyped-call]
