"""Dividing studies into training and validation, the same way on every machine."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

__all__ = [
    "PUBLISHED_SPLITS",
    "SECTIONS",
    "TEST",
    "fold_names",
    "patient_of",
    "published_split",
    "read_split",
    "split_names",
]

SECTIONS: tuple[str, ...] = ("training", "validation")
"""The two parts of a split, and the keys of a split file."""

TEST = "test"
"""The third part, which a split file may have."""

PUBLISHED_SPLITS: dict[str, tuple[str, str]] = {
    "brats2018-1": ("brats2018.csv", "list1"),
    "brats2018-2": ("brats2018.csv", "list2"),
    "brats2018-3": ("brats2018.csv", "list3"),
    "brats2020": ("brats2020.csv", "list1"),
}
"""Names of the literature's lists, and where they are; ``split_lists/README.md`` says where they come from."""

_LIST_DIR = Path(__file__).with_name("split_lists")

_TIME_POINT = re.compile(r"^(BraTS-[A-Za-z]+-\d+)-\d{3}$", re.IGNORECASE)


def patient_of(name: str) -> str:
    """The patient that a study belongs to.

    From 2023 on, BraTS names a study ``BraTS-GLI-<patient>-<time point>``; other names are patients of their own.
    """
    match = _TIME_POINT.match(name)
    return match[1] if match else name


def split_names(names: Sequence[str], validation_fraction: float, seed: int) -> dict[str, list[str]]:
    """Splits by a hash of patient and seed, so that neither order nor platform matters.

    All studies of a patient stay together. With at least two patients and a fraction above 0 each section gets at
    least one; a single patient goes to training.

    Args:
        names: the studies' names, in any order.
        validation_fraction: share of the studies for validation, from 0 (none) to below 1.
        seed: another seed, another split.

    Returns:
        The names per entry of ``SECTIONS``, each sorted.

    Raises:
        ValueError: when ``validation_fraction`` is out of range.
    """
    if not 0.0 <= validation_fraction < 1.0:
        raise ValueError(f"validation_fraction must be at least 0 and below 1, got {validation_fraction}.")
    patients = _shuffled_patients(names, seed)
    drawn = list(patients)
    wanted = max(1, round(len(names) * validation_fraction)) if validation_fraction > 0 else 0
    validation: list[str] = []
    for patient in drawn[:-1]:
        if len(validation) >= wanted:
            break
        validation += patients[patient]
    chosen = set(validation)
    return {"training": sorted(name for name in names if name not in chosen), "validation": sorted(validation)}


def fold_names(names: Sequence[str], folds: int = 5, seed: int = 0) -> list[dict[str, list[str]]]:
    """Cross-validation: every study is in the validation part of exactly one fold, all of a patient in the same.

    It depends on names and seed alone, not on the order of the names; nothing is stratified.

    Args:
        names: the studies' names, in any order.
        folds: number of folds, at least 2. Default 5.
        seed: another seed, another division. Default 0.

    Returns:
        A split per fold, as :func:`split_names` gives it. The folds differ by one patient at most.

    Raises:
        ValueError: for fewer than 2 folds, fewer patients than folds, or a name that is there twice.
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}.")
    if len(set(names)) < len(names):
        raise ValueError(f"names holds {len(names) - len(set(names))} names twice; every study needs its own.")
    patients = _shuffled_patients(names, seed)
    if len(patients) < folds:
        raise ValueError(f"names holds {len(patients)} patients, fewer than the {folds} folds; use fewer folds.")
    parts: list[list[str]] = [[] for _ in range(folds)]
    for index, studies in enumerate(patients.values()):
        parts[index % folds] += studies
    return [
        {"training": sorted(set(names) - set(validation)), "validation": sorted(validation)} for validation in parts
    ]


def published_split(name: str) -> dict[str, list[str]]:
    """A split of the literature, by the names of the data set's studies.

    Args:
        name: one of ``PUBLISHED_SPLITS``.

    Returns:
        The names of ``"training"``, ``"validation"`` and ``"test"``, each sorted.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in PUBLISHED_SPLITS:
        raise ValueError(f"name must be one of {list(PUBLISHED_SPLITS)}, got {name!r}.")
    file_name, column = PUBLISHED_SPLITS[name]
    with (_LIST_DIR / file_name).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {section: sorted(row["study"] for row in rows if row[column] == section) for section in (*SECTIONS, TEST)}


def read_split(split_file: str | Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Reads a split that was made before.

    Args:
        split_file: JSON ``{"training": [names], "validation": [names]}``, and ``"test"`` where there is one.
        names: the studies that there are; those in none of the lists are left out with a warning.

    Returns:
        The names per entry of ``SECTIONS``, and of ``"test"`` where the file has it, each sorted.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: for another structure, names that are not there, or a name in two lists.
    """
    path = Path(split_file)
    if not path.is_file():
        raise FileNotFoundError(f"split_file {path} does not exist; correct the path or leave split_file out.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"split_file {path} is not JSON: {error}.") from error
    sections = (*SECTIONS, TEST) if isinstance(content, dict) and TEST in content else SECTIONS
    if not isinstance(content, dict) or not all(isinstance(content.get(section), list) for section in sections):
        raise ValueError(
            f'split_file {path} must hold {{"training": [names], "validation": [names]}}, and "test": [names] where '
            f"there is one, got {str(content)[:200]}."
        )
    split = {section: sorted({str(name) for name in content[section]}) for section in sections}
    named = {name for section in sections for name in split[section]}
    unknown = sorted(named - set(names))
    if unknown:
        raise ValueError(
            f"split_file {path} names {len(unknown)} studies that dataset_dir does not have, or not with a label: "
            f"{unknown[:10]}; it has {sorted(names)[:10]}. scripts/prepare_datalist.py writes the part that is there."
        )
    for first, second in combinations(sections, 2):
        both = sorted(set(split[first]) & set(split[second]))
        if both:
            raise ValueError(f"split_file {path} has studies in both {first} and {second}: {both}; keep each in one.")
    left = sorted(set(names) - named)
    if left:
        warnings.warn(f"split_file {path} leaves out {len(left)} studies: {left[:10]}.", stacklevel=2)
    return split


def _shuffled_patients(names: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Patient to sorted studies, in an order that depends on the names and the seed alone."""
    patients: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        patients[patient_of(name)].append(name)
    order = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest())
    return {patient: patients[patient] for patient in order}
