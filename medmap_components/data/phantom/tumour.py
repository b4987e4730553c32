"""The tumour: where it lies, how it pushes the brain aside, and which voxels are oedema, core and enhancing rim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medmap_components.data.phantom.anatomy import Anatomy, HeadGrid, sample_tissues, transform_points
from medmap_components.data.phantom.fields import (
    BoolArray,
    FloatArray,
    LabelArray,
    blur,
    depth_inside,
    largest_components,
    ramp,
    smooth_field,
)
from medmap_components.data.phantom.parameters import LESION_KINDS

__all__ = ["EDEMA", "ENHANCING", "NECROSIS", "Focus", "TumourPlan", "grow_tumour", "plan_tumour", "tumour_distance"]

NECROSIS, EDEMA, ENHANCING = 1, 2, 4
"""The label codes of BraTS 2018 to 2021."""

SMALLEST_SPECK_MM3 = {ENHANCING: 12.0, NECROSIS: 20.0, EDEMA: 60.0}
"""Separate pieces smaller than this are dropped, as raters draw no specks."""


@dataclass(frozen=True)
class Focus:
    """One of a tumour's cores.

    Attributes:
        centre: position relative to the brain's centre, mm.
        scale: radius relative to the largest focus.
    """

    centre: tuple[float, float, float]
    scale: float = 1.0


@dataclass(frozen=True)
class TumourPlan:
    """What is drawn before the tumour grows.

    Attributes:
        kind: a name in ``LESION_KINDS``.
        whole_ml: volume of the whole tumour, mL.
        core_fraction: share of the core (necrosis and enhancing tumour) in it.
        foci: its cores, the largest first.
        shape: ``(3, 3)``, stretches the tumour along random axes and keeps its volume.
    """

    kind: str
    whole_ml: float
    core_fraction: float
    foci: tuple[Focus, ...]
    shape: FloatArray

    @property
    def whole_radius(self) -> float:
        """Radius of the largest focus with its oedema, as if it were a sphere, mm."""
        relative_volume = sum(focus.scale**3 for focus in self.foci)
        return float((3 * self.whole_ml * 1e3 / (4 * np.pi * relative_volume)) ** (1 / 3))

    @property
    def core_radius(self) -> float:
        """The same of its core, mm."""
        return float(self.whole_radius * self.core_fraction ** (1 / 3))


def plan_tumour(rng: np.random.Generator, grid: HeadGrid, sources: FloatArray, kind: str | None = None) -> TumourPlan:
    """Draw a tumour's kind, size, shape and place.

    Args:
        rng: the source of randomness.
        grid: the head's box.
        sources: the head's warp, see ``warp_head``.
        kind: a name in ``LESION_KINDS``; None draws one.

    Returns:
        The plan.
    """
    names = list(LESION_KINDS)
    drawn = rng.choice(names, p=[LESION_KINDS[name].share for name in names])
    kind = str(drawn) if kind is None else kind
    whole_ml = float(np.clip(np.exp(rng.normal(np.log(95), 0.62)), 18, 260))
    core_fraction = float(np.clip(rng.normal(LESION_KINDS[kind].core_fraction, 0.14), 0.08, 0.8))
    stretch = np.diag(rng.uniform(0.8, 1.25, 3))
    stretch /= np.linalg.det(stretch) ** (1 / 3)
    axes = Rotation.from_quat(rng.standard_normal(4)).as_matrix()
    shape = (axes @ stretch @ axes.T).astype(np.float32)
    scales = [1.0, *rng.uniform(0.45, 0.85, 2)][: int(rng.integers(*LESION_KINDS[kind].foci, endpoint=True))]
    unplaced = tuple(Focus((0.0, 0.0, 0.0), float(scale)) for scale in scales)
    plan = TumourPlan(kind, whole_ml, core_fraction, unplaced, shape)
    return replace(plan, foci=_place_foci(rng, plan, grid, sources))


def _place_foci(rng: np.random.Generator, plan: TumourPlan, grid: HeadGrid, sources: FloatArray) -> tuple[Focus, ...]:
    """Put the largest focus deep into white matter, and the others at some distance from it in the same half."""
    step = max(1, round(4 / grid.spacing))
    coarse = grid.every(step)
    csf, gm, wm = sample_tissues(sources[:, ::step, ::step, ::step], grid.extent)
    brain = (csf + gm + wm) > 0.5
    depth = depth_inside(brain, coarse.spacing)
    deep = depth > np.clip(0.55 * plan.core_radius + 4, 9, 26)
    candidates = (wm > 0.6) & deep & (coarse.positions[2] > -0.22 * grid.extent[2])
    if not candidates.any():
        candidates = (wm > 0.4) & brain
    first = _pick_position(rng, candidates, coarse.positions)
    foci = [replace(plan.foci[0], centre=first)]
    for focus in plan.foci[1:]:
        distance = _distance_to(first, coarse.positions) / plan.whole_radius
        same_half = coarse.positions[0] * first[0] > 0
        around = (wm > 0.5) & (depth > 8) & (distance > 1.0) & (distance < 1.9) & same_half
        centre = _pick_position(rng, around if around.any() else candidates, coarse.positions)
        foci.append(replace(focus, centre=centre))
    return tuple(foci)


def _pick_position(rng: np.random.Generator, mask: BoolArray, positions: FloatArray) -> tuple[float, float, float]:
    """One voxel of a mask at random. A voxel more or less in the mask moves the choice by one voxel at most."""
    voxels = np.argwhere(mask)
    x, y, z = positions[(slice(None), *voxels[int(rng.random() * len(voxels))])]
    return float(x), float(y), float(z)


def _distance_to(centre: tuple[float, float, float], positions: FloatArray) -> FloatArray:
    x, y, z = (positions[axis] - np.float32(centre[axis]) for axis in range(3))
    distance: FloatArray = np.sqrt(x * x + y * y + z * z)
    return distance


def tumour_distance(
    rng: np.random.Generator, plan: TumourPlan, grid: HeadGrid, matrix: FloatArray, sources: FloatArray
) -> FloatArray:
    """Distance to the nearest focus, and the mass effect: tissue around a core is pushed outwards.

    Args:
        rng: the source of randomness.
        plan: the tumour.
        grid: the head's box.
        matrix: the linear part of the head's warp.
        sources: the head's warp; changed in place by the mass effect.

    Returns:
        ``(X, Y, Z)``, mm in the tumour's own stretched axes; smaller foci count as farther away.
    """
    nearest: FloatArray | None = None
    strength = rng.uniform(0.25, 0.55)
    for focus in plan.foci:
        offsets = grid.positions - np.array(focus.centre, dtype=np.float32).reshape(3, 1, 1, 1)
        stretched = transform_points(plan.shape, offsets)
        distance = np.sqrt((stretched * stretched).sum(axis=0))
        radius = np.float32(plan.core_radius * focus.scale)
        push = strength * radius * np.exp(-((distance / (1.9 * radius)) ** 2)) / (distance + 0.6 * radius)
        sources -= transform_points(matrix, offsets) * push.astype(np.float32)
        scaled = distance / np.float32(focus.scale)
        nearest = scaled if nearest is None else np.minimum(nearest, scaled)
    assert nearest is not None  # a plan has at least one focus
    return nearest


@dataclass(frozen=True)
class _Roughness:
    """Smooth random fields that make a tumour's borders irregular, by size of their bumps: 26, 13 and 5.5 mm."""

    coarse: FloatArray
    middle: FloatArray
    fine: FloatArray


