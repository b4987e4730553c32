"""From a study's tables to paired differences, the modality gap, and what may be said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medmap_components.metrics import METRICS, SCORED_REGIONS, column
from medmap_components.metrics.comparison import Difference, Method, Run, compare_methods, holm
from medmap_components.metrics.subset_tables import AVERAGE
from medmap_components.modalities import REGIONS, SUBSETS
from study.definition import Study, method_name, read_study
from study.files import read_csv

LEVEL = 0.05
GAPS = {"gap_centroid_distance": "centroid distance", "gap_mmd": "MMD", "gap_probe_accuracy": "linear probe"}


class Results(NamedTuple):
    """A study's tables, and what follows from them.

    Attributes:
        study: the definition that was run.
        folder: where the tables are.
        runs: rows of ``runs.csv``.
        curves: rows of ``curves.csv``.
        methods: data group and method to the method's runs, those that all folds of a seed are done of.
        differences: of all comparisons, data group first, over the seeds that both sides have; ``p_holm`` is corrected
            for all of them together.
        primary: those that the study's question is answered by, corrected among themselves.
    """

    study: Study
    folder: Path
    runs: list[dict[str, str]]
    curves: list[dict[str, str]]
    methods: dict[tuple[str, str], Method]
    differences: list[tuple[str, Difference]]
    primary: list[tuple[str, Difference]]

    @property
    def done(self) -> list[dict[str, str]]:
        """The runs that are done."""
        return [run for run in self.runs if run["status"] == "done"]


class Gain(NamedTuple):
    """What one seed of a method gained over the same seed of its reference.

    Attributes:
        data: the data group.
        method: the method.
        reference: what it is compared with.
        seed: of both.
        dice: region to mean difference of Dice over cases, with the subset that is asked about.
        gaps: key of ``GAPS`` to the values of reference and method.
    """

    data: str
    method: str
    reference: str
    seed: str
    dice: dict[str, float]
    gaps: dict[str, tuple[float, float]]


def read_results(folder: str | Path, samples: int = 10_000) -> Results:
    """Reads the tables of a study and compares its methods.

    Args:
        folder: output folder of ``run_study.py``, or a copy of its tables.
        samples: bootstrap samples. Default 10000.

    Raises:
        FileNotFoundError: when a table is missing.
        ValueError: when runs of the same data were evaluated differently, or nothing is done.
    """
    folder = Path(folder)
    study = read_study(folder / "study.json", check=False)
    runs = read_csv(folder / "runs.csv")
    curves = read_csv(folder / "curves.csv")
    _check_protocols(runs)
    methods = _methods(read_csv(folder / "results.csv"), _complete(runs))
    if not methods:
        raise ValueError(f"{folder} holds no method of which a seed is done; run scripts/run_study.py on.")
    found = []
    for data in dict.fromkeys(group for group, _ in methods):
        for reference, others in study.comparisons:
            for other in others:
                pair = on_shared_seeds(methods.get((data, reference)), methods.get((data, other)))
                found += [(data, difference) for difference in (compare_methods(pair, samples) if pair else ())]
    return Results(study, folder, runs, curves, methods, _corrected(found), _corrected(_primary(study, found)))


def group_of(data: str) -> str:
    """The data that a fold belongs to."""
    name, separator, number = data.rpartition("_fold")
    return name if separator and number.isdigit() else data


def on_shared_seeds(reference: Method | None, other: Method | None) -> tuple[Method, Method] | None:
    """Both methods with the runs of the seeds that both have; None where there is no such seed."""
    if reference is None or other is None:
        return None
    shared = {run.folder for run in reference.runs} & {run.folder for run in other.runs}
    first, second = (
        Method(one.name, tuple(run for run in one.runs if run.folder in shared)) for one in (reference, other)
    )
    return (first, second) if shared else None


def gains(results: Results) -> Iterator[Gain]:
    """The gain of every seed that a method shares with its reference."""
    compared = dict.fromkeys((data, row.method, row.reference) for data, row in results.differences)
    for data, name, reference in compared:
        ours, theirs = ({str(run.folder): run for run in results.methods[data, one].runs} for one in (name, reference))
        for seed in (seed for seed in ours if seed in theirs):
            subset = asked_subset(results.study, name)
            dice = {
                region: _mean(ours[seed], region, subset) - _mean(theirs[seed], region, subset) for region in REGIONS
            }
            pairs = zip(_gap(results, data, reference, seed), _gap(results, data, name, seed), strict=True)
            yield Gain(data, name, reference, seed, dice, dict(zip(GAPS, pairs, strict=True)))


def asked_subset(study: Study, method: str) -> str:
    """The subset that the question about a method is answered by; the average where the definition has none for it."""
    subset: str | Mapping[str, str] = study.primary["subset"]
    return subset if isinstance(subset, str) else subset.get(method, AVERAGE)


def subset_groups() -> dict[str, list[str]]:
    """Number of modalities to the names of the subsets that have so many."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for subset in SUBSETS:
        groups[f"{sum(subset.mask)}"].append(subset.name)
    return dict(sorted(groups.items()))


