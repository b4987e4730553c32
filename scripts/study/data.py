"""A study's data: folders of studies with a split file that has training, validation and test cases."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from medmap_components.data import find_studies, fold_names, split_names
from medmap_components.data.phantom import write_phantom_case
from medmap_components.data.phantom.parameters import GENERATOR_VERSION
from study.files import write_json

PHANTOM_KEYS = {"phantom", "training", "validation", "test"}
FOLDER_KEYS = {"dataset_dir", "split_file", "folds", "fold", "fold_seed", "validation_fraction"}


class Data(NamedTuple):
    """What a run is given.

    Attributes:
        dataset_dir: folder of labelled studies.
        split_file: which of them are for what.
    """

    dataset_dir: Path
    split_file: Path


def prepare_data(name: str, source: Mapping[str, Any], folder: Path, processes: int = 1) -> Data:
    """Makes or finds the studies and writes the split file. What is there already is left as it is.

    A source is either of

    - ``{"phantom": {"size": 64, "spacing": 3.0}, "training": [first seed, number], "validation": ..., "test": ...}``;
    - ``{"dataset_dir": FOLDER, "split_file": FILE}``, with environment variables in both;
    - ``{"dataset_dir": FOLDER, "folds": 4, "validation_fraction": 0.2}``: each fold is the test part once, and of the
      other cases that fraction chooses the epoch. ``"fold_seed"`` divides them differently.

    Args:
        name: of the data.
        source: as above.
        folder: the study's folder for data.
        processes: how many make phantoms at once.

    Raises:
        FileNotFoundError: when a folder or file is not there.
        ValueError: for another source, sections that share cases, or data that were made from another source before.
    """
    known = PHANTOM_KEYS if "phantom" in source else FOLDER_KEYS
    unknown = sorted(source.keys() - known)
    if unknown:
        raise ValueError(f"data {name!r} has unknown keys {unknown}; it takes {sorted(known)}.")
    if "phantom" in source:
        return _phantoms(name, source, folder, processes)
    dataset_dir = Path(os.path.expandvars(str(source.get("dataset_dir", "")))).expanduser()
    if not source.get("dataset_dir") or not dataset_dir.is_dir():
        raise FileNotFoundError(
            f"data {name!r}: dataset_dir {source.get('dataset_dir')!r} is no folder ({dataset_dir})."
        )
    if "split_file" in source:
        return Data(dataset_dir.resolve(), Path(os.path.expandvars(source["split_file"])).resolve())
    split_file = folder / name / "split.json"
    _keep(split_file, _fold(name, source, dataset_dir), name)
    return Data(dataset_dir.resolve(), split_file.resolve())


def _phantoms(name: str, source: Mapping[str, Any], folder: Path, processes: int) -> Data:
    sections = {section: source.get(section) for section in ("training", "validation", "test")}
    wrong = [section for section, seeds in sections.items() if not (isinstance(seeds, list) and len(seeds) == 2)]
    if wrong:
        raise ValueError(f"data {name!r} must give [first seed, number of cases] for {wrong}.")
    seeds = {section: range(first, first + number) for section, (first, number) in sections.items()}
    every = [seed for numbers in seeds.values() for seed in numbers]
    if len(set(every)) < len(every):
        raise ValueError(f"data {name!r}: sections share seeds, {sections}; test cases would be seen in training.")
    size, spacing = source["phantom"].get("size", 64), float(source["phantom"].get("spacing", 3.0))
    shape = tuple(size) if isinstance(size, list) else (size,) * 3
    origin = {"generator_version": GENERATOR_VERSION, "shape": list(shape), "spacing_mm": spacing, **sections}
    _keep(folder / name / "origin.json", origin, name)
    cases = folder / name / "cases"
    tasks = [(cases, f"Phantom_{seed}", seed, shape, spacing) for seed in every]
    progress = {"total": len(tasks), "desc": f"data {name}", "unit": "case"}
    if processes == 1:
        list(tqdm(map(_write, tasks), **progress))
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            list(tqdm(pool.map(_write, tasks), **progress))
    split_file = folder / name / "split.json"
    _keep(split_file, {section: [f"Phantom_{seed}" for seed in numbers] for section, numbers in seeds.items()}, name)
    return Data(cases.resolve(), split_file.resolve())


def _write(task: tuple[Path, str, int, tuple[int, ...], float]) -> None:
    folder, name, seed, shape, spacing = task
    write_phantom_case(folder, name, seed=seed, shape=shape, spacing=spacing)


def _fold(name: str, source: Mapping[str, Any], dataset_dir: Path) -> dict[str, list[str]]:
    if "fold" not in source:
        raise ValueError(f"data {name!r} needs split_file, or the number of folds.")
    names = [str(item["study"]) for item in find_studies(dataset_dir)]
    seed = int(source.get("fold_seed", 0))
    fold = fold_names(names, int(source["folds"]), seed)[int(source["fold"])]
    rest = split_names(fold["training"], float(source.get("validation_fraction", 0.2)), seed)
    return {**rest, "test": fold["validation"]}


def _keep(path: Path, content: Mapping[str, Any], name: str) -> None:
    """Writes a file, or makes sure that it holds this already: results of other data are not to be mixed in."""
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != content:
            raise ValueError(
                f"data {name!r} was made as {str(found)[:300]} before and would now be {str(content)[:300]}; give the "
                f"study another --output_dir, or delete {path.parent} and the runs that used it."
            )
        return
    write_json(path, content)
