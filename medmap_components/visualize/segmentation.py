"""Pictures of segmentations: the modalities that a study has, those that it lacks, and contours of the classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from medmap_components.modalities import CLASS_NAMES, MODALITIES, MODALITY_LABELS

__all__ = [
    "CLASS_COLOURS",
    "StudyPicture",
    "brain_window",
    "draw_image",
    "draw_labels",
    "draw_missing",
    "draw_studies",
    "hide_ticks",
    "slice_cutter",
    "slice_with_most_tumour",
]

CLASS_COLOURS: dict[int, str] = {1: "#e6550d", 2: "#31d843", 3: "#ffe119"}
"""Contour colours of necrotic core, oedema and enhancing tumour."""


class StudyPicture(NamedTuple):
    """One row of a figure.

    Attributes:
        title: what stands to the left of the row.
        images: modality name to a volume ``(X, Y, Z)`` in LPS orientation; modalities that are absent are left out.
        prediction: label map ``(X, Y, Z)`` with the classes 0 to 3.
        reference: the expert's label map, or None.
        spacing: voxel size ``(x, y, z)`` in mm.
    """

    title: str
    images: Mapping[str, NDArray[np.floating]]
    prediction: NDArray[np.integer]
    reference: NDArray[np.integer] | None = None
    spacing: Sequence[float] = (1.0, 1.0, 1.0)


def draw_studies(studies: Sequence[StudyPicture], path: str | Path, title: str = "") -> Path:
    """Draws one row per study: its four modalities with the predicted contours, then prediction and reference alone.

    The axial slice is the one with the most tumour, in radiological convention (the patient's right is on the left).
    A modality that the study lacks is a dark panel that says so.

    Args:
        studies: the rows, at least one.
        path: file to write; its ending decides the format.
        title: heading of the figure.

    Returns:
        ``path``.

    Raises:
        ValueError: if ``studies`` is empty, or the volumes of a study differ in shape.
    """
    if not studies:
        raise ValueError("studies is empty; there is nothing to draw.")
    for study in studies:
        _check_shapes(study)
    with_reference = any(study.reference is not None for study in studies)
    columns = len(MODALITIES) + 1 + with_reference
    figure = Figure(figsize=(2.3 * columns, 2.75 * len(studies) + 0.9), facecolor="white", layout="constrained")
    axes = figure.subplots(len(studies), columns, squeeze=False)
    for row, study in zip(axes, studies, strict=True):
        _draw_row(row, study)
    for panel, heading in zip(axes[0], [*MODALITY_LABELS.values(), "prediction", "reference"], strict=False):
        panel.set_title(heading, fontsize=11)
    if title:
        figure.suptitle(title, fontsize=12)
    handles = [Line2D([], [], color=colour, label=CLASS_NAMES[label]) for label, colour in CLASS_COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _check_shapes(study: StudyPicture) -> None:
    volumes = {**study.images, "prediction": study.prediction}
    if study.reference is not None:
        volumes["reference"] = study.reference
    shapes = {name: volume.shape for name, volume in volumes.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"the volumes of {study.title!r} differ in shape: {shapes}; resample them to one grid first.")


def _draw_row(row: NDArray[np.object_], study: StudyPicture) -> None:
    cut, aspect = slice_cutter(study)
    prediction = cut(study.prediction)
    for panel, modality in zip(row, MODALITIES, strict=False):
        if modality in study.images:
            draw_image(panel, cut(study.images[modality]), prediction, aspect)
        else:
            draw_missing(panel, prediction.shape, aspect)
    background = cut(next(iter(study.images.values())))
    draw_labels(row[len(MODALITIES)], background, prediction, aspect)
    if len(row) > len(MODALITIES) + 1:
        if study.reference is not None:
            draw_labels(row[-1], background, cut(study.reference), aspect)
        else:
            row[-1].axis("off")
    row[0].set_ylabel(study.title, fontsize=9)


def slice_cutter(study: StudyPicture) -> tuple[Callable[[NDArray[np.generic]], NDArray[np.generic]], float]:
    """A function that cuts the picture out of a volume of the study, and the picture's height of a pixel over width."""
    index = slice_with_most_tumour(study)
    rows, columns = brain_window(study, index)

    def cut(volume: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.asarray(volume[:, :, index].T[rows, columns])

    return cut, float(study.spacing[1]) / float(study.spacing[0])


def slice_with_most_tumour(study: StudyPicture) -> int:
    """The index of the axial slice with the most tumour in the reference, else the prediction, else the middle one."""
    labels = study.prediction if study.reference is None else study.reference
    if not labels.any():
        labels = study.prediction
    if not labels.any():
        return int(labels.shape[2]) // 2
    return int((labels > 0).sum(axis=(0, 1)).argmax())


def brain_window(study: StudyPicture, index: int) -> tuple[slice, slice]:
    """Rows and columns of the displayed slice that hold the brain, with a small margin."""
    shown = np.any([volume[:, :, index] != 0 for volume in study.images.values()], axis=0).T
    windows = []
    for axis in (1, 0):
        used = np.flatnonzero(shown.any(axis=axis))
        low, high = (used[0], used[-1]) if used.size else (0, shown.shape[1 - axis] - 1)
        windows.append(slice(max(0, int(low) - 3), int(high) + 4))
    return windows[0], windows[1]


def draw_image(panel: Axes, image: NDArray[np.generic], labels: NDArray[np.generic], aspect: float) -> None:
    """Draws a slice of an image in grey, with contours of the classes of a label map."""
    values = np.asarray(image, dtype=float)
    inside = values[values != 0]
    low, high = np.percentile(inside, (1, 99.5)) if inside.size else (0.0, 1.0)
    panel.imshow(np.where(values != 0, values, low), cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect)
    for label, colour in CLASS_COLOURS.items():
        if (labels == label).any():
            panel.contour(labels == label, levels=[0.5], colors=colour, linewidths=0.9)
    hide_ticks(panel)


def draw_missing(panel: Axes, shape: tuple[int, ...], aspect: float) -> None:
    """Draws a dark panel that says that the modality is missing."""
    panel.imshow(np.zeros(shape), cmap="gray", vmin=0, vmax=1, aspect=aspect)
    panel.text(0.5, 0.5, "missing", color="#9a9a9a", ha="center", va="center", transform=panel.transAxes, fontsize=11)
    hide_ticks(panel)


def draw_labels(panel: Axes, background: NDArray[np.generic], labels: NDArray[np.generic], aspect: float) -> None:
    """Draws a slice of a label map in the colours of the classes, on the silhouette of the brain."""
    brain = np.where(np.asarray(background) != 0, 0.25, 0.0)
    picture = np.repeat(brain[..., None], 3, axis=2)
    for label, colour in CLASS_COLOURS.items():
        picture[labels == label] = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    panel.imshow(picture, aspect=aspect, interpolation="nearest")
    hide_ticks(panel)


def hide_ticks(panel: Axes) -> None:
    """Takes ticks and box off a panel; its labels stay."""
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
