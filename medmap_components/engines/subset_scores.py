"""Dice of every study in every situation of missing modalities, as tables."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines import Workflow
from monai.utils.enums import CommonKeys
from torch import Tensor

from medmap_components.inferers import SubsetSlidingWindowInferer
from medmap_components.metrics import region_dice
from medmap_components.modalities import REGIONS

__all__ = ["SubsetDice"]

logger = logging.getLogger(__name__)


class _Score(NamedTuple):
    study: str
    subset: str
    dice: dict[str, float]


class SubsetDice:
    """Scores an evaluator whose inferer is a :class:`SubsetSlidingWindowInferer`, and writes two tables.

    ``cases.csv`` has one line per study and subset, ``summary.csv`` and ``summary.md`` the means over the studies. A
    subset of which a study has nothing is left out for that study. Dice of a region that is empty in both
    segmentations is 1, in one of them 0.

    Args:
        inferer: the evaluator's inferer, for the names of its subsets.
        output_dir: folder of the tables.
    """

    def __init__(self, inferer: SubsetSlidingWindowInferer, output_dir: str) -> None:
        self.subsets = [subset.name for subset in inferer.subsets]
        self.output_dir = Path(output_dir)
        self.scores: list[_Score] = []

    def attach(self, engine: Engine) -> None:
        """Hooks into the start of the run, each study, and the end."""
        engine.add_event_handler(Events.STARTED, self.scores.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean Dice per subset and region over the studies that show something of the subset."""
        table: dict[str, dict[str, float]] = {}
        for subset in self.subsets:
            rows = [score.dice for score in self.scores if score.subset == subset]
            if rows:
                table[subset] = {region: float(np.mean([row[region] for row in rows])) for region in REGIONS}
        return table

    def write(self) -> None:
        """Writes the tables and logs the summary."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with (self.output_dir / "cases.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["study", "subset", *REGIONS])
            for score in self.scores:
                writer.writerow([score.study, score.subset, *(f"{score.dice[region]:.4f}" for region in REGIONS)])
        summary = self.summary()
        with (self.output_dir / "summary.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["subset", *REGIONS])
            writer.writerows([subset, *(f"{dice:.4f}" for dice in row.values())] for subset, row in summary.items())
        text = _markdown(summary, len({score.study for score in self.scores}))
        (self.output_dir / "summary.md").write_text(text)
        logger.info("Dice by modalities, written to %s\n%s", self.output_dir, text)

    def _score(self, engine: Workflow) -> None:
        for output in engine.state.output:
            study = _study_of(output[CommonKeys.IMAGE])
            for subset, logits in zip(self.subsets, output[CommonKeys.PRED], strict=True):
                if not bool(logits.isnan().any()):
                    self.scores.append(_Score(study, subset, region_dice(logits, output[CommonKeys.LABEL])))


def _study_of(image: Tensor) -> str:
    source = str(image.meta.get("filename_or_obj", "")) if isinstance(image, MetaTensor) else ""
    return Path(source).name.split(".nii")[0] or "study"


def _markdown(summary: dict[str, dict[str, float]], studies: int) -> str:
    lines = [f"Mean Dice over {studies} studies", "", f"| modalities | {' | '.join(REGIONS)} |", "|---|" + "---|" * 3]
    lines += [f"| {subset} | {' | '.join(f'{dice:.3f}' for dice in row.values())} |" for subset, row in summary.items()]
    return "\n".join(lines) + "\n"
