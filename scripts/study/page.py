"""The page of a study, in Markdown: every number on it follows from the study's tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from compare_bundles import difference_tables

from medmap_components.metrics import column
from medmap_components.metrics.comparison import Difference
from medmap_components.metrics.subset_tables import AVERAGE
from medmap_components.modalities import REGIONS
from study.analysis import GAPS, LEVEL, Gain, Results, mean_score, on_shared_seeds, subset_groups

TABLES = ("study.json", "results.csv", "runs.csv", "curves.csv")


def describe(results: Results, gains: Sequence[Gain], figures: Sequence[str], confidence: float = 0.95) -> str:
    """The page.

    Args:
        results: of the study.
        gains: per seed.
        figures: files of figures that were drawn, beside the page.
        confidence: of the intervals.
    """
    parts = (
        _head(results),
        _findings(results, confidence),
        _by_seed(gains),
        _scores(results),
        _gap(gains, figures),
        _curves(figures),
        _differences(results, figures),
        _costs(results),
        _sources(results),
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def statement(data: str, row: Difference, confidence: float, seeds: int) -> str:
    """What one primary comparison shows, in a sentence that its numbers and the number of seeds decide."""
    factor, unit = (100, "percentage points of Dice") if row.metric == "Dice" else (1, "mm of HD95")
    better = (row.mean > 0) == (row.metric == "Dice")
    interval = f"{factor * row.low:+.2f} to {factor * row.high:+.2f}"
    numbers = (
        f"{factor * row.mean:+.2f} {unit} ({100 * confidence:g} % interval {interval}, P after Holm {row.p_holm:.2g})"
    )
    direction = "better" if better else "worse"
    shown = f"{AVERAGE} of subsets" if row.subset == AVERAGE else row.subset
    where = f"{row.region}, {shown}, {row.studies} cases of {data}, {seeds} seed{'s' * (seeds > 1)}"
    if row.p_holm < LEVEL and seeds == 1:
        return (
            f"{row.method} was {direction} than {row.reference} by the corrected test over cases, but with a single "
            f"seed, so this is a hint and no more: {numbers}; {where}."
        )
    if row.p_holm < LEVEL and (row.low > 0 or row.high < 0):
        return f"**{row.method} was {direction} than {row.reference}**: {numbers}; {where}."
    if row.p_holm < LEVEL:
        return (
            f"{row.method} was {direction} than {row.reference} by the corrected test over cases, but not by the "
            f"interval, which counts as well how much seeds vary, so this is a hint and no more: {numbers}; {where}."
        )
    if row.low > 0 or row.high < 0:
        return (
            f"{row.method} was {direction} than {row.reference} by the interval, but not by the corrected test, so "
            f"this is a hint and no more: {numbers}; {where}."
        )
    return f"No difference between {row.method} and {row.reference} was shown: {numbers}; {where}."


def _head(results: Results) -> Iterator[str]:
    total, done = len(results.runs), len(results.done)
    failed = [run for run in results.runs if run["status"] == "failed"]
    yield from (f"# Study: {results.study.name}", "", results.study.question, "")
    yield f"{done} of {total} runs are done, {len(failed)} failed." + (
        "" if done == total else " **The study is not complete; what follows is of the runs that are.**"
    )
    yield from (f"- failed: {run['run']}: {run['reason']}" for run in failed)
    if len(_each(results, "code")) > 1:
        yield "- The runs were made with more than one version of the code; runs.csv says which."
    devices = _each(results, "device")
    if len(devices) > 1:
        yield f"- The runs were made on different devices ({'; '.join(devices)}); runs.csv says which."
    yield ""


def _each(results: Results, column: str) -> list[str]:
    """The different values of a column; a run that went on elsewhere has more than one."""
    return sorted({value for run in results.done for value in run[column].split(" | ")})


def _findings(results: Results, confidence: float) -> Iterator[str]:
    wanted = results.study.primary
    yield from ("## What was shown, and what was not", "")
    subset = wanted["subset"]
    subset = f'subset "{subset}"' if isinstance(subset, str) else "with the subset of each method"
    yield (
        f"The question is answered by {wanted['metric']} of {', '.join(wanted['regions'])}, {subset}, "
        f"which the definition names: {len(results.primary)} comparisons, corrected among "
        f"themselves. {len(results.differences)} comparisons were made in all; the tables below are corrected for all "
        "of them. A method and its reference are compared with the seeds that both have. Intervals resample cases and "
        "seeds; the tests are over cases, each averaged over seeds, so that P speaks of other cases and not of other "
        "seeds."
    )
    yield ""
    for data, row in results.primary:
        pair = on_shared_seeds(*(results.methods[data, name] for name in (row.reference, row.method)))
        yield f"- {statement(data, row, confidence, len(pair[0].runs) if pair else 0)}"
    cases = [row.studies for _, row in results.primary]
    if cases:
        yield f"- With {min(cases)} cases no P can be below {2 / 2 ** min(cases):.2g}, before any correction."
    else:
        yield "- Nothing can be compared yet: no comparison has both sides."
    fewest = min(len(method.runs) for method in results.methods.values())
    if fewest < 3:
        yield f"- Some methods have {fewest} seed(s): how much training varies is hardly known."
    yield ""


def _by_seed(gains: Sequence[Gain]) -> Iterator[str]:
    if gains:
        yield from (
            "## Seed by seed",
            "",
            "Gain in mean Dice over cases, with the subset above, percentage points.",
            "",
        )
        yield from (
            "| data | method | reference | seed | " + " | ".join(REGIONS) + " |",
            "|---|---|---|---:|---:|---:|---:|",
        )
    for gain in gains:
        cells = " | ".join(f"{100 * gain.dice[region]:+.2f}" for region in REGIONS)
        yield f"| {gain.data} | {gain.method} | {gain.reference} | {gain.seed} | {cells} |"
    yield ""


def _scores(results: Results) -> Iterator[str]:
    groups = {f"{number} modalities": names for number, names in subset_groups().items()} | {"average": [AVERAGE]}
    groups = {name.replace("1 modalities", "1 modality"): names for name, names in groups.items()}
    yield from ("## Scores", "", "Mean Dice in percent over seeds, cases and the subsets with so many modalities.", "")
    for region in REGIONS:
        yield from (
            f"| {region} | data | seeds | " + " | ".join(groups) + " |",
            "|---|---|---:|" + "---:|" * len(groups),
        )
        for (data, name), method in results.methods.items():
            means = [mean_score(method, column("Dice", region), names) for names in groups.values()]
            cells = " | ".join("" if mean is None else f"{100 * mean:.2f}" for mean in means)
            yield f"| {name} | {data} | {len(method.runs)} | {cells} |"
        yield ""


def _gap(gains: Sequence[Gain], figures: Sequence[str]) -> Iterator[str]:
    measured = [gap for gap in GAPS if any(np.isfinite(gain.gaps[gap]).all() for gain in gains)]
    if not measured:
        return
    yield from ("## Modality gap against gain", "")
    yield "How far apart the modalities' latents lie, in the reference and in the method."
    yield ""
    yield "| method | reference | seed | " + " | ".join(GAPS[gap] for gap in measured) + " | gain (mean of regions) |"
    yield "|---|---|---:|" + "---:|" * (len(measured) + 1)
    for gain in gains:
        cells = " | ".join("{:.3f} → {:.3f}".format(*gain.gaps[gap]) for gap in measured)
        mean = 100 * float(np.mean(list(gain.dice.values())))
        yield f"| {gain.method} | {gain.reference} | {gain.seed} | {cells} | {mean:+.2f} |"
    yield ""
    if "modality_gap.png" in figures:
        yield from ("![Change of the modality gap against the gain in Dice](modality_gap.png)", "")


def _curves(figures: Sequence[str]) -> Iterator[str]:
    own = [name for name in figures if name.startswith("curves")]
    if own:
        yield from ("## Learning curves", "")
    for name in own:
        yield from (f"![Learning curves]({name})", "")


def _differences(results: Results, figures: Sequence[str]) -> Iterator[str]:
    if results.differences:
        yield from ("## All differences", "")
        yield (
            "Mean paired difference and its interval; Dice in percentage points, HD95 in mm. \\* marks P < 0.05 after "
            f"Holm's correction for all {len(results.differences)} comparisons."
        )
        yield ""
    for name in figures:
        if name.startswith("forest"):
            yield from (f"![Differences]({name})", "")
    for data in dict.fromkeys(data for data, _ in results.differences):
        rows = [row for other, row in results.differences if other == data]
        for line in difference_tables(rows, "holm"):
            yield f"#{line} ({data})" if line.startswith("## ") else line


def _costs(results: Results) -> Iterator[str]:
    yield from (
        "## What the runs cost",
        "",
        "| run | attempts | CPU min | wall min | device |",
        "|---|---:|---:|---:|---|",
    )
    for run in results.done:
        cpu, wall = (
            sum(float(run[f"{phase}_{what}"]) for phase in ("training", "evaluation")) / 60
            for what in ("cpu_seconds", "seconds")
        )
        yield f"| {run['run']} | {run['training_attempts']} | {cpu:.1f} | {wall:.1f} | {run['device']} |"
    yield from ("", "Of a run with several attempts the time is that of the last one.", "")


def _sources(results: Results) -> Iterator[str]:
    yield from ("## Where the numbers come from", "")
    yield (
        "Every number follows from these files by `python scripts/report_study.py`; `comparison.csv` holds the "
        "differences with all digits and both P values."
    )
    yield ""
    for name in TABLES:
        digest = hashlib.sha256((results.folder / name).read_bytes()).hexdigest()
        yield f"- `{name}`, SHA-256 {digest[:16]}"
    for what in ("code", "device", "versions"):
        for value in dict.fromkeys(run[what] for run in results.done):
            shown = ", ".join(f"{k} {v}" for k, v in json.loads(value).items()) if value.startswith("{") else value
            yield f"- {what}: {shown}"


def publish(results: Results, page_dir: Path) -> None:
    """Puts the tables beside the page, unless they are there already."""
    page_dir.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        content = (results.folder / name).read_bytes()
        if not (page_dir / name).is_file() or (page_dir / name).read_bytes() != content:
            (page_dir / name).write_bytes(content)
