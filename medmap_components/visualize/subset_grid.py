"""One slice of one study as it is segmented in every situation of missing modalities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from medmap_components.modalities import CLASS_NAMES, MODALITIES, MODALITY_LABELS, REGIONS
from medmap_components.visualize.segmentation import (
    CLASS_COLOURS,
    StudyPicture,
    draw_image,
    draw_labels,
    draw_missing,
    slice_cutter,
)

__all__ = ["SubsetPicture", "draw_subset_grid"]

COLUMNS = 8


class SubsetPicture(NamedTuple):
    """What one network makes of the study in one situation.

    Attributes:
        prediction: label map ``(X, Y, Z)``.
        dice: region to Dice of the whole study.
    """

    prediction: NDArray[np.integer]
    dice: Mapping[str, float]


def draw_subset_grid(study: StudyPicture, methods: Mapping[str, Mapping[str, SubsetPicture]], path: str | Path) -> Path:
    """Draws the modalities and the reference, then the predictions by subset, a row per method in each block of eight.

    The slice is the axial one with the most tumour in the reference; the Dice below each picture is that of the whole
    study.

    Args:
        study: images in LPS orientation, the reference, a title; its prediction is not drawn.
        methods: name of a method to subset name to picture; the first one's subsets are the panels.
        path: file to write; its ending decides the format.

    Returns:
        ``path``.

    Raises:
        ValueError: without a reference or a method, or when the methods have other subsets.
    """
    if study.reference is None or not methods:
        raise ValueError("study needs a reference and methods at least one entry; there is nothing to draw.")
    subsets = list(next(iter(methods.values())))
    other = [name for name, pictures in methods.items() if list(pictures) != subsets]
    if other:
        raise ValueError(f"the methods {other} have other subsets than the first, {subsets}.")
    blocks = [subsets[start : start + COLUMNS] for start in range(0, len(subsets), COLUMNS)]
    rows = 1 + len(blocks) * len(methods)
    columns = max(COLUMNS if len(blocks) > 1 else len(subsets), len(MODALITIES) + 1)
    figure = Figure(figsize=(1.75 * columns + 0.4, 2.2 * rows + 1.0), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(hspace=0.06)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.axis("off")
    cut, aspect = slice_cutter(study)
    reference = cut(study.reference)
    background = np.any([cut(volume) != 0 for volume in study.images.values()], axis=0)
    _draw_inputs(axes[0], {name: cut(volume) for name, volume in study.images.items()}, reference, aspect)
    draw_labels(_shown(axes[0][len(MODALITIES)], "reference"), background, reference, aspect)
    for number, block in enumerate(blocks):
        for offset, (method, pictures) in enumerate(methods.items()):
            line = axes[1 + number * len(methods) + offset]
            for panel, subset in zip(line, block, strict=False):
                panel.axis("on")
                draw_labels(panel, background, cut(pictures[subset].prediction), aspect)
                panel.set_xlabel(_scores(pictures[subset].dice), fontsize=8.5)
                if offset == 0:
                    panel.set_title(subset, fontsize=10)
            line[0].set_ylabel(method, fontsize=10)
    figure.suptitle(study.title, fontsize=13)
    handles = [
        Line2D([], [], color=colour, marker="s", linestyle="", label=CLASS_NAMES[label])
        for label, colour in CLASS_COLOURS.items()
    ]
    handles.append(Line2D([], [], linestyle="", label=f"below: Dice of {', '.join(REGIONS)}, whole study"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _draw_inputs(
    line: NDArray[np.object_],
    images: Mapping[str, NDArray[np.generic]],
    reference: NDArray[np.generic],
    aspect: float,
) -> None:
    for panel, modality in zip(line, MODALITIES, strict=False):
        _shown(panel, MODALITY_LABELS[modality])
        if modality in images:
            draw_image(panel, images[modality], np.zeros_like(reference), aspect)
        else:
            draw_missing(panel, reference.shape, aspect)


def _shown(panel: Axes, title: str) -> Axes:
    panel.axis("on")
    panel.set_title(title, fontsize=10)
    return panel


def _scores(dice: Mapping[str, float]) -> str:
    return "  ".join(f"{region} {dice[region]:.2f}" for region in REGIONS)
