"""A head without a tumour: where it lies in the grid, how it differs from the average brain, and its tissues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from scipy import ndimage

from medmap_components.data.phantom.fields import BoolArray, FloatArray, depth_inside, ramp, smooth_field
from medmap_components.data.phantom.parameters import BRATS_SHAPE

__all__ = ["Anatomy", "HeadGrid", "check_grid", "finish_anatomy", "place_head", "sample_tissues", "warp_head"]

MEAN_BRAIN_MM = (134.0, 171.0, 137.0)
"""Extent of the average brain from right to left, front to back and bottom to top."""

BRAIN_CENTRE_MM = (119.5, 127.5, 72.0)
"""Where the brain's centre lies in the grid of BraTS."""

MARGIN_MM = 4.0
"""Space around the brain that is computed too."""

LARGEST_BRAIN_MM = tuple(extent * 1.07 * 1.04 + 1.0 for extent in MEAN_BRAIN_MM)
"""What a grid must cover: the largest brain that is drawn."""


@dataclass(frozen=True)
class HeadGrid:
    """The box of the grid in which the head lies.

    Attributes:
        box: the box in the full grid.
        positions: ``(3, X, Y, Z)``, every voxel's position relative to the brain's centre, mm.
        extent: the brain's extents, mm.
        spacing: voxel size, mm.
    """

    box: tuple[slice, slice, slice]
    positions: FloatArray
    extent: tuple[float, float, float]
    spacing: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """The box's shape in voxels."""
        x, y, z = self.positions.shape[1:]
        return x, y, z

    def every(self, step: int) -> HeadGrid:
        """The same box with every ``step``-th voxel only."""
        coarse = self.positions[:, ::step, ::step, ::step]
        return HeadGrid(self.box, coarse, self.extent, self.spacing * step)


@dataclass(frozen=True)
class Anatomy:
    """The tissues of one head in its box; all arrays ``(X, Y, Z)``.

    Attributes:
        csf: share of cerebrospinal fluid in the voxel, 0 to 1.
        gm: share of grey matter.
        wm: share of white matter.
        total: sum of the three, below 1 at the surface.
        brain: what skull stripping leaves.
        depth: distance to the unstripped brain's surface, mm.
    """

    csf: FloatArray
    gm: FloatArray
    wm: FloatArray
    total: FloatArray
    brain: BoolArray
    depth: FloatArray


def check_grid(shape: Sequence[int], spacing: float) -> None:
    """Refuse a grid that cannot hold the largest brain.

    Args:
        shape: the grid's shape in voxels.
        spacing: voxel size, mm.

    Raises:
        ValueError: naming what is wrong with it.
    """
    if len(shape) != 3 or not spacing > 0:
        raise ValueError(f"shape must hold three sizes and spacing be positive, got {tuple(shape)} and {spacing} mm.")
    grid_mm = [size * spacing for size in shape]
    if any(size < needed for size, needed in zip(grid_mm, LARGEST_BRAIN_MM, strict=True)):
        needed = " x ".join(f"{extent:.0f}" for extent in LARGEST_BRAIN_MM)
        raise ValueError(
            f"shape {tuple(shape)} at spacing {spacing} mm covers {grid_mm} mm, but a head needs {needed} mm; "
            "take a larger shape or spacing, e.g. (96, 96, 96) at 2 mm or (48, 48, 48) at 4 mm."
        )


def place_head(rng: np.random.Generator, shape: Sequence[int], spacing: float) -> HeadGrid:
    """Draw a brain's size and place it in the grid as BraTS does.

    Args:
        rng: the source of randomness.
        shape: the grid's shape in voxels.
        spacing: voxel size, mm.

    Returns:
        The box around the brain.

    Raises:
        ValueError: when the grid cannot hold the largest brain.
    """
    check_grid(shape, spacing)
    grid_mm = np.asarray(shape) * spacing
    extent = np.array(MEAN_BRAIN_MM) * rng.uniform(0.95, 1.07, 3) * rng.uniform(0.97, 1.04)
    centre = np.array(BRAIN_CENTRE_MM) - (np.array(BRATS_SHAPE) - grid_mm) / 2
    centre = np.clip(centre, extent / 2 + 1, grid_mm - extent / 2 - 1)
    low = np.maximum(0, np.floor((centre - extent / 2 - MARGIN_MM) / spacing)).astype(int)
    high = np.minimum(shape, np.ceil((centre + extent / 2 + MARGIN_MM) / spacing)).astype(int)
    axes = [np.arange(low[i], high[i]) * spacing - centre[i] for i in range(3)]
    positions = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return HeadGrid((x, y, z), positions, (float(extent[0]), float(extent[1]), float(extent[2])), spacing)


