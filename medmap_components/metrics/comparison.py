"""Paired comparison of evaluations: differences per case, a signed-rank test, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from medmap_components.metrics.protocol import protocol_differences, read_protocol
from medmap_components.metrics.scores import METRICS, SCORED_REGIONS, column
from medmap_components.metrics.subset_tables import AVERAGE, read_cases

__all__ = ["Difference", "Method", "Run", "compare_methods", "group_runs", "holm", "read_run", "signed_rank_p"]


class Run(NamedTuple):
    """One evaluation.

    Attributes:
        name: of the method that it belongs to.
        folder: where it was read from.
        protocol: the content of its ``protocol.json``.
        scores: column to (subset, study) to score; the subset ``"average"`` is each study's mean over its subsets.
    """

    name: str
    folder: Path
    protocol: dict[str, Any]
    scores: dict[str, dict[tuple[str, str], float]]


class Method(NamedTuple):
    """The evaluations of one method, which differ by their seeds.

    Attributes:
        name: of the method.
        runs: at least one.
    """

    name: str
    runs: tuple[Run, ...]

    def values(self, key: str, subset: str, studies: Sequence[str]) -> NDArray[np.float64]:
        """Scores ``(seeds, studies)``."""
        return np.array([[run.scores[key][subset, study] for study in studies] for run in self.runs])


class Difference(NamedTuple):
    """The paired difference of two methods in one metric, region and subset.

    Attributes:
        method: the method that is compared.
        reference: the one that it is compared with.
        metric: ``"Dice"`` or ``"HD95"``.
        region: one of ``SCORED_REGIONS``.
        subset: name, or ``"average"``.
        studies: number of pairs.
        mean: of ``method - reference``, over studies and seeds.
        low: lower end of the bootstrap interval of the mean.
        high: its upper end.
        p: of the two-sided Wilcoxon signed-rank test over the studies, each averaged over seeds.
        p_holm: ``p`` corrected for all comparisons that were made.
    """

    method: str
    reference: str
    metric: str
    region: str
    subset: str
    studies: int
    mean: float
    low: float
    high: float
    p: float
    p_holm: float


def read_run(folder: str | Path, name: str | None = None) -> Run:
    """Reads an evaluation's folder.

    Args:
        folder: with ``cases.csv`` and ``protocol.json``.
        name: of the method. None (the default): the bundle's name that the evaluation recorded.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when a file holds something else, or no case.
    """
    folder = Path(folder)
    protocol = read_protocol(folder / "protocol.json")
    cases = read_cases(folder / "cases.csv")
    if not cases:
        raise ValueError(f"{folder / 'cases.csv'} holds no case; there is nothing to compare.")
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for key in (column(metric, region) for metric in METRICS for region in SCORED_REGIONS):
        table = {(case.subset, case.study): case.scores[key] for case in cases}
        for study in {case.study for case in cases}:
            table[AVERAGE, study] = float(np.mean([case.scores[key] for case in cases if case.study == study]))
        scores[key] = table
    return Run(name or str(protocol["run"]["bundle"]), folder, protocol, scores)


def group_runs(runs: Sequence[Run]) -> list[Method]:
    """Groups runs by their method's name, after making sure that they can be compared.

    Args:
        runs: the first one's method comes first.

    Returns:
        At least two methods.

    Raises:
        ValueError: for different cases or protocols, saying what differs; for fewer than two methods; for two runs of a
            method that have one seed or the same weights.
    """
    for run in runs[1:]:
        differences = protocol_differences(runs[0].protocol, run.protocol)
        if differences:
            raise ValueError(
                f"{runs[0].folder} (first) and {run.folder} (second) cannot be compared, they differ in\n  "
                + "\n  ".join(differences)
                + "\nEvaluate them again on the same cases with the same settings."
            )
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    if len(groups) < 2:
        raise ValueError(
            f"all {len(runs)} evaluations belong to {list(groups)}; a comparison needs two methods. Give names, as in "
            "aligned=FOLDER plain=FOLDER, where one bundle was trained in two ways."
        )
    for name, members in groups.items():
        for what in ("seed", "checkpoint_sha256"):
            seen = [run.protocol["run"][what] for run in members]
            if len(members) > 1 and len(set(map(str, seen))) < len(seen):
                raise ValueError(
                    f"the {len(members)} evaluations of {name!r} do not all have another {what}: {seen}. Evaluate with "
                    "the --seed that each was trained with, or give other methods another name as in NAME=FOLDER."
                )
    return [Method(name, tuple(members)) for name, members in groups.items()]


def compare_methods(
    methods: Sequence[Method], samples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> list[Difference]:
    """Compares every further method with the first one: each metric, region and subset, and the subsets' average.

    Studies are resampled together for both methods, and seeds for each method by itself where it has several.

    Args:
        methods: from :func:`group_runs`.
        samples: bootstrap samples. Default 10000.
        confidence: of the intervals, between 0 and 1. Default 0.95.
        seed: of the resampling. Default 0.

    Raises:
        ValueError: for a ``confidence`` outside of 0 to 1, or fewer than 1 ``samples``.
    """
    if not 0 < confidence < 1 or samples < 1:
        raise ValueError(
            f"confidence must lie between 0 and 1 and samples be at least 1, got {confidence} and {samples}."
        )
    reference = methods[0]
    places = list(next(iter(reference.runs[0].scores.values())))
    studies = {subset: sorted(study for other, study in places if other == subset) for subset, _ in places}
    found = []
    for method in methods[1:]:
        for metric in METRICS:
            for region in SCORED_REGIONS:
                for subset, names in studies.items():
                    key = column(metric, region)
                    pair = [one.values(key, subset, names) for one in (method, reference)]
                    paired = pair[0].mean(axis=0) - pair[1].mean(axis=0)
                    low, high = _bootstrap(pair[0], pair[1], samples, confidence, seed)
                    p = signed_rank_p(paired)
                    place = (method.name, reference.name, metric, region, subset, len(names))
                    found.append(Difference(*place, float(paired.mean()), low, high, p, p))
    corrected = holm([difference.p for difference in found])
    return [difference._replace(p_holm=p) for difference, p in zip(found, corrected, strict=True)]


def signed_rank_p(differences: NDArray[np.float64]) -> float:
    """P value of the two-sided Wilcoxon signed-rank test; zeros are left out, and 1 where nothing else is left.

    Differences are rounded to 12 decimals first, so that the order of a sum does not break ties.
    """
    differences = np.round(differences, 12)
    differences = differences[differences != 0]
    return float(wilcoxon(differences).pvalue) if len(differences) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: P values that hold for all tests of a family together.

    Args:
        p_values: of the family, in any order.

    Returns:
        The corrected ones in the same order.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(order) - np.arange(len(order))
    stepped = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1.0)
    corrected = np.empty(len(order))
    corrected[order] = stepped
    return [float(value) for value in corrected]


def _bootstrap(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    samples: int,
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """Percentile interval of the mean of ``first - second``, both ``(seeds, studies)``; the same draws every time."""
    random = np.random.default_rng(seed)
    studies = first.shape[1]
    columns = random.integers(studies, size=(samples, studies))
    means = np.zeros(samples)
    for values, sign in ((first, 1), (second, -1)):
        if len(values) == 1:
            means += sign * values[0][columns].mean(axis=1)
        else:
            rows = random.integers(len(values), size=(samples, len(values)))
            # the mean over the drawn seeds, for the drawn studies
            shares = np.stack([(rows == row).mean(axis=1) for row in range(len(values))])
            means += sign * sum(share * row[columns].mean(axis=1) for share, row in zip(shares, values, strict=True))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
