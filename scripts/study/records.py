"""A study's results as tables: one line per score, one per run, one per point of a learning curve."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmap_components.metrics import METRICS, SCORED_REGIONS, column
from medmap_components.metrics.protocol import read_protocol
from study.files import compact, read_csv, read_json, write_csv
from study.jobs import PHASES, Job
from study.taken_over import RUN_COLUMNS

RESULT_COLUMNS = (*RUN_COLUMNS[1:], "case", "subset", "shown", "region", *METRICS)
CURVE_COLUMNS = (*RUN_COLUMNS, "curve", "epoch", "value")
PHASE_COLUMNS = ("seconds", "cpu_seconds", "attempts", "finished")
GAP_COLUMNS = ("level", "centroid_distance", "mmd", "probe_accuracy", "chance")
RECORD_COLUMNS = (
    *RUN_COLUMNS,
    "status",
    "reason",
    *(f"{phase}_{what}" for phase in PHASES for what in PHASE_COLUMNS),
    "device",
    "code",
    "configs_sha256",
    "checkpoint_sha256",
    "protocol_sha256",
    *(f"gap_{name}" for name in GAP_COLUMNS),
    "section",
    "overrides",
    "evaluation",
    "versions",
)


def collect(jobs: Sequence[Job], output_dir: Path) -> None:
    """Writes ``results.csv``, ``runs.csv`` and ``curves.csv`` in the study's order.

    Lines of runs that were taken over stay as they are; the others come from the folders of the runs.

    Args:
        jobs: all of the study.
        output_dir: the study's.
    """
    write_csv(output_dir / "results.csv", RESULT_COLUMNS, (row for job in jobs if job.is_done for row in _results(job)))
    write_csv(output_dir / "runs.csv", RECORD_COLUMNS, (_record(job) for job in jobs))
    write_csv(output_dir / "curves.csv", CURVE_COLUMNS, (row for job in jobs for row in _curves(job)))


def _identity(job: Job) -> dict[str, Any]:
    return {"run": job.run.name, **{name: getattr(job.run, name) for name in RUN_COLUMNS[1:]}}


def _results(job: Job) -> Iterator[Mapping[str, Any]]:
    """The cells of ``cases.csv`` as they stand there, one line per region."""
    if job.taken:
        yield from job.taken.results
        return
    own = _identity(job)
    del own["run"]
    with (job.folder / "evaluation" / "cases.csv").open(newline="", encoding="utf-8") as file:
        for case in csv.DictReader(file):
            for region in SCORED_REGIONS:
                scores = {metric: case[column(metric, region)] for metric in METRICS}
                place = {"case": case["study"], "subset": case["subset"], "shown": case["shown"], "region": region}
                yield {**own, **place, **scores}


def _record(job: Job) -> Mapping[str, Any]:
    if job.taken:
        return job.taken.record
    found, run = job.record(), job.run
    attempts, failure = found["attempts"], found["failure"]
    status = "done" if job.is_done else "failed" if failure else "begun" if attempts else "waiting"
    row = {**_identity(job), "status": status, "reason": failure.get("reason", "")}
    for phase in PHASES:
        row |= {f"{phase}_{key}": found[phase].get(key, "") for key in PHASE_COLUMNS}
    row |= {key: _each(attempts, key) for key in ("device", "code", "configs_sha256", "versions")}
    row["checkpoint_sha256"] = found["training"].get("checkpoint_sha256", "")
    if job.is_done:
        protocol = read_protocol(job.folder / "evaluation" / "protocol.json")
        gap = protocol.get("additions", {}).get("modality_gap", {})
        row |= {f"gap_{name}": gap.get(name, "") for name in GAP_COLUMNS}
        row["protocol_sha256"] = hashlib.sha256(compact(protocol["protocol"]).encode()).hexdigest()
    own = {"section": run.section, "overrides": compact(run.overrides), "evaluation": compact(run.evaluation)}
    return {**row, **own}


def _each(attempts: Iterable[dict[str, Any]], key: str) -> str:
    """The different values that the attempts had, which is one unless something changed in between."""
    values = (value if isinstance(value := attempt[key], str) else compact(value) for attempt in attempts)
    return " | ".join(dict.fromkeys(values))


def _curves(job: Job) -> Sequence[Mapping[str, Any]]:
    """The curves of a training that has ended, read from its TensorBoard files once."""
    if job.taken:
        return job.taken.curves
    path = job.folder / "curves.csv"
    if not read_json(job.folder / "training.json"):
        return []
    if not path.is_file():
        points = _points(job.folder / "training" / "tensorboard")
        own = _identity(job)
        rows = [{**own, "curve": curve, "epoch": epoch, "value": value} for (curve, epoch), value in points.items()]
        write_csv(path, CURVE_COLUMNS, rows)
    return list(read_csv(path))


def _points(folder: Path) -> dict[tuple[str, int], float]:
    """Name and epoch of each point to its value; of an epoch that was trained twice, the later one."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points: dict[tuple[str, int], float] = {}
    for file in sorted(folder.glob("events.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            if not tag.startswith(("iteration/", "anchor_gradient")):
                points |= {(tag, event.step): event.value for event in events.Scalars(tag)}
    return dict(sorted(points.items()))