def mean_score(method: Method, key: str, subsets: Sequence[str]) -> float | None:
    """Mean of a score over seeds, subsets and cases; None where no case has any of the subsets."""
    values = [value for run in method.runs for (subset, _), value in run.scores[key].items() if subset in subsets]
    return float(np.mean(values)) if values else None


def _check_protocols(runs: Sequence[Mapping[str, str]]) -> None:
    for data in {run["data"] for run in runs}:
        protocols = {run["protocol_sha256"] for run in runs if run["data"] == data and run["status"] == "done"}
        if len(protocols) > 1:
            raise ValueError(
                f"the runs on {data!r} were evaluated in {len(protocols)} different ways (protocol_sha256 in runs.csv) "
                "and cannot be compared; delete those of one way and run them again."
            )


def _complete(runs: Sequence[Mapping[str, str]]) -> set[tuple[str, str, str]]:
    """Data group, method and seed of which all folds are done."""
    states: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for run in runs:
        states[group_of(run["data"]), method_name(run["bundle"], run["setting"]), run["seed"]].add(run["status"])
    return {key for key, found in states.items() if found == {"done"}}


def _methods(
    results: Sequence[Mapping[str, str]], complete: set[tuple[str, str, str]]
) -> dict[tuple[str, str], Method]:
    """Scores as ``read_run`` gives them, the folds of a seed put together."""
    columns = [column(metric, region) for metric in METRICS for region in SCORED_REGIONS]
    tables: dict[tuple[str, str, str], dict[str, dict[tuple[str, str], float]]] = {}
    for row in results:
        key = group_of(row["data"]), method_name(row["bundle"], row["setting"]), row["seed"]
        if key in complete:
            table = tables.setdefault(key, {name: {} for name in columns})
            for metric in METRICS:
                table[column(metric, row["region"])][row["subset"], row["case"]] = float(row[metric])
    methods: dict[tuple[str, str], Method] = {}
    for (data, name, seed), table in tables.items():
        for scores in table.values():
            for case in {case for _, case in scores}:
                scores[AVERAGE, case] = float(np.mean([value for (_, other), value in scores.items() if other == case]))
        earlier = methods[data, name].runs if (data, name) in methods else ()
        methods[data, name] = Method(name, (*earlier, Run(name, Path(seed), {}, table)))
    return methods


def _primary(study: Study, found: Sequence[tuple[str, Difference]]) -> list[tuple[str, Difference]]:
    wanted = study.primary
    return [
        (data, row)
        for data, row in found
        if (row.metric, row.subset) == (wanted["metric"], asked_subset(study, row.method))
        and row.region in wanted["regions"]
    ]


def _corrected(found: Sequence[tuple[str, Difference]]) -> list[tuple[str, Difference]]:
    corrected = holm([row.p for _, row in found]) if found else []
    return [(data, row._replace(p_holm=p)) for (data, row), p in zip(found, corrected, strict=True)]


def _mean(run: Run, region: str, subset: str) -> float:
    scores = run.scores[column("Dice", region)]
    return float(np.mean([value for (shown, _), value in scores.items() if shown == subset]))


def _gap(results: Results, data: str, method: str, seed: str) -> list[float]:
    """The measures of the gap, over folds; NaN where they were not measured."""
    rows = [
        run
        for run in results.done
        if (group_of(run["data"]), method_name(run["bundle"], run["setting"]), run["seed"]) == (data, method, seed)
    ]
    return [float(np.mean([float(row[key] or "nan") for row in rows])) for key in GAPS]