def grow_tumour(
    rng: np.random.Generator, plan: TumourPlan, grid: HeadGrid, anatomy: Anatomy, distance: FloatArray
) -> LabelArray:
    """Label oedema, core and enhancing tumour.

    Args:
        rng: the source of randomness.
        plan: the tumour.
        grid: the head's box.
        anatomy: the head's tissues.
        distance: to the nearest focus, see ``tumour_distance``.

    Returns:
        ``(X, Y, Z)`` with 0 background, 1 necrotic or non-enhancing core, 2 oedema, 4 enhancing tumour.
    """
    draws = rng.random(8).tolist()
    rough = _Roughness(*(smooth_field(rng, grid.shape, feature, grid.spacing) for feature in (26, 13, 5.5)))
    core = _grow_core(plan, grid, anatomy, distance, rough)
    edema = _grow_edema(plan, grid, anatomy, distance, rough, core)
    # mostly one lesion per focus, sometimes a separate patch more
    lesion = largest_components(edema | core, len(plan.foci) + int(draws[0] < 0.35))
    core, edema = core & lesion, edema & lesion
    enhancing = _enhance(plan, core, rough, grid.spacing, draws[1:5])
    if draws[5] < 0.3 and LESION_KINDS[plan.kind].enhancement != "sparse":
        enhancing |= _satellite(rng, plan, grid, edema, distance, rough) & anatomy.brain
    label = np.zeros(grid.shape, dtype=np.uint8)
    label[edema] = EDEMA
    label[core] = NECROSIS
    label[enhancing] = ENHANCING
    return _drop_specks(label, grid.spacing) * anatomy.brain


