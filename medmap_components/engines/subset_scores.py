"""Dice and HD95 of every study in every situation of missing modalities, as tables and a figure."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from medmap_components.engines.subset_evaluator import SubsetEvaluator, SubsetEvents
from medmap_components.inferers import SubsetSlidingWindowInferer
from medmap_components.metrics import (
    CaseScore,
    Conventions,
    case_table,
    describe_summary,
    score_study,
    summarise,
    summary_table,
)
from medmap_components.metrics.full_grid import full_grid
from medmap_components.metrics.protocol import RunIdentity, make_protocol, write_protocol
from medmap_components.visualize import draw_summary

__all__ = ["SubsetScores"]

logger = logging.getLogger(__name__)


class SubsetScores:
    """Scores what a :class:`SubsetEvaluator` segments, and writes an evaluation's folder.

    - ``cases.csv``: a line per study and subset;
    - ``summary.csv``, ``summary.md``, ``summary.png``: means over the studies, subsets in the literature's order;
    - ``protocol.json``: what was evaluated, and how. ``scripts/compare_bundles.py`` compares evaluations of one
      protocol only.

    A subset of which a study has nothing is left out for that study. Scores are those of the study's whole volume:
    what a crop cut off the reference counts as missed, and the distance that stands for an empty mask is the diagonal
    of the grid as it was read.

    Args:
        inferer: the evaluator's inferer, for its subsets and window.
        output_dir: folder of the files.
        bundle: name of what is evaluated; a path stands for its last part. Default ``"bundle"``.
        seed: seed that the weights were trained with, to tell repeated trainings apart. Default None: not known.
        checkpoint: file of the weights, for its hash. None: none is recorded.
        small_et: a predicted ET of fewer voxels is emptied for ``ET_pp``. Default 500, as in the literature.
        surface: definition of HD95, see :data:`medmap_components.metrics.SURFACES`. Default ``"voxels"``.
        settings: how images were prepared and computed with, name to value, for ``protocol.json``. Default: none.
        additions: further handlers, which are attached with this one, whose ``notes()`` are lines of ``summary.md``
            and whose ``numbers()`` are entries of ``protocol.json``'s ``"additions"``, such as
            :class:`~medmap_components.engines.LatentGap`. Entries of None are skipped. Default: none.

    Raises:
        ValueError: for an unknown surface or a negative ``small_et``.
    """

    def __init__(
        self,
        inferer: SubsetSlidingWindowInferer,
        output_dir: str,
        bundle: str = "bundle",
        seed: int | None = None,
        checkpoint: str | None = None,
        small_et: int = 500,
        surface: str = "voxels",
        settings: Mapping[str, Any] | None = None,
        additions: Sequence[Any] = (),
    ) -> None:
        self.inferer = inferer
        self.output_dir = Path(output_dir)
        self.identity = RunIdentity(Path(bundle).resolve().name, seed, checkpoint, settings or {})
        self.conventions = Conventions.checked(small_et, surface)
        self.additions = [addition for addition in additions if addition is not None]
        self.cases: list[CaseScore] = []
        self.references: dict[str, list[int]] = {}

    def attach(self, engine: Engine) -> None:
        """Hooks into the start of the run, each subset, and the end."""
        for addition in self.additions:
            addition.attach(engine)
        engine.add_event_handler(Events.STARTED, self._clear)
        engine.add_event_handler(SubsetEvents.SUBSET_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def write(self) -> None:
        """Writes the files and logs the summary."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        subsets = self.inferer.subsets
        summary = summarise(self.cases, [subset.name for subset in subsets])
        notes = [
            f"**reference without {name}**: {count} of {len(self.references)} studies"
            for name, count in self._empty().items()
        ]
        notes += [note for addition in self.additions for note in addition.notes()]
        text = describe_summary(summary, self.cases, subsets, self.conventions, self.identity.title(), notes)
        protocol = make_protocol(self.identity, self.inferer, self.conventions, self.cases, self.references)
        protocol["additions"] = {key: value for item in self.additions for key, value in item.numbers().items()}
        (self.output_dir / "cases.csv").write_text(case_table(self.cases), encoding="utf-8")
        (self.output_dir / "summary.csv").write_text(summary_table(summary), encoding="utf-8")
        (self.output_dir / "summary.md").write_text(text, encoding="utf-8")
        write_protocol(self.output_dir / "protocol.json", protocol)
        if self.cases:
            draw_summary(self.cases, subsets, self.output_dir / "summary.png", self.identity.title())
        logger.info("Scores by modalities, written to %s\n%s", self.output_dir, text)

    def _clear(self) -> None:
        self.cases.clear()
        self.references.clear()

    def _empty(self) -> dict[str, int]:
        return {
            "tumour": sum(sum(counts[1:]) == 0 for counts in self.references.values()),
            "tumour core": sum(counts[1] + counts[3] == 0 for counts in self.references.values()),
            "enhancing tumour": sum(counts[3] == 0 for counts in self.references.values()),
        }

    def _score(self, engine: SubsetEvaluator) -> None:
        output: Mapping[str, Any] = engine.state.output
        label, prediction, study = output[CommonKeys.LABEL], output[CommonKeys.PRED], str(output["study"])
        grid = full_grid(label)
        if study not in self.references:
            self.references[study] = grid.class_voxels.tolist()
            if int(grid.unseen[1:].sum()):
                logger.warning(
                    "%s: %d voxels of the reference lie outside what the network sees; they count as missed in Dice, "
                    "HD95 does not see them.",
                    study,
                    int(grid.unseen[1:].sum()),
                )
        if prediction is not None:
            scores = score_study(prediction, label, grid.spacing, grid.diagonal, self.conventions, grid.unseen)
            self.cases.append(CaseScore(study, output["subset"].name, str(output["shown"]), scores))
