"""Definitions of studies: the grid that they spell out, what they may not say, and their data."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = REPOSITORY / "tests" / "data" / "study_tiny.json"
SHIPPED = sorted((REPOSITORY / "docs" / "study").glob("*.json"))


@pytest.fixture(scope="module")
def definition(load_script):
    load_script("run_study")
    from study import definition

    return definition


@pytest.fixture(scope="module")
def data(load_script):
    load_script("run_study")
    from study import data

    return data


@pytest.fixture
def read(definition, tmp_path):
    """Reads the tiny study with changes."""

    def read_changed(**changes):
        path = tmp_path / "study.json"
        path.write_text(json.dumps({**json.loads(TINY.read_text()), **changes}))
        return definition.read_study(path)

    return read_changed


def test_a_grid_is_every_combination_and_the_most_special_setting_wins(read):
    study = read(
        overrides={"*": {"epochs": 2, "batch_size": 1}, "unet_p*": {"epochs": 3}},
        settings={"long": {"epochs": 4}},
        minutes={"*": 1, "unet_pmix": 2},
        grids=[
            {"bundles": ["unet_base", "unet_pmix"], "seeds": [0, 1]},
            {"bundles": ["unet_pmix"], "seeds": [0], "settings": ["long"]},
        ],
    )
    assert [(run.name, run.overrides["epochs"], run.minutes) for run in study.runs] == [
        ("unet_base-default-phantom-seed0", 2, 1),
        ("unet_pmix-default-phantom-seed0", 3, 2),
        ("unet_base-default-phantom-seed1", 2, 1),
        ("unet_pmix-default-phantom-seed1", 3, 2),
        ("unet_pmix-long-phantom-seed0", 4, 2),
    ]
    assert all(run.overrides["batch_size"] == 1 and run.section == "test" for run in study.runs)
    assert study.comparisons == (("unet_base", ("unet_pmix", "unet_pmix:long")),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overides": {}}, "has unknown keys \\['overides'\\]"),
        ({"minutes": {}}, "lacks \\['minutes'\\]"),
        ({"overrides": {"*": {"epoch": 2}}}, "unknown setting 'epoch' \\(did you mean 'epochs'"),
        ({"overrides": {"*": {"alignment_weight": 1}}}, "run unet_base-default-phantom-seed0: unknown setting"),
        ({"overrides": {"*": {"network#depth": 1, "net#x": 2}}}, "'net#x' leads nowhere"),
        ({"overrides": {"*": {"seed": 1}}}, "sets \\['seed'\\] in 'overrides'"),
        ({"settings": {"a": {"resume": True}}}, "sets \\['resume'\\]"),
        ({"grids": [{"bundles": ["unet_base"], "seeds": [0, 0]}]}, "more than once"),
        ({"grids": [{"bundles": ["unet_base"], "seeds": [0], "settings": ["none"]}]}, "a grid names \\['none'\\]"),
        ({"comparisons": [{"reference": "unet_base", "methods": ["unet_pn"]}]}, "comparisons name \\['unet_pn'\\]"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(read, changes, message):
    with pytest.raises(ValueError, match=message):
        read(**changes)


def test_a_bundle_that_is_not_there_is_named(read):
    with pytest.raises(FileNotFoundError, match="bundle 'vnet_base'"):
        read(grids=[{"bundles": ["vnet_base"], "seeds": [0]}])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_fit_the_bundles(definition, path):
    assert definition.read_study(path).name == path.stem


def test_cases_that_choose_are_not_those_that_are_scored(definition):
    """Of all shipped studies on phantoms, no case is in two sections, and no study scores what another chose by."""
    scored, seen = {}, {}
    for path in SHIPPED:
        for name, source in definition.read_study(path).data.items():
            if "phantom" in source:
                first, number = source["test"]
                scored[path.stem, name] = set(range(first, first + number))
                seen[path.stem, name] = {
                    seed for part in ("training", "validation") for seed in range(source[part][0], sum(source[part]))
                }
    # the specialists explain the first edition on its own cases, and choose nothing
    assert scored.pop(("specialists", "phantom")) == scored["first_edition", "phantom"]
    # both choose settings, by the cases that are there for that
    assert scored.pop(("remedies", "phantom_choice")) == scored["ablation", "phantom_choice"]
    assert len(scored) == 3
    for first, second in combinations(scored.values(), 2):
        assert not first & second
    assert not set.union(*scored.values()) & set.union(*seen.values())


def test_every_case_of_a_folder_is_a_test_case_once(definition, data, read, make_study, tmp_path):
    names = [f"BraTS2021_0000{number}" for number in range(6)]
    for name in names:
        make_study(tmp_path / "studies" / name, name)
    source = {"dataset_dir": str(tmp_path / "studies"), "folds": 3, "validation_fraction": 0.25}
    study = read(data={"real": source}, overrides={}, evaluation={})
    assert list(study.data) == ["real_fold0", "real_fold1", "real_fold2"]
    assert [run.data for run in study.runs] == ["real_fold0"] * 2 + ["real_fold1"] * 2 + ["real_fold2"] * 2
    splits = [
        json.loads(data.prepare_data(name, fold, tmp_path / "data").split_file.read_text())
        for name, fold in study.data.items()
    ]
    assert sorted(name for split in splits for name in split["test"]) == names
    for split in splits:
        assert {part: len(cases) for part, cases in split.items()} == {"training": 3, "validation": 1, "test": 2}
        assert sorted(name for cases in split.values() for name in cases) == names


def test_a_bundle_can_train_on_its_own_phantom_and_be_scored_on_a_folder(data, make_study, tmp_path):
    make_study(tmp_path / "studies" / "BraTS2021_00001", "BraTS2021_00001")
    knobs = {"phantom_cases": [2, 1], "phantom_fresh": True}
    source = {"built_in": knobs, "dataset_dir": str(tmp_path / "studies")}
    made = data.prepare_data("real", source, tmp_path / "data")
    assert made.settings("training") == knobs
    assert made.settings("evaluation") == {
        "dataset_dir": (tmp_path / "studies").resolve(),
        "split_file": made.split_file,
    }
    assert json.loads(made.split_file.read_text()) == {"training": [], "validation": [], "test": ["BraTS2021_00001"]}


def test_sections_that_share_phantoms_are_refused(data, tmp_path):
    source = {"phantom": {"size": 32, "spacing": 6}, "training": [0, 10], "validation": [9, 1], "test": [20, 2]}
    with pytest.raises(ValueError, match="sections share seeds"):
        data.prepare_data("phantom", source, tmp_path)


def test_data_that_were_made_differently_before_are_refused(data, tmp_path):
    source = {"phantom": {"size": 32, "spacing": 6}, "training": [0, 1], "validation": [1, 1], "test": [2, 1]}
    made = data.prepare_data("phantom", source, tmp_path)
    assert sorted(path.name for path in made.dataset_dir.iterdir()) == ["Phantom_0", "Phantom_1", "Phantom_2"]
    assert data.prepare_data("phantom", source, tmp_path) == made
    with pytest.raises(ValueError, match=r"was made as .* before"):
        data.prepare_data("phantom", {**source, "test": [3, 1]}, tmp_path)
