"""A study's definition: a JSON file that says which bundles run with which seeds, settings and data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medmap_components.engines.knobs import refuse_unknown_keys

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIRED = ("name", "question", "data", "grids", "minutes")
OPTIONAL = ("bundles_dir", "settings", "overrides", "evaluation", "section", "primary", "comparisons")
OWN_KEYS = frozenset(
    ("seed", "dataset_dir", "split_file", "output_dir", "resume", "checkpoint", "section", "evaluation_dir")
)
"""What the runner itself gives every run, and a definition therefore may not."""


@dataclass(frozen=True)
class Run:
    """One training with its evaluation.

    Attributes:
        bundle: name of the bundle.
        seed: of the training.
        setting: name of the setting.
        data: name of the data, with its fold if it has folds.
        overrides: what training and evaluation are given beyond the runner's own keys.
        evaluation: what the evaluation alone is given.
        section: the cases that are scored.
        minutes: how long it takes by the definition's estimate.
    """

    bundle: str
    seed: int
    setting: str
    data: str
    overrides: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    section: str
    minutes: float

    @property
    def name(self) -> str:
        """Names the run's folder; no other run of the study has it."""
        return f"{self.bundle}-{self.setting}-{self.data}-seed{self.seed}"

    @property
    def specification(self) -> dict[str, Any]:
        """All that the definition says about it but for the estimate."""
        fields = ("bundle", "seed", "setting", "data", "section")
        own = {field: getattr(self, field) for field in fields}
        return {**own, "overrides": dict(self.overrides), "evaluation": dict(self.evaluation)}


@dataclass(frozen=True)
class Study:
    """A definition that was read and checked.

    Attributes:
        name: of the study.
        question: that it is to answer, in words.
        bundles_dir: where the bundles lie.
        data: name to what ``prepare_data`` makes them from, folds spelt out.
        runs: the grid, in the order of the file.
        comparisons: pairs of a reference method and those that are compared with it, for the report.
        primary: metric, subset and regions that the study's question is answered by.
    """

    name: str
    question: str
    bundles_dir: Path
    data: Mapping[str, Mapping[str, Any]]
    runs: tuple[Run, ...]
    comparisons: tuple[tuple[str, tuple[str, ...]], ...]
    primary: Mapping[str, Any]


def method_name(bundle: str, setting: str) -> str:
    """What a bundle with a setting is called in comparisons."""
    return bundle if setting == "default" else f"{bundle}:{setting}"