def warp_head(rng: np.random.Generator, grid: HeadGrid) -> tuple[FloatArray, FloatArray]:
    """Draw how this head differs from the average one: rotation and shear, and smooth displacements of some mm.

    Args:
        rng: the source of randomness.
        grid: the head's box.

    Returns:
        The ``(3, 3)`` matrix of the linear part, and ``(3, X, Y, Z)``: for every voxel the position in the average
        head whose tissue it shows, mm from the centre.
    """
    matrix = np.eye(3) + rng.normal(0, 0.035, (3, 3))
    matrix = (matrix / np.linalg.det(matrix) ** (1 / 3)).astype(np.float32)
    sources = transform_points(matrix, grid.positions)
    for axis in range(3):
        sources[axis] += rng.uniform(2.0, 3.6) * smooth_field(rng, grid.shape, 34, grid.spacing)
        sources[axis] += rng.uniform(0.6, 1.1) * smooth_field(rng, grid.shape, 13, grid.spacing)
    return matrix, sources


def transform_points(matrix: FloatArray, points: FloatArray) -> FloatArray:
    """A ``(3, 3)`` matrix applied to points ``(3, X, Y, Z)``, written out so that every machine rounds alike."""
    rows = [row[0] * points[0] + row[1] * points[1] + row[2] * points[2] for row in matrix]
    return np.stack(rows)


@lru_cache(maxsize=1)
def _atlas() -> tuple[FloatArray, ...]:
    """The average brain's CSF, grey and white matter as soft maps (1 mm), from the atlas that lies in this package."""
    source = resources.files("medmap_components.data.phantom") / "mni152_tissue_1mm.npz"
    with resources.as_file(source) as path, np.load(path) as archive:
        labels = archive["labels"]
    return tuple(ndimage.gaussian_filter((labels == tissue).astype(np.float32), 0.45) for tissue in (1, 2, 3))


def sample_tissues(sources: FloatArray, extent: Sequence[float]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Look up tissues in the average brain.

    Args:
        sources: ``(3, X, Y, Z)``, positions in the average head, mm from its centre.
        extent: the extents of the brain, mm, that the average one is scaled to.

    Returns:
        The shares of CSF, grey and white matter ``(X, Y, Z)``, 0 outside of the head.
    """
    maps = _atlas()
    index = np.empty_like(sources)
    for axis, size in enumerate(maps[0].shape):
        index[axis] = np.float32(size / extent[axis]) * sources[axis] + np.float32((size - 1) / 2)
        # half a voxel beyond the outermost centres still belongs to the atlas
        beyond = (index[axis] < -0.5) | (index[axis] > size - 0.5)
        np.clip(index[axis], 0, size - 1, out=index[axis])
        index[axis][beyond] = -2
    csf, gm, wm = (ndimage.map_coordinates(tissue, index, order=1, mode="constant", cval=0.0) for tissue in maps)
    return csf, gm, wm


def finish_anatomy(
    rng: np.random.Generator, tissues: tuple[FloatArray, FloatArray, FloatArray], grid: HeadGrid
) -> Anatomy:
    """Cut sulci into the cortex and strip the skull.

    The average brain has hardly any sulci, but their fluid is what oedema is mistaken for on T2, and grey matter on T1:
    so thin sheets of fluid are cut into the cortex. Skull stripping eats some of the outer fluid.

    Args:
        rng: the source of randomness.
        tissues: shares of CSF, grey and white matter.
        grid: the head's box.

    Returns:
        The anatomy.
    """
    csf, gm, wm = tissues
    total = csf + gm + wm
    brain = ndimage.binary_fill_holes(total > 0.5)
    depth = depth_inside(brain, grid.spacing)
    atrophy = rng.uniform(0.13, 0.30)
    folds = np.abs(smooth_field(rng, grid.shape, 7.5, grid.spacing))
    near_surface = ramp((17 - depth) / 6)
    fluid = ramp(1.4 * (1 - folds / atrophy)) * near_surface * ramp(1.6 * gm) * gm
    csf, gm = csf + fluid, gm - fluid
    stripped = (csf > 0.45) & (depth < rng.uniform(1.2, 3.0))
    brain = ndimage.binary_fill_holes(ndimage.binary_opening(brain & ~stripped))
    return Anatomy(csf, gm, wm, total, brain, depth)
