"""Small numerical pieces of the phantom: smooth random fields, blurring in mm, distances and connected components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = [
    "BoolArray",
    "FloatArray",
    "LabelArray",
    "blur",
    "depth_inside",
    "largest_components",
    "normal_field",
    "ramp",
    "smooth_field",
    "weighted_sum",
]

FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]
LabelArray: TypeAlias = NDArray[np.uint8]

_FEATURE_PER_COARSE_VOXEL = 1.5
"""Feature size of blurred coarse noise in coarse voxels: sets how coarse the noise may be before it is interpolated."""


def smooth_field(rng: np.random.Generator, shape: Sequence[int], feature: float, spacing: float) -> FloatArray:
    """A smooth random field of mean 0 and standard deviation 1.

    White noise is drawn on a grid just fine enough for the feature size, blurred, and interpolated linearly, axis by
    axis, which is many times faster than blurring noise on the full grid.

    Args:
        rng: the source of randomness.
        shape: the field's shape in voxels.
        feature: typical size of a bump, mm.
        spacing: voxel size, mm.

    Returns:
        Array of that shape.
    """
    step = max(1.0, feature / spacing / _FEATURE_PER_COARSE_VOXEL)
    coarse_shape = [int(np.ceil(size / step)) + 3 for size in shape]
    coarse_noise = rng.standard_normal(coarse_shape, dtype=np.float32)
    offsets = rng.random(3)
    field: FloatArray = ndimage.gaussian_filter(coarse_noise, 0.9)
    # the axis that grows least in memory goes last, so that the early passes work on small arrays
    for axis, (size, offset) in enumerate(zip(shape, offsets, strict=True)):
        field = _stretch(field, axis, size, step, offset)
    field -= field.mean(dtype=np.float64)
    field /= field.std(dtype=np.float64) + 1e-6
    return field


def _stretch(field: FloatArray, axis: int, size: int, step: float, offset: float) -> FloatArray:
    """Linear interpolation along one axis to ``size`` samples that lie ``1 / step`` apart."""
    position = np.arange(size) / step + (offset if step > 1 else 0.0)
    below = position.astype(np.intp)
    weight = (position - below).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
    left, right = np.take(field, below, axis), np.take(field, below + 1, axis)
    right -= left
    right *= weight
    right += left
    return right


def normal_field(rng: np.random.Generator, shape: Sequence[int]) -> FloatArray:
    """White noise of mean 0 and standard deviation 1."""
    return rng.standard_normal(tuple(shape), dtype=np.float32)


def blur(volume: NDArray[np.generic], sigma: float, spacing: float) -> FloatArray:
    """Gaussian blur with ``sigma`` in mm; bool and integer volumes become float."""
    blurred: FloatArray = ndimage.gaussian_filter(volume.astype(np.float32, copy=False), sigma / spacing, truncate=3.0)
    return blurred


def depth_inside(mask: BoolArray, spacing: float) -> FloatArray:
    """Distance of every voxel of a mask to the nearest voxel outside, mm; 0 outside, and beyond the grid is outside."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    millimetres: FloatArray = (distance * spacing).astype(np.float32)
    return millimetres


def ramp(values: NDArray[np.floating], low: float = 0.0, high: float = 1.0) -> FloatArray:
    """Values clipped to ``[low, high]``."""
    clipped: FloatArray = np.clip(values, low, high).astype(np.float32, copy=False)
    return clipped


def largest_components(mask: BoolArray, count: int) -> BoolArray:
    """The ``count`` largest connected components of a mask (6-neighbourhood); of equal ones the first."""
    labels, found = ndimage.label(mask)
    if found <= count:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = np.zeros(found + 1, dtype=bool)
    kept[np.argsort(-sizes, kind="stable")[:count]] = True
    selected: BoolArray = kept[labels]
    return selected


def weighted_sum(weights: Sequence[float], maps: Sequence[FloatArray]) -> FloatArray:
    """The sum of maps, each times its weight, added in this order so that every machine rounds alike."""
    total = np.zeros_like(maps[0])
    for weight, one_map in zip(weights, maps, strict=True):
        total += np.float32(weight) * one_map
    return total
