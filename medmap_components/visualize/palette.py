"""Colours and the dot matrix of subsets that several figures share."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from medmap_components.modalities import MODALITIES, MODALITY_LABELS, Subset

__all__ = ["GREY", "INK", "MODALITY_COLOURS", "REGION_COLOURS", "SERIES_COLOURS", "draw_subset_matrix", "plain_axes"]

SERIES_COLOURS: tuple[str, ...] = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which readers with any kind of colour vision tell apart."""

REGION_COLOURS: dict[str, str] = {"WT": "#0072b2", "TC": "#d55e00", "ET": "#009e73", "ET_pp": "#cc79a7"}
MODALITY_COLOURS: dict[str, str] = dict(zip(MODALITIES, SERIES_COLOURS, strict=False))
INK, GREY = "#222222", "#c9c9c9"


def draw_subset_matrix(panel: Axes, subsets: Sequence[Subset]) -> None:
    """Draws a dot per modality (rows) and subset (columns at 0, 1, ...): filled where the modality is available.

    Args:
        panel: where to draw; its x axis is that of the panels above it.
        subsets: the columns.
    """
    rows = range(len(MODALITIES))
    for x, subset in enumerate(subsets):
        for row, there in zip(rows, subset.mask, strict=True):
            panel.plot(
                x, row, "o", markersize=7, color=INK if there else "white", markeredgecolor=INK if there else GREY
            )
    panel.set_yticks(list(rows), [MODALITY_LABELS[name] for name in MODALITIES], fontsize=9)
    panel.set_ylim(len(MODALITIES) - 0.5, -0.5)
    panel.set_xticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.tick_params(length=0)


def plain_axes(panel: Axes, grid_axis: str = "y") -> None:
    """Takes the box off a panel and puts a light grid behind it."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=grid_axis, color="#e6e6e6", linewidth=0.8)  # type: ignore[arg-type]
    panel.set_axisbelow(True)
