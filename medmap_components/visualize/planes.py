"""One study as a radiologist looks at it: three planes through the largest lesion, in each modality that is there."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from monai.data.utils import affine_to_spacing
from numpy.typing import NDArray

from medmap_components.modalities import MODALITY_LABELS, REGIONS
from medmap_components.transforms.segmentation import lesions

__all__ = ["REGION_COLOURS", "PlanesPicture", "crossing_point", "draw_planes"]

REGION_COLOURS: dict[str, str] = {"WT": "#31d843", "TC": "#ff7f2a", "ET": "#ffe119"}
"""Contour colours of whole tumour, tumour core and enhancing tumour; drawn in this order, the last on top."""

BACKGROUND, TEXT, FAINT = "#000000", "#e8e8e8", "#9a9a9a"
_INCH_PER_MM = 2.1 / 180
_CAPTION_CHARACTERS_PER_INCH = 15
_SCALE_BAR_MM = 50


class PlanesPicture(NamedTuple):
    """What a picture is drawn from.

    Attributes:
        volumes: modality to volume ``(X, Y, Z)``, voxel axes running to the patient's left, back and head (LPS); the
            background is 0. Modalities that are absent are left out.
        labels: classes 0 to 3 on the same grid.
        affine: of that grid, to mm in RAS.
        original_affine: of the study's own grid, in which the position is told as well.
    """

    volumes: Mapping[str, NDArray[Any]]
    labels: NDArray[Any]
    affine: NDArray[np.float64]
    original_affine: NDArray[np.float64]


class _Plane(NamedTuple):
    """How a plane is cut out of an LPS volume and looked at."""

    name: str
    axis: int
    across: int
    down: int
    flip_down: bool
    letters: tuple[str, str, str]  # left, right, top


PLANES = (
    _Plane("axial", axis=2, across=0, down=1, flip_down=False, letters=("R", "L", "A")),
    _Plane("coronal", axis=1, across=0, down=2, flip_down=True, letters=("R", "L", "S")),
    _Plane("sagittal", axis=0, across=1, down=2, flip_down=True, letters=("A", "P", "S")),
)


def crossing_point(labels: NDArray[Any], volumes: Mapping[str, NDArray[Any]]) -> tuple[int, int, int]:
    """The voxel in which the three planes cross.

    Along each axis it is the slice in which the largest connected tumour has the largest area, the middle one where
    several have. Without any tumour it is the middle of the brain.

    Args:
        labels: all that is not 0 is tumour.
        volumes: modality to volume; what is not 0 is brain.
    """
    numbers, sizes = lesions(labels)
    if sizes.size:
        shown = numbers == 1
        areas = [shown.sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
        largest = [np.flatnonzero(area == area.max()) for area in areas]
        x, y, z = (int(places[len(places) // 2]) for places in largest)
        return x, y, z
    brain = np.any([volume != 0 for volume in volumes.values()], axis=0)
    used = [np.flatnonzero(brain.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    x, y, z = (int(place[0] + place[-1]) // 2 if place.size else 0 for place in used)
    return x, y, z


def draw_planes(picture: PlanesPicture) -> bytes:
    """Draws axial, coronal and sagittal plane of each modality with the regions' contours.

    All panels have one scale in mm. Each modality's grey values reach from the 1st to the 99.5th percentile of its
    brain. Radiological convention: the patient's right is on the left.

    Args:
        picture: the study.

    Returns:
        A JPEG.

    Raises:
        ValueError: without any modality, or when shapes differ.
    """
    shapes = {name: volume.shape for name, volume in {**picture.volumes, "labels": picture.labels}.items()}
    if not picture.volumes or len(set(shapes.values())) != 1:
        raise ValueError(f"a picture needs at least one modality, all volumes of one shape; got {shapes}.")
    spacing = np.asarray(affine_to_spacing(picture.affine), dtype=float)
    extent = np.asarray(picture.labels.shape) * spacing
    point = crossing_point(picture.labels, picture.volumes)

    width = max(extent[plane.across] for plane in PLANES) * _INCH_PER_MM
    heights = [extent[plane.down] * _INCH_PER_MM for plane in PLANES]
    left, top, gap = 0.42, 0.3, 0.05
    across = left + len(picture.volumes) * (width + gap)
    caption = textwrap.wrap(_position(point, picture), max(20, int((across - 0.2) * _CAPTION_CHARACTERS_PER_INCH)))
    bottom = 0.62  # room for three lines
    total = (across, top + sum(heights) + 3 * gap + bottom)
    figure = Figure(figsize=total, facecolor=BACKGROUND)
    y = total[1] - top
    for plane, height in zip(PLANES, heights, strict=True):
        y -= height + gap
        figure.text(
            0.1 / total[0], (y + height / 2) / total[1], _row_title(plane, point, picture.affine),
            color=TEXT, fontsize=8, rotation=90, va="center", ha="left",
        )  # fmt: skip
        for column, (modality, volume) in enumerate(picture.volumes.items()):
            x = left + column * (width + gap)
            panel = figure.add_axes((x / total[0], y / total[1], width / total[0], height / total[1]))
            _draw_panel(panel, plane, volume, picture.labels, point, spacing)
            panel.set_xlim(_centred(extent[plane.across], width / _INCH_PER_MM))
            if plane is PLANES[0]:
                figure.text(
                    (x + width / 2) / total[0], 1 - 0.2 / total[1], MODALITY_LABELS[modality],
                    color=TEXT, fontsize=10, ha="center", va="center",
                )  # fmt: skip
            if plane is PLANES[-1] and column == 0:
                _draw_scale_bar(panel)
    figure.text(0.12 / total[0], 0.5 / total[1], "\n".join(caption), color=FAINT, fontsize=7.5, va="top")
    file = BytesIO()
    figure.savefig(file, format="jpeg", dpi=120, facecolor=BACKGROUND, pil_kwargs={"quality": 86, "subsampling": 0})
    return file.getvalue()


def _cut(volume: NDArray[Any], plane: _Plane, index: int) -> NDArray[Any]:
    """Rows run down, columns across, as the plane is looked at."""
    # the axes that remain are in ascending order: across, down
    image = np.asarray(np.take(volume, index, axis=plane.axis).T)
    return image[::-1] if plane.flip_down else image


def _draw_panel(
    panel: Axes,
    plane: _Plane,
    volume: NDArray[Any],
    labels: NDArray[Any],
    point: tuple[int, int, int],
    spacing: NDArray[np.float64],
) -> None:
    image = _cut(volume, plane, point[plane.axis]).astype(float)
    inside = volume[volume != 0]
    low, high = np.percentile(inside, (1, 99.5)) if inside.size else (0.0, 1.0)
    across, down = float(spacing[plane.across]), float(spacing[plane.down])
    rows, columns = image.shape
    borders = (-across / 2, (columns - 0.5) * across, (rows - 0.5) * down, -down / 2)
    grey = np.where(image != 0, 0.06 + 0.94 * np.clip((image - low) / max(high - low, 1e-6), 0, 1), 0)
    panel.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=borders, aspect="equal", interpolation="bilinear")
    shown = _cut(labels, plane, point[plane.axis])
    for region, members in REGIONS.items():
        inside_region = np.isin(shown, members)
        if inside_region.any():
            # a margin of one voxel closes contours that reach the border of the picture
            padded = np.pad(inside_region, 1).astype(float)
            xs, ys = (np.arange(columns + 2) - 1) * across, (np.arange(rows + 2) - 1) * down
            panel.contour(xs, ys, padded, levels=[0.5], colors=REGION_COLOURS[region], linewidths=0.9)
    _mark_other_planes(panel, plane, point, spacing, borders, labels.shape)
    left, right, top = plane.letters
    style: dict[str, Any] = {"color": TEXT, "fontsize": 8, "transform": panel.transAxes}
    panel.text(0.015, 0.53, left, ha="left", va="bottom", **style)
    panel.text(0.985, 0.53, right, ha="right", va="bottom", **style)
    # beside the stroke of the sagittal or coronal plane, which may run in the middle
    panel.text(0.46, 0.99, top, ha="right", va="top", **style)
    panel.set_ylim(borders[2], borders[3])
    panel.axis("off")


def _mark_other_planes(
    panel: Axes,
    plane: _Plane,
    point: tuple[int, int, int],
    spacing: NDArray[np.float64],
    borders: tuple[float, float, float, float],
    shape: tuple[int, ...],
) -> None:
    """Short strokes at the panel's edges where the two other planes run."""
    left, right, bottom, top = borders
    across = point[plane.across] * spacing[plane.across]
    row = shape[plane.down] - 1 - point[plane.down] if plane.flip_down else point[plane.down]
    down = row * spacing[plane.down]
    stroke = 7.0
    style: dict[str, Any] = {"color": "#5fb4ff", "linewidth": 0.8}
    for start, end in ((top, top + stroke), (bottom - stroke, bottom)):
        panel.plot([across, across], [start, end], **style)
    for start, end in ((left, left + stroke), (right - stroke, right)):
        panel.plot([start, end], [down, down], **style)


