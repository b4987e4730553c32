"""Dividing studies into training and validation, the same way on every machine."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

__all__ = ["SECTIONS", "patient_of", "read_split", "split_names"]

SECTIONS: tuple[str, ...] = ("training", "validation")
"""The two parts of a split, and the keys of a split file."""

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
    patients: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        patients[patient_of(name)].append(name)
    drawn = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest())
    wanted = max(1, round(len(names) * validation_fraction)) if validation_fraction > 0 else 0
    validation: list[str] = []
    for patient in drawn[:-1]:
        if len(validation) >= wanted:
            break
        validation += patients[patient]
    chosen = set(validation)
    return {"training": sorted(name for name in names if name not in chosen), "validation": sorted(validation)}


def read_split(split_file: str | Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Reads a split that was made before.

    Args:
        split_file: JSON ``{"training": [names], "validation": [names]}``.
        names: the studies that there are; those in neither list are left out with a warning.

    Returns:
        The names per entry of ``SECTIONS``, each sorted.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: for another structure, names that are not there, or a name in both lists.
    """
    path = Path(split_file)
    if not path.is_file():
        raise FileNotFoundError(f"split_file {path} does not exist; correct the path or leave split_file out.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"split_file {path} is not JSON: {error}.") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(section), list) for section in SECTIONS):
        raise ValueError(
            f'split_file {path} must hold {{"training": [names], "validation": [names]}}, got {str(content)[:200]}.'
        )
    split = {section: sorted({str(name) for name in content[section]}) for section in SECTIONS}
    unknown = sorted({name for section in SECTIONS for name in split[section]} - set(names))
    if unknown:
        raise ValueError(
            f"split_file {path} names {len(unknown)} studies that dataset_dir does not have, or not with a label: "
            f"{unknown[:10]}; it has {sorted(names)[:10]}."
        )
    both = sorted(set(split["training"]) & set(split["validation"]))
    if both:
        raise ValueError(f"split_file {path} has studies in both training and validation: {both}; keep each in one.")
    left = sorted(set(names) - set(split["training"]) - set(split["validation"]))
    if left:
        warnings.warn(f"split_file {path} leaves out {len(left)} studies: {left[:10]}.", stacklevel=2)
    return split