def read_study(path: str | Path, check: bool = True) -> Study:
    """Reads a definition.

    Args:
        path: the file.
        check: whether the bundles must be there and have the settings that they are given. Default True.

    Raises:
        FileNotFoundError: when the file, or a bundle that it names, does not exist.
        ValueError: for unknown or missing keys, names that are not defined, settings that a bundle does not have, or
            two runs of one name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"study {path} does not exist; docs/study holds some.")
    try:
        content = {key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key[0] != "_"}
    except ValueError as error:
        raise ValueError(f"study {path} is not JSON: {error}.") from error
    _check_keys(path, content)
    bundles_dir = REPOSITORY / content.get("bundles_dir", "bundles")
    data = dict(_spell_out_folds(content["data"]))
    runs = tuple(_runs(content, data))
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the grids hold {twice} more than once; every run belongs into one grid.")
    for run in runs if check else ():
        check_settings(run, bundles_dir)
    methods = list(dict.fromkeys(method_name(run.bundle, run.setting) for run in runs))
    return Study(
        content["name"],
        content["question"],
        bundles_dir,
        data,
        runs,
        _comparisons(content.get("comparisons"), methods),
        content.get("primary", {"metric": "Dice", "subset": "average", "regions": ["WT", "TC", "ET"]}),
    )


def _check_keys(path: Path, content: Mapping[str, Any]) -> None:
    missing = [key for key in REQUIRED if not content.get(key)]
    unknown = [key for key in content if key not in (*REQUIRED, *OPTIONAL)]
    if missing or unknown:
        raise ValueError(
            f"study {path} lacks {missing} and has unknown keys {unknown}; it takes {[*REQUIRED, *OPTIONAL]}."
        )
    for key in ("overrides", "evaluation"):
        tables = content.get(key, {})
        for table in (*tables.values(), *(content.get("settings", {}).values() if key == "overrides" else ())):
            reserved = sorted(OWN_KEYS & table.keys())
            if reserved:
                raise ValueError(
                    f"study {path} sets {reserved} in {key!r}; the runner gives these to every run itself."
                )


def _spell_out_folds(data: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, source in data.items():
        if "folds" not in source:
            yield name, dict(source)
            continue
        for fold in range(source["folds"]):
            yield f"{name}_fold{fold}", {**source, "fold": fold}


def _matching(table: Mapping[str, Any], bundle: str) -> list[Any]:
    """The entries whose pattern fits the bundle, in the order of the table."""
    return [value for pattern, value in table.items() if fnmatchcase(bundle, pattern)]


def _merged(table: Mapping[str, Mapping[str, Any]], bundle: str) -> dict[str, Any]:
    return {key: value for entry in _matching(table, bundle) for key, value in entry.items()}


def _runs(content: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[Run]:
    settings = {"default": {}, **content.get("settings", {})}
    for grid in content["grids"]:
        wanted = grid.get("settings", ["default"])
        sources = grid.get("data", list(content["data"]))
        unknown = [name for name in wanted if name not in settings] + [
            name for name in sources if name not in content["data"]
        ]
        if unknown:
            raise ValueError(f"a grid names {unknown}, which neither settings {list(settings)} nor data define.")
        folded = [name for name in data if name in sources or name.rpartition("_fold")[0] in sources]
        for setting in wanted:
            for seed in grid["seeds"]:
                for source in folded:
                    for bundle in grid["bundles"]:
                        yield Run(
                            bundle,
                            seed,
                            setting,
                            source,
                            {**_merged(content.get("overrides", {}), bundle), **settings[setting]},
                            _merged(content.get("evaluation", {}), bundle),
                            content.get("section", "test"),
                            float((_matching(content.get("minutes", {}), bundle) or [0])[-1]),
                        )


def check_settings(run: Run, bundles_dir: Path) -> None:
    """Makes sure that a run's bundle has the settings that it is given.

    Raises:
        FileNotFoundError: when there is no such bundle.
        ValueError: for a setting that it does not have, or a path into its config that leads nowhere.
    """
    config: dict[str, Any] = {}
    for name in ("train", "evaluate"):
        file = bundles_dir / run.bundle / "configs" / f"{name}.json"
        if not file.is_file():
            raise FileNotFoundError(f"bundle {run.bundle!r} of run {run.name} has no {file}.")
        config |= ConfigParser.load_config_file(str(file))
    given = {**run.overrides, **run.evaluation}
    try:
        refuse_unknown_keys((key for key in given if "#" not in key), (key.split("#")[0] for key in config))
    except ValueError as error:
        raise ValueError(f"run {run.name}: {error}") from error
    parser = ConfigParser(config)
    for key in given:
        parent = key.rpartition("#")[0]
        if parent and parent not in config and parent not in parser:
            raise ValueError(f"run {run.name}: {key!r} leads nowhere, there is no {parent!r} in the bundle's config.")


def _comparisons(given: Any, methods: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Those of the file, or every backbone's ``base`` with its other bundles."""
    if given is not None:
        pairs = tuple((pair["reference"], tuple(pair["methods"])) for pair in given)
        unknown = [name for reference, others in pairs for name in (reference, *others) if name not in methods]
        if unknown:
            raise ValueError(f"comparisons name {unknown}, which no grid has; there are {list(methods)}.")
        return pairs
    pairs = ()
    for reference in methods:
        if reference.endswith("_base"):
            backbone = reference.removesuffix("base")
            others = tuple(name for name in methods if name.startswith(backbone) and name != reference)
            pairs += ((reference, others),) if others else ()
    return pairs