def _centred(extent: float, width: float) -> tuple[float, float]:
    """Limits that put a picture of some extent, in mm, into the middle of a panel of some width."""
    spare = (width - extent) / 2
    return -spare, extent + spare


def _draw_scale_bar(panel: Axes) -> None:
    low, high = panel.get_xlim()
    bottom = panel.get_ylim()[0]
    start, height = low + 0.03 * (high - low), bottom - 5
    panel.plot([start, start + _SCALE_BAR_MM], [height, height], color=TEXT, linewidth=1.6)
    panel.text(start + _SCALE_BAR_MM / 2, height - 3, f"{_SCALE_BAR_MM} mm", color=TEXT, fontsize=7, ha="center")


def _row_title(plane: _Plane, point: tuple[int, int, int], affine: NDArray[np.float64]) -> str:
    return f"{plane.name}, {_in_mm(plane.axis, point, affine)}"


def _transformed(affine: NDArray[Any], point: Sequence[float] | NDArray[Any]) -> NDArray[Any]:
    return np.asarray(affine[:3, :3] @ np.asarray(point, dtype=float) + affine[:3, 3])


def _in_mm(axis: int, point: tuple[int, int, int], affine: NDArray[np.float64]) -> str:
    value = float(_transformed(affine, point)[axis])
    letters = (("R", "L"), ("A", "P"), ("S", "I"))[axis]
    # RAS: larger is to the right, the front, the head
    return f"{letters[0] if value >= 0 else letters[1]} {abs(value):.0f} mm"


def _position(point: tuple[int, int, int], picture: PlanesPicture) -> str:
    place = _transformed(picture.affine, point)
    voxel = np.rint(_transformed(np.linalg.inv(picture.original_affine), place)).astype(int).tolist()
    where = "the largest lesion" if picture.labels.any() else "the middle of the brain (no tumour was found)"
    axes = np.abs(picture.affine[:3, :3] / affine_to_spacing(picture.affine))
    oblique = "; the volume is oblique, planes follow its voxels" if axes.max(axis=0).min() < 0.99 else ""
    return f"Through {where}, voxel ({voxel[0]}, {voxel[1]}, {voxel[2]}) of the study{oblique}. Right is on the left."
