"""Resampling to the voxel size that a network was trained with, where it is needed, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import InvertibleTransform, MapTransform, Spacing, SpatialResample
from monai.utils import TraceKeys
from torch import Tensor

__all__ = ["SpacingIfNeeded", "SpacingIfNeededd", "undo_spacing", "was_resampled"]


class SpacingIfNeeded(InvertibleTransform):
    """MONAI's ``Spacing``, linear, for skull-stripped images whose voxel size is not already the one that is wanted.

    Linear interpolation alone would mix the brain's rim with the zeros around it and give a seam of dark voxels that
    the network never saw. Here the values are interpolated among brain voxels only: interpolated image divided by
    interpolated brain mask, where that is at least one half, and zero elsewhere.

    The inverse resamples to the grid that the image came from, exactly that shape and affine, with plain linear
    interpolation: it is for probabilities. Images that were left as they are stay as they are in the inverse too.

    Args:
        spacing: wanted voxel size in mm. None leaves all images as they are.
        tolerance: a voxel size within this share of the wanted one along all axes counts as the same. Default 0.05.

    Raises:
        ValueError: for a spacing or tolerance that is not positive.
    """

    def __init__(self, spacing: float | None = 1.0, tolerance: float = 0.05) -> None:
        if (spacing is not None and not spacing > 0) or not tolerance > 0:
            raise ValueError(f"spacing (mm, or None) and tolerance must be positive, got {spacing} and {tolerance}.")
        self.wanted = spacing
        self.tolerance = tolerance
        # zeros outside: what lies beyond the border is background, of the image and of the mask alike
        self.resample = Spacing(pixdim=spacing or 1.0, mode="bilinear", padding_mode="zeros", dtype=np.float32)

    def is_needed(self, image: MetaTensor) -> bool:
        """Whether an image's voxel size differs from the wanted one."""
        if self.wanted is None:
            return False
        spacing = np.asarray(affine_to_spacing(image.affine), dtype=float)
        return bool((np.abs(spacing / self.wanted - 1) > self.tolerance).any())

    def __call__(self, image: MetaTensor) -> MetaTensor:
        """Resamples an image ``(C, X, Y, Z)`` whose background is zero, if its voxel size is another."""
        if not self.is_needed(image):
            return image
        brain = MetaTensor((image.as_tensor() != 0).float(), affine=image.affine)
        weight = torch.as_tensor(self.resample(brain)).clamp(0, 1)
        result = cast(MetaTensor, self.resample(image))
        plain = result.as_tensor()
        plain.div_(weight.clamp(min=0.5)).masked_fill_(weight < 0.5, 0)
        return result

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Brings an image, or what was predicted on it, back to the grid before."""
        if not data.applied_operations or not _is_resampling(data.applied_operations[-1]):
            return data
        return cast(MetaTensor, self.resample.inverse(data))


class SpacingIfNeededd(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`SpacingIfNeeded`.

    It stands in place of MONAI's ``Spacingd``, which from MONAI 1.6 on fails on items that hold a path under a key
    that begins with ``image_``, as those of MONAI Label do.

    Args:
        keys: where the images are.
        spacing: as in :class:`SpacingIfNeeded`, default 1 mm.
        tolerance: as in :class:`SpacingIfNeeded`, default 0.05.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: float | None = 1.0,
        tolerance: float = 0.05,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.resample = SpacingIfNeeded(spacing, tolerance)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resamples the images of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.resample(item[key])
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resamples the images of one item back."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.resample.inverse(item[key])
        return item


def undo_spacing(prediction: Tensor, image: Tensor, reference: Tensor) -> Tensor:
    """Brings what was predicted on a resampled image to a grid that was not resampled.

    For probabilities on their way to a label map that was cropped by itself, where inverting all transforms is no way.

    Args:
        prediction: ``(C, d, h, w)`` on the grid of ``image``: probabilities, or the image itself.
        image: ``(M, d, h, w)`` after :class:`SpacingIfNeededd`; crops and transforms of intensities may have followed.
        reference: ``(1, D, H, W)``, with its affine, in the space that the image had.

    Returns:
        ``(C, D, H, W)``, linearly interpolated, zero beyond the image; ``prediction`` itself for an image that was not
        resampled.

    Raises:
        ValueError: when prediction and image differ in shape, or there is no affine.
    """
    if prediction.shape[1:] != image.shape[1:]:
        raise ValueError(f"prediction {tuple(prediction.shape)} is not on the grid of image {tuple(image.shape)}.")
    if not was_resampled(image):
        return prediction
    if not isinstance(reference, MetaTensor):
        raise ValueError("reference has no affine, so that its grid is not known; it must be a MetaTensor.")
    there = MetaTensor(prediction.as_subclass(Tensor), affine=cast(MetaTensor, image).affine)
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=np.float32)
    return cast(MetaTensor, resample(there, dst_affine=reference.affine, spatial_size=reference.shape[1:])).as_tensor()


def was_resampled(image: Tensor) -> bool:
    """Whether an image came through :class:`SpacingIfNeededd` with another voxel size than it had."""
    return isinstance(image, MetaTensor) and any(map(_is_resampling, image.applied_operations))


def _is_resampling(operation: Mapping[str, Any]) -> bool:
    """Whether this is what MONAI notes when it resamples an image."""
    return bool(operation.get(TraceKeys.CLASS_NAME) == SpatialResample.__name__)
