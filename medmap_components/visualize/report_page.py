"""The page about a run over a folder of studies: self-contained HTML, written study by study."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from medmap_components.modalities import MODALITIES, MODALITY_LABELS
from medmap_components.visualize.planes import REGION_COLOURS

__all__ = ["ReportPages", "StudyEntry"]

_END = "<!-- end of the studies -->"
_REGION_NAMES = {"WT": "whole tumour", "TC": "tumour core", "ET": "enhancing tumour"}

_STYLE = """
:root { color-scheme: dark; }
body { margin: 0 auto; padding: 1.5rem; max-width: 1200px; background: #121417; color: #dfe3e8; display: flex;
  flex-direction: column; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; }
header { order: -3; } #summary { order: -2; } .unfinished { order: -2; color: #ffcf5c; }
a { color: #7db7ff; } .dim { color: #98a2ad; } p { margin: .4rem 0; }
section { background: #1b1f24; border-radius: 8px; padding: 1rem 1.2rem; margin: .8rem 0; }
section.failed { border-left: 5px solid #e5534b; } section.ok { border-left: 5px solid #3a4149; }
section.warned { border-left-color: #d9a514; }
.head { display: flex; flex-wrap: wrap; gap: .4rem 1rem; align-items: baseline; }
.badge { border-radius: 4px; padding: 0 .5rem; font-size: .85rem; background: #2a313a; white-space: nowrap; }
.missing { background: none; border: 1px dashed #626b75; color: #98a2ad; }
.failure { background: #e5534b; color: #fff; } .warning { color: #ffcf5c; }
.volumes { display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; margin: .5rem 0; }
.volumes b { font-variant-numeric: tabular-nums; font-size: 1.1rem; }
.swatch { display: inline-block; width: .9em; height: .9em; border: 2px solid; border-radius: 3px; margin-right: .4em;
  vertical-align: -.1em; box-sizing: border-box; }
img { display: block; max-width: 100%; background: #000; border-radius: 4px; margin-top: .6rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } th { text-align: left; color: #98a2ad; }
td:first-child { min-width: 11rem; } td:nth-child(2) { min-width: 9rem; }
td, th { padding: .2rem .8rem .2rem 0; vertical-align: top; border-bottom: 1px solid #2a313a; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.n { font-variant-numeric: tabular-nums; } td { overflow-wrap: anywhere; }
details { margin: .4rem 0; } dl { display: grid; grid-template-columns: repeat(2, max-content 1fr);
  gap: .1rem 1rem; }
dt { color: #98a2ad; } dd { margin: 0; overflow-wrap: anywhere; }
@media print { :root { color-scheme: light; } body { background: #fff; color: #000; } section { break-inside: avoid;
  background: #fff; border: 1px solid #bbb; } }
"""


class StudyEntry(NamedTuple):
    """What the page says about one study.

    Attributes:
        row: its line in ``report.csv``.
        picture: a JPEG, or None.
        warnings: one sentence each.
    """

    row: Mapping[str, str]
    picture: bytes | None
    warnings: tuple[str, ...]


class ReportPages:
    """Writes ``report.html``, and ``report_2.html`` and so on behind a number of studies.

    A page is legible at any time: studies are appended, and what belongs above them (the table of all, on each page)
    is written at the end and put on top by the style sheet.

    Args:
        folder: where the pages go; it exists when :meth:`start` is called.
        settings: what the run was made with, by name.
        per_page: studies on one page.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], per_page: int) -> None:
        self.folder = folder
        self.settings = settings
        self.per_page = per_page
        self.page = 1
        self.entries: list[Mapping[str, str]] = []  # of the present page

    @property
    def first(self) -> Path:
        """The first page."""
        return self._path(1)

    def _path(self, page: int) -> Path:
        return self.folder / ("report.html" if page == 1 else f"report_{page}.html")

    def start(self, resume: bool = False) -> None:
        """Begins the first page; with ``resume``, a page behind those of earlier runs."""
        self.page, self.entries = 1, []
        if resume:
            while self._path(self.page).exists():
                self.page += 1
        else:
            for path in [self.first, *self.folder.glob("report_[0-9]*.html")]:
                path.unlink(missing_ok=True)
        self._open_page()

    def add(self, entry: StudyEntry) -> None:
        """Appends one study, and begins a further page where this one is full."""
        if len(self.entries) >= self.per_page:
            self._close_page(_link(self._path(self.page + 1), f"page {self.page + 1}"))
            self.page, self.entries = self.page + 1, []
            self._open_page()
        self.entries.append(entry.row)
        self._append(_study(entry, len(self.entries)))

    def finish(self) -> None:
        """Ends the last page."""
        self._close_page()

    def _append(self, text: str, mode: str = "a") -> None:
        with self._path(self.page).open(mode, encoding="utf-8") as file:
            file.write(text)

    def _open_page(self) -> None:
        before = f" · {_link(self._path(self.page - 1), f'page {self.page - 1}')}" if self.page > 1 else ""
        started = datetime.now(timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M")
        rows = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in self.settings.items())
        legend = " ".join(_region(region) for region in REGION_COLOURS)
        self._append(
            f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Segmentation report</title><style>{_STYLE}</style></head><body>
<header><h1>Segmentation report{f", page {self.page}" if self.page > 1 else ""}</h1>
<p class="dim">Started {started}{before} · research software, not a medical device: check every contour</p>
<p>Contours: {legend}</p>
<p class="dim">Radiological convention: the patient's right is on the left of axial and coronal pictures; sagittal
pictures look from the patient's left, the face to the left. The planes cross in the largest connected lesion; blue
strokes mark where the other two run. Positions are mm in the scanner's coordinates. Grey values of each modality reach
from the 1st to the 99.5th percentile of its brain. Volumes are counted in the study's own voxels.</p>
<details open><summary>Settings</summary><dl>{rows}</dl></details></header>
<p class="unfinished">The run has not come to its end on this page: it is still going, or was interrupted. The studies
below are done.</p>
""",
            "w",
        )

    def _close_page(self, after: str = "") -> None:
        failed = sum(row["status"] == "failed" for row in self.entries)
        warned = sum(bool(row.get("warnings")) for row in self.entries)
        table = "".join(_line(row, number) for number, row in enumerate(self.entries, start=1))
        regions = "".join(f'<th class="n">{region} mL</th>' for region in REGION_COLOURS)
        studies = "1 study" if len(self.entries) == 1 else f"{len(self.entries)} studies"
        more = f" · continued on {after}" if after else ""
        self._append(
            f"""{_END}<style>.unfinished {{ display: none; }}</style>
<section id="summary"><h2>{studies}, {failed} failed, {warned} with warnings{more}</h2>
<table><tr><th>study</th><th>modalities</th>{regions}<th>remarks</th></tr>{table}</table></section>
</body></html>
"""
        )


def _link(path: Path, text: str) -> str:
    return f'<a href="{escape(path.name)}">{escape(text)}</a>'


def _region(region: str) -> str:
    return (
        f'<span class="badge"><span class="swatch" style="border-color: {REGION_COLOURS[region]}"></span>'
        f"{_REGION_NAMES[region]} ({region})</span>"
    )


def _study(entry: StudyEntry, number: int) -> str:
    row = entry.row
    name = escape(row["study"])
    if row["status"] == "failed":
        return f"""<section class="failed" id="s{number}"><div class="head"><h2>{name}</h2>
<span class="badge failure">failed</span></div><p>{escape(row["reason"])}</p></section>
"""
    used = row["modalities_used"].split()
    badges = " ".join(
        f'<span class="badge">{label}</span>' if modality in used else f'<span class="badge missing">no {label}</span>'
        for modality, label in ((modality, MODALITY_LABELS[modality]) for modality in MODALITIES)
    )
    volumes = "".join(
        f'<span><span class="swatch" style="border-color: {colour}"></span>{region} '
        f"<b>{float(row[f'{region.lower()}_ml']):.1f}</b> mL</span>"
        for region, colour in REGION_COLOURS.items()
    )
    notes = "".join(f'<p class="warning">&#9888; {escape(text)}</p>' for text in entry.warnings)
    cleanup = f"<p>Clean-up: {escape(row['cleanup'])}.</p>" if row["cleanup"] else ""
    spacing = " x ".join(row["spacing_mm"].split())
    image = ""
    if entry.picture is not None:
        data = base64.b64encode(entry.picture).decode("ascii")
        image = f'<img loading="lazy" alt="{name}: three planes" src="data:image/jpeg;base64,{data}">'
    return f"""<section class="ok{" warned" if notes else ""}" id="s{number}"><div class="head"><h2>{name}</h2>{badges}
<span class="dim">voxels {spacing} mm · {row["seconds"]} s</span></div>
<div class="volumes">{volumes}</div>{notes}{cleanup}{image}</section>
"""


def _line(row: Mapping[str, str], number: int) -> str:
    name = f'<td><a href="#s{number}">{escape(row["study"])}</a></td>'
    if row["status"] == "failed":
        return f'<tr>{name}<td colspan="4"></td><td>failed: {escape(row["reason"])}</td></tr>'
    used = ", ".join(MODALITY_LABELS[modality] for modality in row["modalities_used"].split())
    volumes = "".join(f'<td class="n">{float(row[f"{region.lower()}_ml"]):.1f}</td>' for region in REGION_COLOURS)
    remarks = "; ".join(filter(None, ("see warnings" if row.get("warnings") else "", row["cleanup"])))
    return f"<tr>{name}<td>{used}</td>{volumes}<td>{escape(remarks)}</td></tr>"
