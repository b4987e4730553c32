"""Forest plots of paired differences between methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medmap_components.metrics.comparison import Difference
from medmap_components.modalities import REGIONS
from medmap_components.visualize.palette import INK, SERIES_COLOURS, plain_axes

__all__ = ["draw_forest"]

UNITS = {"Dice": "percentage points of Dice", "HD95": "mm of HD95"}
FACTORS = {"Dice": 100.0, "HD95": 1.0}


def draw_forest(
    differences: Sequence[Difference],
    path: str | Path,
    metric: str = "Dice",
    level: float = 0.05,
    corrected: bool = True,
) -> Path:
    """Draws a panel per region: the mean difference and its interval in each subset, a colour per method.

    Filled points are those whose P value is below the level.

    Args:
        differences: from :func:`~medmap_components.metrics.comparison.compare_methods`.
        path: file to write; its ending decides the format.
        metric: the metric to draw. Default ``"Dice"``.
        level: of significance. Default 0.05.
        corrected: whether the P values after Holm's correction decide. Default True.

    Returns:
        ``path``.

    Raises:
        ValueError: when ``differences`` hold nothing of the metric.
    """
    chosen = [difference for difference in differences if difference.metric == metric]
    if not chosen:
        raise ValueError(f"differences hold nothing of the metric {metric!r}; there is nothing to draw.")
    subsets = list(dict.fromkeys(difference.subset for difference in chosen))
    methods = list(dict.fromkeys(difference.method for difference in chosen))
    colours = {name: SERIES_COLOURS[index % len(SERIES_COLOURS)] for index, name in enumerate(methods)}
    height = 1.9 + 0.3 * len(subsets) * max(1.0, 0.6 * len(methods))
    figure = Figure(figsize=(3.4 * len(REGIONS) + 1.4, height), facecolor="white", layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(REGIONS), sharey=True, sharex=True))
    for panel, region in zip(panels, REGIONS, strict=True):
        rows = [difference for difference in chosen if difference.region == region]
        filled = [(row.p_holm if corrected else row.p) < level for row in rows]
        _draw_region(panel, rows, filled, subsets, colours)
        panel.set_title(region, fontsize=12)
    panels[0].set_yticks(range(len(subsets)), subsets, fontsize=9)
    panels[0].set_ylim(len(subsets) - 0.4, -0.6)
    ends = [f"{chosen[0].reference} better", f"{methods[0] if len(methods) == 1 else 'the other'} better"]
    left, right = ends if metric == "Dice" else ends[::-1]
    panels[len(panels) // 2].set_xlabel(
        f"difference to {chosen[0].reference}, {UNITS[metric]}   (← {left} · {right} →)", fontsize=10
    )
    handles = [Line2D([], [], color=colour, marker="o", label=name) for name, colour in colours.items()]
    handles += [
        Line2D([], [], color=INK, marker="o", linestyle="", label=f"P < {level:g}{' after Holm' if corrected else ''}"),
        Line2D([], [], color=INK, marker="o", linestyle="", markerfacecolor="white", label=f"P ≥ {level:g}"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.suptitle(f"{metric}: mean paired difference, {chosen[0].studies} studies", fontsize=12)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _draw_region(
    panel: Axes, rows: Sequence[Difference], filled: Sequence[bool], subsets: Sequence[str], colours: dict[str, str]
) -> None:
    panel.axvline(0, color="#888888", linewidth=1.2, zorder=0)
    spread = np.linspace(-0.25, 0.25, len(colours)) if len(colours) > 1 else np.zeros(1)
    offsets = dict(zip(colours, spread, strict=True))
    for row, significant in zip(rows, filled, strict=True):
        factor, colour = FACTORS[row.metric], colours[row.method]
        y = subsets.index(row.subset) + offsets[row.method]
        panel.plot([row.low * factor, row.high * factor], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
        face = colour if significant else "white"
        panel.plot(row.mean * factor, y, "o", color=colour, markerfacecolor=face, markersize=5.5)
    panel.axhspan(len(subsets) - 1.5, len(subsets) - 0.4, color="#f4f4f4", zorder=-1)
    plain_axes(panel, "x")
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)
