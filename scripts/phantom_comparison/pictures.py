"""Pictures of real and synthetic cases beside each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from medmap_components.modalities import MODALITIES, MODALITY_LABELS
from phantom_comparison.statistics import Case

CONTOURS = {
    2: ("oedema", "#ffd92f"),
    1: ("necrotic or non-enhancing core", "#4daf4a"),
    4: ("enhancing tumour", "#e41a1c"),
}
"""Drawn in this order, so that the small classes lie on top."""

CONTOUR_CHANNEL = MODALITIES.index("t1ce")
TILE_INCHES = (1.6, 1.95)


def draw_rows(rows: Sequence[tuple[str, Case]], output_file: Path, dots_per_inch: int = 100) -> None:
    """One row per case: the axial slice with most tumour core in the four modalities, and T1ce with the labels.

    Args:
        rows: a caption and a case for every row.
        output_file: PNG to write.
        dots_per_inch: resolution.
    """
    columns = [*(MODALITY_LABELS[name] for name in MODALITIES), "T1ce and labels"]
    size = (TILE_INCHES[0] * len(columns) + 0.5, TILE_INCHES[1] * len(rows) + 0.6)
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, facecolor="black")
    for row, (caption, case) in zip(axes, rows, strict=True):
        _draw_case(row, case)
        row[0].set_ylabel(caption, color="white", fontsize=9)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, color="white", fontsize=11)
    handles = [Line2D([], [], color=colour, label=name) for name, colour in CONTOURS.values()]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, labelcolor="white", fontsize=10)
    margin = 0.35 / size[1]
    figure.subplots_adjust(0.045, margin, 0.998, 1 - 0.25 / size[1], wspace=0.01, hspace=0.02)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dots_per_inch, facecolor="black")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE)
    picture.save(output_file, optimize=True)


def _palette() -> Image.Image:
    """Greys, and the contours' colours over greys: makes a file half as large, with no difference to be seen."""
    colours = [(grey,) * 3 for grey in np.linspace(0, 255, 150)]
    for _, contour in CONTOURS.values():
        pure = 255 * np.array(to_rgb(contour))
        for alpha in (1.0, 0.8, 0.6, 0.4, 0.25):
            colours += [tuple(alpha * pure + (1 - alpha) * grey) for grey in (0, 40, 80, 120, 160, 200, 240)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([round(value) for colour in colours for value in colour])
    return palette


def _draw_case(row: Sequence[Axes], case: Case) -> None:
    index = _best_slice(case)
    window = _brain_window(case)
    label = case.label[:, :, index][window].T
    for axis, channel in zip(row, [*range(len(MODALITIES)), CONTOUR_CHANNEL], strict=True):
        image = case.images[channel, :, :, index]
        low, high = np.percentile(case.images[channel][case.brain], (0.5, 99.7))
        image = np.where(case.brain[:, :, index], np.maximum(image, low), low)[window].T
        # LPS: the first axis runs to the patient's left, which is the picture's right; the second runs down
        axis.imshow(image, cmap="gray", vmin=low, vmax=high, origin="upper", interpolation="bilinear")
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    for code, (_, colour) in CONTOURS.items():
        if (label == code).any():
            row[-1].contour(label == code, levels=[0.5], colors=[colour], linewidths=0.9)


def _best_slice(case: Case) -> int:
    """The axial slice with most tumour core, and of equal ones most tumour."""
    core = np.isin(case.label, (1, 4)).sum(axis=(0, 1))
    whole = (case.label > 0).sum(axis=(0, 1))
    return int(np.argmax(core + 0.3 * whole))


def _brain_window(case: Case) -> tuple[slice, slice]:
    """A window of the same size in mm for every case, centred on the brain, so that all are drawn to one scale."""
    half_mm = (76.0, 93.0)
    slices = []
    for axis, half in enumerate(half_mm):
        occupied: NDArray[np.intp] = np.flatnonzero(case.brain.any(axis=tuple({0, 1, 2} - {axis})))
        middle, reach = (occupied[0] + occupied[-1]) / 2, half / case.spacing
        low = int(max(0, round(middle - reach)))
        slices.append(slice(low, low + int(2 * reach)))
    return slices[0], slices[1]