def _grow_core(
    plan: TumourPlan, grid: HeadGrid, anatomy: Anatomy, distance: FloatArray, rough: _Roughness
) -> BoolArray:
    level = distance / np.float32(plan.core_radius) + 0.17 * rough.middle + 0.055 * rough.fine
    near = distance < 3.2 * plan.whole_radius
    limit = _limit_for_volume(level[anatomy.brain & near], plan.whole_ml * plan.core_fraction, grid.spacing)
    ventricle = (anatomy.csf > 0.8) & (level > 0.8)
    core: BoolArray = (level < limit) & anatomy.brain & ~ventricle
    return core


def _grow_edema(
    plan: TumourPlan, grid: HeadGrid, anatomy: Anatomy, distance: FloatArray, rough: _Roughness, core: BoolArray
) -> BoolArray:
    """Oedema spreads in fingers along white matter, stays out of fluid and rarely crosses the falx."""
    middle = plan.foci[0].centre[0]
    level = distance / np.float32(plan.whole_radius) + 0.26 * rough.coarse + 0.12 * rough.middle
    level -= 0.75 * (blur(anatomy.wm, 1.6, grid.spacing) - 0.5)
    level += 0.55 * blur(anatomy.csf, 1.0, grid.spacing)
    if abs(middle) > 8:
        level += 0.9 * ramp(-np.float32(np.sign(middle)) * grid.positions[0] / 6)
    allowed = anatomy.brain & (anatomy.csf < 0.5) & ~core
    near = distance < 3.2 * plan.whole_radius
    limit = _limit_for_volume(level[allowed & near], plan.whole_ml * (1 - plan.core_fraction), grid.spacing)
    edema: BoolArray = (level < limit) & allowed
    return edema


def _limit_for_volume(levels: FloatArray, volume_ml: float, spacing: float) -> float:
    """The level below which lie as many voxels as the volume asks for."""
    count = min(levels.size - 1, max(0, int(volume_ml * 1e3 / spacing**3)))
    return float(np.partition(levels, count)[count])


def _enhance(
    plan: TumourPlan,
    core: BoolArray,
    rough: _Roughness,
    spacing: float,
    draws: Sequence[float],
) -> BoolArray:
    """Which part of the core takes up contrast agent."""
    enhancement = LESION_KINDS[plan.kind].enhancement
    if enhancement == "ring":
        # the rim's thickness varies and may break open; septa and nodules lie inside
        thickness = (1.5 + 5.0 * draws[0]) * (1 + 0.60 * rough.middle + 0.40 * rough.fine)
        to_surface = depth_inside(core, spacing) - spacing / 2
        enhancing = (to_surface < thickness) | (rough.fine > 1.5 + 0.9 * draws[1])
    elif enhancement == "solid":
        enhancing = rough.middle + 0.6 * rough.fine < 0.5 + 1.1 * draws[0]
    elif draws[2] < 0.6:
        enhancing = rough.middle + 0.5 * rough.fine > 2.0 + 1.6 * draws[0]
    else:
        enhancing = np.zeros_like(core)
    return np.logical_and(core, enhancing)


def _satellite(
    rng: np.random.Generator,
    plan: TumourPlan,
    grid: HeadGrid,
    edema: BoolArray,
    distance: FloatArray,
    rough: _Roughness,
) -> BoolArray:
    """A small enhancing nodule inside the oedema, away from the core."""
    places = edema & (distance > 0.6 * plan.whole_radius) & (distance < 1.6 * plan.whole_radius)
    if not places.any():
        return np.zeros_like(edema)
    centre = _pick_position(rng, places, grid.positions)
    nodule: BoolArray = _distance_to(centre, grid.positions) + 1.2 * rough.fine < rng.uniform(3, 7)
    return nodule


def _drop_specks(label: LabelArray, spacing: float) -> LabelArray:
    """Turn tiny separate pieces into oedema, and tiny pieces of oedema into background."""
    for code, smallest in SMALLEST_SPECK_MM3.items():
        pieces, count = ndimage.label(label == code)
        if count > 1:
            tiny = np.bincount(pieces.ravel()) < smallest / spacing**3
            tiny[0] = False
            label[tiny[pieces]] = EDEMA if code != EDEMA else 0
    return label
