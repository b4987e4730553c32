"""The report of a run over a folder of studies: a table for machines and a page for people, written as it goes."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Orientation
from torch import Tensor

from medmap_components.engines.weights import set_aside
from medmap_components.modalities import MODALITIES, REGIONS
from medmap_components.transforms import masks_of
from medmap_components.visualize.planes import PlanesPicture, draw_planes
from medmap_components.visualize.report_page import ReportPages, StudyEntry

__all__ = ["COLUMNS", "StudyReport"]

logger = logging.getLogger(__name__)

COLUMNS = (
    *("study", "status", "layout", "modalities_used", "modalities_missing"),
    *(f"{region.lower()}_ml" for region in REGIONS),
    *("spacing_mm", "seconds", "cleanup", "warnings", "reason"),
)
"""The columns of ``report.csv``."""


class StudyReport:
    """Writes ``report.csv`` and ``report.html`` beside the segmentations, one study after the other.

    Both are complete after every study: what was done before a run is interrupted stays, and memory does not grow with
    the number of studies. The page holds its pictures itself and loads nothing; after ``studies_per_page`` studies a
    further page, ``report_2.html``, begins.

    Args:
        output_dir: where the report goes.
        settings: what the run was made with, by name, for the head of the page.
        pictures: draw each study. Default True; False makes a run over many studies faster.
        resume: go on with the report in ``output_dir``; the studies in it that succeeded are not to be done again, see
            :meth:`done`. Default False: a report that is there already is kept under another name.
        studies_per_page: studies on one page. Default 200, about 40 MB.

    Raises:
        ValueError: for a number of studies per page below 1.
    """

    def __init__(
        self,
        output_dir: str | Path,
        settings: Mapping[str, Any] | None = None,
        pictures: bool = True,
        resume: bool = False,
        studies_per_page: int = 200,
    ) -> None:
        if studies_per_page < 1:
            raise ValueError(f"studies_per_page must be at least 1, got {studies_per_page}.")
        self.folder = Path(output_dir)
        self.table = self.folder / "report.csv"
        self.pages = ReportPages(self.folder, settings or {}, studies_per_page)
        self.pictures = pictures
        self.resume = resume
        self._last = time.monotonic()

    def done(self) -> set[str]:
        """The studies that an earlier run has finished; empty unless ``resume``."""
        return {row["study"] for row in self._rows() if row["status"] == "ok"} if self.resume else set()

    def start(self) -> None:
        """Begins the report, before the first study."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.resume and self.table.is_file():
            # what failed is tried again, so only what succeeded stays in the table
            self._write([row for row in self._rows() if row["status"] == "ok"], "w")
        else:
            set_aside(self.table)
            self._write([], "w")
        self.pages.start(self.resume)
        self._last = time.monotonic()

    def add(self, study: str, layout: str, result: Mapping[str, Any], image: Tensor, labels: Tensor) -> None:
        """Adds a study that was segmented.

        Args:
            study: its name.
            layout: key of the layout that it was recognised in.
            result: what ``DescribeSegmentationd`` says about it.
            image: the preprocessed image ``(M, X, Y, Z)``, whose grid the picture is drawn in.
            labels: the saved label map ``(1, X, Y, Z)`` in the study's own grid; enhancing tumour is 3 or 4.
        """
        picture = None
        if self.pictures:
            try:
                picture = draw_planes(_picture_of(image, labels))
            except (ValueError, RuntimeError) as error:  # a picture that can't be drawn costs no study
                logger.warning("%s was segmented, but not drawn: %s", study, error)
        row = {
            "study": study,
            "status": "ok",
            "layout": layout,
            "modalities_used": " ".join(result["modalities_used"]),
            "modalities_missing": " ".join(result["modalities_missing"]),
            **{f"{region.lower()}_ml": f"{volume:.3f}" for region, volume in result["volumes_ml"].items()},
            "spacing_mm": " ".join(f"{side:.4g}" for side in result["spacing_mm"]),
            "cleanup": result["cleanup"],
            "warnings": " ".join(result["warnings"]),
        }
        self._finish(row, picture, result["warnings"])

    def add_failure(self, study: str, layout: str, reason: str) -> None:
        """Adds a study that could not be segmented, with the reason."""
        self._finish({"study": study, "status": "failed", "layout": layout, "reason": reason}, None, [])

    def finish(self) -> None:
        """Ends the report, behind the last study."""
        self.pages.finish()
        logger.info("Report: %s", self.pages.first)

    def _finish(self, row: dict[str, str], picture: bytes | None, warnings: Sequence[str]) -> None:
        now = time.monotonic()
        row["seconds"] = f"{now - self._last:.1f}"
        self._last = now
        self._write([row], "a")
        self.pages.add(StudyEntry(row, picture, tuple(warnings)))

    def _rows(self) -> list[dict[str, str]]:
        if not self.table.is_file():
            return []
        with self.table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        # a line that an interrupted run has not written whole lacks its last columns
        return [row for row in rows if row.get("status") in ("ok", "failed") and row.get("reason") is not None]

    def _write(self, rows: Sequence[Mapping[str, str]], mode: str) -> None:
        with self.table.open(mode, encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)


def _picture_of(image: Any, labels: Any) -> PlanesPicture:
    """The study as it was prepared for the network, with the saved labels brought onto that grid."""
    mask = masks_of(image)[0].tolist()
    grid = np.asarray(image.affine, dtype=float)
    turned: Any = Orientation(axcodes="LPS", labels=None)(labels)
    placed = on_grid(np.asarray(turned[0].cpu()), np.asarray(turned.affine, dtype=float), image.shape[1:], grid)
    volumes = {
        name: np.asarray(channel.cpu())
        for name, channel, use in zip(MODALITIES, image.as_tensor(), mask, strict=True)
        if use
    }
    original = np.asarray(image.meta["original_affine"], dtype=float)
    return PlanesPicture(volumes, np.where(placed == 4, 3, placed), grid, original)


def on_grid(labels: Any, affine: Any, shape: Sequence[int], target: Any) -> Any:
    """A label map on another grid of the same axes, each voxel with the label that lies nearest to its centre.

    Args:
        labels: ``(X, Y, Z)``.
        affine: its affine.
        shape: shape of the other grid.
        target: affine of the other grid, whose axes run like the first one's.
    """
    step = np.linalg.solve(affine[:3, :3], target[:3, :3])
    origin = np.linalg.solve(affine[:3, :3], target[:3, 3] - affine[:3, 3])
    places = [np.rint(origin[axis] + step[axis, axis] * np.arange(shape[axis])).astype(int) for axis in range(3)]
    inside = [(place >= 0) & (place < side) for place, side in zip(places, labels.shape, strict=True)]
    result = np.zeros(tuple(shape), labels.dtype)
    result[np.ix_(*inside)] = labels[np.ix_(*(place[there] for place, there in zip(places, inside, strict=True)))]
    return result
