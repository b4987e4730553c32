"""What is said of weights for demonstration: ``weights.md``, which goes into the bundle beside them."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

SHOWN = ("all", "FLAIR+T1+T2", "FLAIR", "T2", "T1ce", "T1", "average")
CONTRASTS_WERE_FITTED = (
    "The phantom's contrasts were fitted with a view to real cases, which may be these, so this is no independent test."
)
REGIONS = {"WT": "whole tumour", "TC": "tumour core", "ET": "enhancing tumour"}


class Training(NamedTuple):
    """Facts of a training.

    Attributes:
        bundle: name of the bundle.
        study: name of the study that it belongs to.
        parameters: of the network whose weights these are.
        phantoms: cases that were trained on.
        voxel_mm: their voxel size.
        generator_version: of the phantom.
        epochs: that were trained.
        cpu_minutes: of processor time that this took.
        overrides: settings that are not the bundle's own.
    """

    bundle: str
    study: str
    parameters: int
    phantoms: int
    voxel_mm: float
    generator_version: int
    epochs: int
    cpu_minutes: float
    overrides: Mapping[str, object]


class Scores(NamedTuple):
    """Dice of one evaluation.

    Attributes:
        cases: how many studies it had.
        values: region to subset to mean Dice.
    """

    cases: int
    values: Mapping[str, Mapping[str, float]]


def read_scores(evaluation_dir: Path) -> Scores:
    """The means of an evaluation.

    Args:
        evaluation_dir: with ``summary.csv`` and ``cases.csv``.
    """
    with (evaluation_dir / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "Dice" and row["region"] in REGIONS]
    with (evaluation_dir / "cases.csv").open(newline="", encoding="utf-8") as file:
        cases = {row["study"] for row in csv.DictReader(file)}
    values = {row["region"]: {name: float(row[name]) for name in SHOWN if row.get(name)} for row in rows}
    return Scores(len(cases), values)


def score_table(scores: Scores) -> str:
    """Subsets and the average of all that were evaluated, as a table of means of Dice."""
    head = f"| modalities | {' | '.join(REGIONS.values())} |\n|---|{'---|' * len(REGIONS)}\n"
    names = [name for name in SHOWN if all(name in scores.values[region] for region in REGIONS)]
    lines = [
        f"| {name} | {' | '.join(f'{scores.values[region][name]:.3f}' for region in REGIONS)} |\n" for name in names
    ]
    return head + "".join(lines)


def describe(training: Training, phantom: Scores, real: Scores | None, real_cases: str = "") -> str:
    """The text of ``weights.md``.

    Args:
        training: how the weights came about.
        phantom: scores on phantoms that neither trained the weights nor chose among them.
        real: scores on real cases. None: they were not measured.
        real_cases: which cases these are, and where they come from.
    """
    settings = ", ".join(f"`{key}` {value}" for key, value in training.overrides.items())
    made = (
        f"A network of {training.parameters / 1e6:.1f} million parameters that saw {training.phantoms} synthetic "
        f"phantoms (version {training.generator_version}) of {training.voxel_mm:g} mm for {training.epochs} epochs, "
        f"which took {training.cpu_minutes:.0f} minutes of processor time, with {settings or 'its own settings'}:"
    )
    scored = f"Mean Dice over {phantom.cases} further phantoms (`evaluate.json`; average: of all 15 subsets):"
    return f"""# The weights in this bundle

**A demonstration, not for patients.** `models/model.pt` lets the commands, the pictures and the tests show something
real. It was never trained on a patient, and nobody should rely on what it marks.

{paragraph(made)}

    python scripts/train_release_weights.py docs/study/{training.study}.json --only {training.bundle}

Images are brought to {training.voxel_mm:g} mm before they are segmented (`models/model.json`), and back afterwards.

{paragraph(scored)}

{score_table(phantom)}
{_real_text(real, real_cases)}"""


def paragraph(text: str) -> str:
    """Text in lines of 120 characters."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _real_text(real: Scores | None, cases: str) -> str:
    if real is None:
        return "How they do on real cases was not measured.\n"
    scored = (
        f"Mean Dice over {real.cases} real cases, on their own grids ({cases}). {CONTRASTS_WERE_FITTED} "
        "Average: of the subsets above."
    )
    return f"{paragraph(scored)}\n\n{score_table(real)}"
