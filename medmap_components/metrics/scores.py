"""Dice and HD95 of one segmented study, with the conventions of the field for empty regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medmap_components.metrics.hausdorff import SURFACES, bounding_box, hausdorff95
from medmap_components.metrics.regions import region_dice, regions_from_classes
from medmap_components.modalities import CLASS_NAMES, REGIONS

__all__ = ["METRICS", "SCORED_REGIONS", "Conventions", "column", "score_study"]

METRICS: tuple[str, ...] = ("Dice", "HD95")
"""What is measured. Dice from 0 to 1, HD95 in mm."""

FILTERED = "ET_pp"
SCORED_REGIONS: tuple[str, ...] = (*REGIONS, FILTERED)
"""The regions that are scored; ``ET_pp`` is ET after small predictions were removed, see :class:`Conventions`."""


class Conventions(NamedTuple):
    """What the definitions of Dice and HD95 leave open.

    Attributes:
        small_et: a prediction of ET that has fewer voxels than this is emptied for ``ET_pp``; other regions stay as
            they are. The literature's number is 500.
        surface: the definition of HD95, one of :data:`~medmap_components.metrics.hausdorff.SURFACES`.
    """

    small_et: int = 500
    surface: str = "voxels"

    @classmethod
    def checked(cls, small_et: int, surface: str) -> Conventions:
        """The conventions, with bad ones refused.

        Raises:
            ValueError: for a negative ``small_et`` or an unknown ``surface``.
        """
        if small_et < 0:
            raise ValueError(f"small_et must be a number of voxels from 0 on, got {small_et}.")
        if surface not in SURFACES:
            raise ValueError(f"surface must be one of {list(SURFACES)}, got {surface!r}.")
        return cls(small_et, surface)

    def described(self) -> dict[str, str]:
        """The conventions in words, for reports."""
        return {
            "Dice": "2 |P and T| / (|P| + |T|) of a study's whole volume; both empty: 1; one empty: 0",
            "HD95": f"{SURFACES[self.surface]}; in mm; both empty: 0; one empty: the diagonal of the study's full, "
            "uncropped grid",
            FILTERED: f"ET after a predicted ET of fewer than {self.small_et} voxels in the whole study was emptied",
            "mean": "over the studies; a study that shows nothing of a subset does not count there, and one that "
            "shows a part of it counts with that part",
        }


def column(metric: str, region: str) -> str:
    """The name of a score in tables, such as ``"Dice_WT"``."""
    return f"{metric}_{region}"


def score_study(
    prediction: Tensor,
    target: Tensor,
    spacing: Sequence[float],
    diagonal: float,
    conventions: Conventions | None = None,
    unseen: Tensor | None = None,
) -> dict[str, float]:
    """Dice and HD95 of every region of one study.

    Args:
        prediction: label map ``(1, D, H, W)`` of classes 0 to 3, or scores ``(4, D, H, W)``.
        target: label map ``(1, D, H, W)`` of classes 0 to 3.
        spacing: voxel size per axis in mm.
        diagonal: of the study's full grid, in mm.
        conventions: None: the defaults of :class:`Conventions`.
        unseen: voxels per class of the reference outside the given volume, which was cropped; ``(4,)``. They count as
            missed in Dice. None: there are none.

    Returns:
        One number per :func:`column`, metrics first: ``{"Dice_WT": ..., ..., "HD95_ET_pp": ...}``.

    Raises:
        ValueError: when the sizes differ, or for values that are not classes.
    """
    conventions = conventions or Conventions()
    if prediction.shape[0] == len(CLASS_NAMES):
        prediction = prediction.argmax(dim=0, keepdim=True)
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target must be of one size, got {tuple(prediction.shape)} and {tuple(target.shape)}."
        )
    pair = [image.as_subclass(Tensor)[0].cpu() for image in (prediction, target)]
    box = bounding_box((pair[0] != 0) | (pair[1] != 0))
    pair = [image[box][None] for image in pair]
    if pair[0].numel() == 0:  # nothing in either; the metrics want a voxel
        pair = [torch.zeros(1, 1, 1, 1) for _ in pair]
    dice = region_dice(pair[0], pair[1])
    masks = [dict(zip(REGIONS, regions_from_classes(image).bool(), strict=True)) for image in pair]
    distance = {
        region: hausdorff95(masks[0][region], masks[1][region], spacing, diagonal, conventions.surface)
        for region in REGIONS
    }
    dice[FILTERED], distance[FILTERED] = dice["ET"], distance["ET"]
    if 0 < int(masks[0]["ET"].sum()) < conventions.small_et:
        empty = not bool(masks[1]["ET"].any())
        dice[FILTERED], distance[FILTERED] = (1.0, 0.0) if empty else (0.0, float(diagonal))
    if unseen is not None and int(unseen.sum()):
        dice, distance = _with_unseen(dice, distance, masks, unseen, diagonal)
    scores = {column("Dice", region): dice[region] for region in SCORED_REGIONS}
    return scores | {column("HD95", region): distance[region] for region in SCORED_REGIONS}


def _with_unseen(
    dice: dict[str, float],
    distance: dict[str, float],
    masks: Sequence[dict[str, Tensor]],
    unseen: Tensor,
    diagonal: float,
) -> tuple[dict[str, float], dict[str, float]]:
    """Dice with the voxels of the reference that were cut away as missed; HD95 where they are all of a region."""
    dice, distance = dict(dice), dict(distance)
    for region in SCORED_REGIONS:
        name = "ET" if region == FILTERED else region
        missed = int(unseen[list(REGIONS[name])].sum())
        inside = int(masks[0][name].sum()) + int(masks[1][name].sum())
        if missed and not bool(masks[1][name].any()):
            dice[region], distance[region] = 0.0, float(diagonal)
        elif missed:
            dice[region] *= inside / (inside + missed)
    return dice, distance
