"""Runs that were done elsewhere, taken over from the tables that they left, so that they need not be repeated."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from study.definition import Run, Study
from study.files import compact, read_csv

RUN_COLUMNS = ("run", "bundle", "seed", "setting", "data")
"""What names a run in the tables."""

Row = Mapping[str, str]


class TakenOver(NamedTuple):
    """The lines of one finished run.

    Attributes:
        record: of ``runs.csv``.
        results: of ``results.csv``.
        curves: of ``curves.csv``.
    """

    record: Row
    results: Sequence[Row]
    curves: Sequence[Row]


def take_over(study: Study, tables_dir: Path) -> dict[str, TakenOver]:
    """Finds the finished runs of a study in the tables of another folder.

    Args:
        study: what is to be run now.
        tables_dir: an output folder of run_study.py, or a page's folder.

    Returns:
        Name of the run to its lines. Runs that the study does not have are left out.

    Raises:
        FileNotFoundError: when the folder lacks a table, or the definition that it was made by.
        ValueError: when a run, or its data, was defined differently there, or the tables do not belong together.
    """
    definition = tables_dir / "study.json"
    if not definition.is_file():
        raise FileNotFoundError(f"{definition} does not exist; give the folder of a study's tables.")
    data = json.loads(definition.read_text(encoding="utf-8"))["data"]
    results, curves = (_by_run(read_csv(tables_dir / f"{name}.csv")) for name in ("results", "curves"))
    wanted = {run.name: run for run in study.runs}
    taken = {}
    for record in read_csv(tables_dir / "runs.csv"):
        run = wanted.get(record["run"])
        if run is None or record["status"] != "done":
            continue
        _check_same(run, record, study, data, tables_dir)
        key = tuple(record[column] for column in RUN_COLUMNS[1:])
        if not results[key]:
            raise ValueError(f"{tables_dir / 'results.csv'} has no line of run {run.name}, which is done by runs.csv.")
        taken[run.name] = TakenOver(record, results[key], curves[key])
    return taken


def _by_run(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[column] for column in RUN_COLUMNS[1:])].append(row)
    return found


def _check_same(run: Run, record: Row, study: Study, data: Mapping[str, Mapping[str, object]], folder: Path) -> None:
    now = {name: compact(getattr(run, name)) for name in ("overrides", "evaluation")} | {"section": run.section}
    different = [name for name, value in now.items() if record[name] != value]
    source = dict(study.data[run.data])
    fold = source.pop("fold", None)
    if source != data.get(run.data if fold is None else run.data.rpartition("_fold")[0]):
        different.append("data")
    if different:
        raise ValueError(
            f"run {run.name} was made with other {different} in {folder} than the definition has now; give the setting "
            "another name, or begin without --finished."
        )
