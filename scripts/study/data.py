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

from medmap_components.data import find_studies, fold_names, read_split, split_names
from medmap_components.data.phantom import write_phantom_case
from medmap_components.data.phantom.parameters import GENERATOR_VERSION
from study.files import write_json

PHANTOM_KEYS = {"phantom", "training", "validation", "test"}
BUILT_IN_KEYS = {"built_in", "dataset_dir"}
FOLDER_KEYS = {"dataset_dir", "split_file", "folds", "fold", "fold_seed", "validation_fraction"}


class Data(NamedTuple):
    """What a run is given.

    Attributes:
        dataset_dir: folder of labelled studies.
        split_file: which of them are for what.
        built_in: settings of the bundles' own phantom, where they train on that and the studies are for scoring alone.
    """

    dataset_dir: Path
    split_file: Path
    built_in: Mapping[str, Any] | None = None

    def settings(self, phase: str) -> dict[str, Any]:
        """What a bundle is told of its data, for training or evaluation."""
        if phase == "training" and self.built_in is not None:
            return dict(self.built_in)
        return {"dataset_dir": self.dataset_dir, "split_file": self.split_file}


def plan_data(name: str, source: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of the cases of every section, without making or writing anything.

    A source is one of

    - ``{"phantom": {"size": 64, "spacing": 3.0}, "training": [first seed, number], "validation": ..., "test": ...}``;
    - ``{"dataset_dir": FOLDER, "split_file": FILE}``, with environment variables in both;
    - ``{"built_in": {"phantom_cases": [48, 8], "phantom_fresh": true}, "dataset_dir": FOLDER}``: the bundle trains on
      its own phantom, with these settings of ``train.json``, and is scored on all studies of the folder;
    - ``{"dataset_dir": FOLDER, "folds": 4, "validation_fraction": 0.2}``: each fold is the test part once, and of the
      other cases that fraction chooses the epoch. ``"fold_seed"`` divides them differently.

    Args:
        name: of the data, for messages.
        source: as above; one with folds also has ``"fold"``.

    Raises:
        FileNotFoundError: when a folder or file is not there.
        ValueError: for another source, or sections that share cases.
    """
    known = PHANTOM_KEYS if "phantom" in source else BUILT_IN_KEYS if "built_in" in source else FOLDER_KEYS
    unknown = sorted(source.keys() - known)
    if unknown:
        raise ValueError(f"data {name!r} has unknown keys {unknown}; it takes {sorted(known)}.")
    if "phantom" in source:
        return {part: [f"Phantom_{seed}" for seed in seeds] for part, seeds in _seeds(name, source).items()}
    names = [str(item["study"]) for item in find_studies(_folder(name, source))]
    if "built_in" in source:
        return {"training": [], "validation": [], "test": sorted(names)}
    if "split_file" in source:
        return read_split(_expanded(source["split_file"]), names)
    if "fold" not in source:
        raise ValueError(f"data {name!r} needs split_file, or the number of folds.")
    seed = int(source.get("fold_seed", 0))
    fold = fold_names(names, int(source["folds"]), seed)[int(source["fold"])]
    rest = split_names(fold["training"], float(source.get("validation_fraction", 0.2)), seed)
    return {**rest, "test": fold["validation"]}


def prepare_data(name: str, source: Mapping[str, Any], folder: Path, processes: int = 1) -> Data:
    """Makes or finds the studies and writes the split file. What is there already is left as it is.

    Args:
        name: of the data.
        source: see :func:`plan_data`.
        folder: the study's folder for data.
        processes: how many make phantoms at once.

    Raises:
        FileNotFoundError: when a folder or file is not there.
        ValueError: for a source that cannot be, or data that were made from another source before.
    """
    split, split_file = plan_data(name, source), folder / name / "split.json"
    if "phantom" in source:
        dataset_dir = folder / name / "cases"
        _make_phantoms(name, source, dataset_dir, processes)
    else:
        dataset_dir = _folder(name, source)
    _keep(split_file, split, name)
    return Data(dataset_dir.resolve(), split_file.resolve(), source.get("built_in"))


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def _folder(name: str, source: Mapping[str, Any]) -> Path:
    given = source.get("dataset_dir")
    if not given or not _expanded(given).is_dir():
        raise FileNotFoundError(f"data {name!r}: dataset_dir {given!r} is no folder ({given and _expanded(given)}).")
    return _expanded(given)


def _seeds(name: str, source: Mapping[str, Any]) -> dict[str, range]:
    sections = {section: source.get(section) for section in ("training", "validation", "test")}
    wrong = [section for section, seeds in sections.items() if not (isinstance(seeds, list) and len(seeds) == 2)]
    if wrong:
        raise ValueError(f"data {name!r} must give [first seed, number of cases] for {wrong}.")
    seeds = {section: range(first, first + number) for section, (first, number) in sections.items()}
    every = [seed for numbers in seeds.values() for seed in numbers]
    if len(set(every)) < len(every):
        raise ValueError(f"data {name!r}: sections share seeds, {sections}; test cases would be seen in training.")
    return seeds


def _make_phantoms(name: str, source: Mapping[str, Any], cases: Path, processes: int) -> None:
    seeds = _seeds(name, source)
    size, spacing = source["phantom"].get("size", 64), float(source["phantom"].get("spacing", 3.0))
    shape = tuple(size) if isinstance(size, list) else (size,) * 3
    sections = {section: source[section] for section in seeds}
    origin = {"generator_version": GENERATOR_VERSION, "shape": list(shape), "spacing_mm": spacing, **sections}
    _keep(cases.parent / "origin.json", origin, name)
    tasks = [(cases, f"Phantom_{seed}", seed, shape, spacing) for numbers in seeds.values() for seed in numbers]
    progress = {"total": len(tasks), "desc": f"data {name}", "unit": "case"}
    if processes == 1:
        list(tqdm(map(_write, tasks), **progress))
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            list(tqdm(pool.map(_write, tasks), **progress))


def _write(task: tuple[Path, str, int, tuple[int, ...], float]) -> None:
    folder, name, seed, shape, spacing = task
    write_phantom_case(folder, name, seed=seed, shape=shape, spacing=spacing)


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
