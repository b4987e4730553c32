"""The 95th percentile of the Hausdorff distance, with the field's conventions for empty masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.metrics import compute_hausdorff_distance
from monai.metrics.utils import get_edge_surface_distance
from torch import Tensor

__all__ = ["SURFACES", "bounding_box", "hausdorff95"]

SURFACES: dict[str, str] = {
    "voxels": "max of the two directed 95th percentiles of the distances between surface voxels (mask voxels with a "
    "face neighbour outside), as MONAI computes it",
    "surfels": "max of the two directed 95th percentiles of the distances between surface elements, weighted by their "
    "area, as the package surface-distance computes it",
}
"""The definitions of HD95 that :func:`hausdorff95` knows."""


def hausdorff95(
    prediction: Tensor, target: Tensor, spacing: Sequence[float], one_empty: float, surface: str = "voxels"
) -> float:
    """HD95 of two masks in mm.

    0 where both are empty. Only the box around both masks is looked at, which changes nothing.

    Args:
        prediction: bool ``(X, Y, Z)``.
        target: bool ``(X, Y, Z)``.
        spacing: voxel size per axis in mm.
        one_empty: the distance where exactly one mask is empty, in mm.
        surface: one of ``SURFACES``. Default ``"voxels"``.

    Raises:
        ValueError: for masks of different or other than three-dimensional shapes, another number of spacings, or an
            unknown surface.
    """
    if prediction.ndim != 3 or prediction.shape != target.shape:
        raise ValueError(
            "prediction and target must be masks (X, Y, Z) of one size, "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}."
        )
    if len(spacing) != 3:
        raise ValueError(f"spacing must hold three voxel sizes, got {list(spacing)}.")
    if surface not in SURFACES:
        raise ValueError(f"surface must be one of {list(SURFACES)}, got {surface!r}.")
    masks = [mask.as_subclass(Tensor).bool() for mask in (prediction, target)]
    filled = [bool(mask.any()) for mask in masks]
    if not all(filled):
        return float(one_empty) if any(filled) else 0.0
    box = bounding_box(masks[0] | masks[1])
    pair = [mask[box].cpu() for mask in masks]
    sizes = [float(size) for size in spacing]
    if surface == "surfels":
        return _surfels95(pair[0], pair[1], sizes)
    distance = compute_hausdorff_distance(
        pair[0][None, None], pair[1][None, None], include_background=True, percentile=95, spacing=sizes
    )
    return float(distance)


def bounding_box(mask: Tensor) -> tuple[slice, ...]:
    """The smallest box that holds every True of a mask; of size 0 where there is none.

    Args:
        mask: bool, any number of axes.
    """
    box = []
    for axis in range(mask.ndim):
        others = [other for other in range(mask.ndim) if other != axis]
        used = mask.sum(dim=others).nonzero().flatten() if others else mask.nonzero().flatten()
        box.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0))
    return tuple(box)


def _surfels95(prediction: Tensor, target: Tensor, spacing: list[float]) -> float:
    edges, distances, areas = get_edge_surface_distance(
        prediction, target, spacing=spacing, use_subvoxels=True, symmetric=True
    )
    directed = []
    for edge, distance, area in zip(edges, distances, areas, strict=True):
        order = distance.argsort()
        share = area[edge][order].double().cumsum(0)
        index = int(torch.searchsorted(share / share[-1], 0.95))
        directed.append(float(distance[order][min(index, len(distance) - 1)]))
    return max(directed)
