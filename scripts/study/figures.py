"""The figures of a study's page: learning curves, and the modality gap against the gain in Dice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medmap_components.modalities import REGIONS
from medmap_components.visualize.palette import REGION_COLOURS, SERIES_COLOURS, plain_axes
from study.analysis import GAPS, Gain, group_of
from study.definition import method_name

CURVES = {
    "val_mean_dice": "validation Dice, mean of regions",
    "fused_dice": "Dice loss of the fused output",
    "alignment": "alignment loss",
    "feature_variance_level_1": "variance of the features, level 1",
}
LINES = ("-", "--", ":", "-.")


def draw_curves(rows: Sequence[Mapping[str, str]], path: Path, title: str) -> bool:
    """Draws a panel per curve: a thin line per seed and fold, a thick one for their mean, a colour per method.

    Args:
        rows: of ``curves.csv``.
        path: file to write.
        title: heading.

    Returns:
        Whether there was anything to draw.
    """
    shown = [curve for curve in CURVES if any(row["curve"] == curve for row in rows)]
    if not shown:
        return False
    methods = list(dict.fromkeys(method_name(row["bundle"], row["setting"]) for row in rows))
    looks = {name: (SERIES_COLOURS[i % 6], LINES[i // 6 % 4]) for i, name in enumerate(methods)}
    figure = Figure(figsize=(4.2 * len(shown), 4.0), facecolor="white", layout="constrained")
    for panel, curve in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for name, (colour, dashes) in looks.items():
            own = [row for row in rows if row["curve"] == curve and method_name(row["bundle"], row["setting"]) == name]
            epochs: defaultdict[int, list[float]] = defaultdict(list)
            for run in dict.fromkeys(row["run"] for row in own):
                points = [(int(row["epoch"]), float(row["value"])) for row in own if row["run"] == run]
                panel.plot(*zip(*points, strict=True), color=colour, linestyle=dashes, linewidth=0.7, alpha=0.4)
                for epoch, value in points:
                    epochs[epoch].append(value)
            means = [float(np.mean(values)) for values in epochs.values()]
            panel.plot(list(epochs), means, color=colour, linestyle=dashes, linewidth=1.8, marker=".", label=name)
        panel.set_title(CURVES[curve], fontsize=10)
        panel.set_xlabel("epoch", fontsize=9)
        plain_axes(panel)
    handles = [Line2D([], [], color=colour, linestyle=dashes, label=name) for name, (colour, dashes) in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12)
    return _save(figure, path)


def draw_gap(gains: Sequence[Gain], path: Path) -> bool:
    """Draws a panel per measure of the gap: how far a seed's gap changed, and what it gained in Dice.

    Args:
        gains: of the study.
        path: file to write.

    Returns:
        Whether there was anything to draw.
    """
    shown = [gap for gap in GAPS if any(np.isfinite(gain.gaps[gap]).all() for gain in gains)]
    if not shown:
        return False
    figure = Figure(figsize=(4.0 * len(shown), 3.8), facecolor="white", layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for panel, gap in zip(panels, shown, strict=True):
        panel.axhline(0, color="#888888", linewidth=1, zorder=0)
        panel.axvline(0, color="#888888", linewidth=1, zorder=0)
        for region in REGIONS:
            points = [(gain.gaps[gap][1] - gain.gaps[gap][0], 100 * gain.dice[region]) for gain in gains]
            panel.plot(*zip(*points, strict=True), "o", color=REGION_COLOURS[region], markersize=5, label=region)
        panel.set_xlabel(f"change of the gap: {GAPS[gap]}", fontsize=9)
        plain_axes(panel)
    panels[0].set_ylabel("gain in Dice, percentage points", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle("A point per comparison, seed and region", fontsize=11)
    return _save(figure, path)


def curves_of(rows: Sequence[Mapping[str, str]], data: str, methods: Sequence[str]) -> list[Mapping[str, str]]:
    """The rows of ``curves.csv`` of some methods on one data group."""
    return [
        row for row in rows if group_of(row["data"]) == data and method_name(row["bundle"], row["setting"]) in methods
    ]


def _save(figure: Figure, path: Path) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return True
