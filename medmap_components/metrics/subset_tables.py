"""Tables of scores over studies and subsets: one line per case, and means laid out as the literature does it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medmap_components.metrics.scores import METRICS, SCORED_REGIONS, Conventions, column
from medmap_components.modalities import MODALITIES, MODALITY_LABELS, Subset

__all__ = [
    "AVERAGE",
    "CaseScore",
    "Summary",
    "case_table",
    "describe_summary",
    "read_cases",
    "summarise",
    "summary_table",
]

AVERAGE = "average"
"""Name of the column that averages over the subsets."""

Summary = dict[str, dict[str, float]]
"""Column of scores (``"Dice_WT"``) to subset name, and ``"average"`` for the last, to mean."""


class CaseScore(NamedTuple):
    """The scores of one study in one situation.

    Attributes:
        study: name.
        subset: the subset that was asked for.
        shown: what the study has of it.
        scores: one number per column, as :func:`~medmap_components.metrics.score_study` gives them.
    """

    study: str
    subset: str
    shown: str
    scores: dict[str, float]


def case_table(cases: Sequence[CaseScore]) -> str:
    """CSV with one line per study and subset; numbers have the digits that give the same float back."""
    columns = [column(metric, region) for metric in METRICS for region in SCORED_REGIONS]
    rows = [
        [case.study, case.subset, case.shown, *(repr(float(case.scores[name])) for name in columns)] for case in cases
    ]
    return _csv([["study", "subset", "shown", *columns], *rows])


def read_cases(path: str | Path) -> list[CaseScore]:
    """Reads what :func:`case_table` gave.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it has other columns.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the output folder of an evaluation, which holds it.")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        wanted = ["study", "subset", "shown", *(column(m, r) for m in METRICS for r in SCORED_REGIONS)]
        missing = [name for name in wanted if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path} lacks the columns {missing}; was it written by this version? Evaluate again.")
        return [
            CaseScore(row["study"], row["subset"], row["shown"], {name: float(row[name]) for name in wanted[3:]})
            for row in reader
        ]


def summarise(cases: Sequence[CaseScore], subsets: Sequence[str]) -> Summary:
    """Means over the studies per subset, and the average of these means.

    Args:
        cases: the scores.
        subsets: names in the order of the columns; those without a study are left out.
    """
    summary: Summary = {}
    present = [name for name in subsets if any(case.subset == name for case in cases)]
    for key in [column(metric, region) for metric in METRICS for region in SCORED_REGIONS]:
        row = {name: float(np.mean([case.scores[key] for case in cases if case.subset == name])) for name in present}
        summary[key] = {**row, AVERAGE: float(np.mean(list(row.values())))} if row else {}
    return summary


def summary_table(summary: Summary) -> str:
    """CSV with a line per metric and region, and a column per subset and for their average."""
    names = list(next(iter(summary.values()), {}))
    rows = [[*key.split("_", 1), *(f"{value:.6f}" for value in row.values())] for key, row in summary.items()]
    return _csv([["metric", "region", *names], *rows])


def describe_summary(
    summary: Summary,
    cases: Sequence[CaseScore],
    subsets: Sequence[Subset],
    conventions: Conventions,
    heading: str = "",
    notes: Sequence[str] = (),
) -> str:
    """Markdown: a table per metric with the subsets as columns, as the literature's, then how it was measured.

    Args:
        summary: from :func:`summarise`.
        cases: the scores behind it.
        subsets: the subsets; their order is that of the columns.
        conventions: those that were used.
        heading: what was evaluated.
        notes: further lines.
    """
    studies = {case.study for case in cases}
    lines = [f"# {heading or 'Evaluation'}", "", f"Means over {len(studies)} studies.", ""]
    shown = [subset for subset in subsets if subset.name in next(iter(summary.values()), {})]
    for metric in METRICS:
        unit, factor, digits = ("%", 100, 2) if metric == "Dice" else ("mm", 1, 2)
        lines += [_row([f"{metric} ({unit})", *(subset.name for subset in shown), AVERAGE])]
        lines += ["|---|" + "---:|" * (len(shown) + 1)]
        for index, modality in enumerate(MODALITIES):
            marks = ["●" if subset.mask[index] else "○" for subset in shown]
            lines += [_row([MODALITY_LABELS[modality], *marks, ""])]
        for region in SCORED_REGIONS:
            values = [f"{value * factor:.{digits}f}" for value in summary[column(metric, region)].values()]
            lines += [_row([region, *values])]
        counts = [str(sum(case.subset == subset.name for case in cases)) for subset in shown]
        lines += [_row(["studies", *counts, ""]), ""]
    lines += [f"- **{name}**: {text}." for name, text in conventions.described().items()]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
