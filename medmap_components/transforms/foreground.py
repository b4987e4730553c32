"""What counts as foreground in a skull-stripped image."""

from __future__ import annotations

from torch import Tensor

__all__ = ["nonzero"]


def nonzero(image: Tensor) -> Tensor:
    """True where a voxel is not zero, negative ones included.

    As ``select_fn`` of MONAI's CropForeground, whose own default takes positive voxels only. In a config:
    ``"select_fn": {"_target_": "medmap_components.transforms.nonzero", "_mode_": "callable"}``.

    Args:
        image: any shape.

    Returns:
        Bool, the same shape.
    """
    return image != 0
