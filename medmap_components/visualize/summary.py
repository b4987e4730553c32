"""The figure of an evaluation: Dice and HD95 in all situations of missing modalities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medmap_components.metrics.scores import METRICS, column
from medmap_components.metrics.subset_tables import CaseScore
from medmap_components.modalities import REGIONS, Subset
from medmap_components.visualize.palette import REGION_COLOURS, draw_subset_matrix, plain_axes

__all__ = ["draw_summary"]

AXIS_LABELS = {"Dice": "Dice", "HD95": "HD95 (mm)"}
OFFSETS = (-0.24, 0.0, 0.24)


def draw_summary(cases: Sequence[CaseScore], subsets: Sequence[Subset], path: str | Path, title: str = "") -> Path:
    """Draws a panel per metric with a column per subset: a faint point per study, and the mean of each region.

    Args:
        cases: the scores, at least one.
        subsets: the columns; those without a study are left out.
        path: file to write; its ending decides the format.
        title: heading.

    Returns:
        ``path``.

    Raises:
        ValueError: when no subset has a study.
    """
    scored = {case.subset for case in cases}
    shown = [subset for subset in subsets if subset.name in scored]
    if not shown:
        raise ValueError("cases holds no study of any of the subsets; there is nothing to draw.")
    figure = Figure(figsize=(max(5.0, 2.0 + 0.72 * len(shown)), 7.2), facecolor="white", layout="constrained")
    panels = figure.subplots(len(METRICS) + 1, 1, sharex=True, height_ratios=[3, 3, 1.05])
    for panel, metric in zip(panels, METRICS, strict=False):
        _draw_metric(panel, cases, shown, metric)
    panels[0].set_ylim(-0.03, 1.03)
    panels[1].set_ylim(bottom=0)
    draw_subset_matrix(panels[-1], shown)
    panels[-1].set_xlim(-0.6, len(shown) - 0.4)
    figure.suptitle(f"{title}{' · ' if title else ''}{len({case.study for case in cases})} studies", fontsize=12)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _draw_metric(panel: Axes, cases: Sequence[CaseScore], subsets: Sequence[Subset], metric: str) -> None:
    for region, offset in zip(REGIONS, OFFSETS, strict=True):
        key, colour = column(metric, region), REGION_COLOURS[region]
        means = []
        for x, subset in enumerate(subsets):
            values = [case.scores[key] for case in cases if case.subset == subset.name]
            means.append(float(np.mean(values)))
            panel.plot([x + offset] * len(values), values, ".", color=colour, alpha=0.35, markersize=5, mew=0)
        places = np.arange(len(subsets)) + offset
        panel.plot(places, means, "_", color=colour, markersize=12, markeredgewidth=2.6, label=f"{region} (mean)")
    for x in range(len(subsets) - 1):
        panel.axvline(x + 0.5, color="#f0f0f0", linewidth=0.8, zorder=0)
    panel.set_ylabel(AXIS_LABELS[metric], fontsize=11)
    plain_axes(panel)
    panel.tick_params(axis="x", length=0)
