"""Scatter plots of latents of single modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medmap_components.modalities import MODALITIES, MODALITY_LABELS
from medmap_components.visualize.palette import GREY, MODALITY_COLOURS

__all__ = ["draw_latents"]

MARKERS = dict(zip(MODALITIES, "osD^", strict=True))


def draw_latents(
    maps: Mapping[str, tuple[NDArray[np.floating], NDArray[np.integer]]],
    path: str | Path,
    captions: Sequence[str] | None = None,
    title: str = "",
) -> Path:
    """Draws a panel per method, a point per latent vector, coloured and shaped by modality.

    Args:
        maps: name of the method to the points ``(n, 2)`` and the index into ``MODALITIES`` of each, ``(n,)``.
        path: file to write; its ending decides the format.
        captions: a text below each panel.
        title: heading.

    Returns:
        ``path``.

    Raises:
        ValueError: when ``maps`` is empty, or the captions are not one per method.
    """
    if not maps:
        raise ValueError("maps is empty; there is nothing to draw.")
    captions = captions if captions is not None else [""] * len(maps)
    if len(captions) != len(maps):
        raise ValueError(f"captions must hold one text per method, got {len(captions)} for {len(maps)}.")
    figure = Figure(figsize=(4.3 * len(maps), 5.2), facecolor="white", layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(maps)))
    for panel, (name, (points, modality)), caption in zip(panels, maps.items(), captions, strict=True):
        for index, key in enumerate(MODALITIES):
            chosen = points[modality == index]
            panel.plot(
                *chosen.T,
                MARKERS[key],
                color=MODALITY_COLOURS[key],
                markersize=3.6,
                alpha=0.7,
                markeredgewidth=0,
                label=MODALITY_LABELS[key] if len(chosen) else None,
            )
        panel.set_title(name, fontsize=12)
        panel.set_xlabel(caption, fontsize=9.5)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_color(GREY)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, markerscale=2)
    if title:
        figure.suptitle(title, fontsize=13)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path
