"""Folds, the literature's lists, and split files with a test part."""

from __future__ import annotations

import json
from itertools import combinations

import pytest

from medmap_components.data import (
    PUBLISHED_SPLITS,
    bind_studies,
    fold_names,
    published_split,
    read_split,
    study_list,
)

NAMES = [f"case{index:02d}" for index in range(23)]


def test_folds_are_disjoint_and_complete():
    folds = fold_names(NAMES, 5)
    assert sorted(len(fold["validation"]) for fold in folds) == [4, 4, 5, 5, 5]
    assert sorted(name for fold in folds for name in fold["validation"]) == NAMES
    for fold in folds:
        assert sorted(fold["training"] + fold["validation"]) == NAMES


def test_folds_depend_on_names_and_seed_only():
    assert fold_names(NAMES, 5, seed=1) == fold_names(NAMES[::-1], 5, seed=1)
    assert fold_names(NAMES, 5, seed=1) != fold_names(NAMES, 5, seed=2)


def test_all_time_points_of_a_patient_are_in_one_fold():
    names = [f"BraTS-GLI-{patient:05d}-{time:03d}" for patient in range(10) for time in range(1 + patient % 3)]
    for fold in fold_names(names, 5):
        patients = [{name[:-4] for name in part} for part in fold.values()]
        assert patients[0].isdisjoint(patients[1])
        assert len(patients[1]) == 2


@pytest.mark.parametrize(
    ("names", "folds", "message"),
    [
        (NAMES, 1, "folds must be at least 2, got 1"),
        (NAMES[:3], 5, "3 patients, fewer than the 5 folds"),
        (["a", "b", "a"], 2, "1 names twice"),
    ],
)
def test_impossible_folds_are_refused(names, folds, message):
    with pytest.raises(ValueError, match=message):
        fold_names(names, folds)


@pytest.mark.parametrize("name", PUBLISHED_SPLITS)
def test_published_lists_have_the_published_sizes_and_no_overlap_within(name):
    split = published_split(name)
    sizes = {"brats2020": [219, 50, 100]}.get(name, [199, 29, 57])
    assert [len(split[section]) for section in ("training", "validation", "test")] == sizes
    assert len({study for names in split.values() for study in names}) == sum(sizes)


def test_the_lists_of_2018_are_three_overlapping_hold_outs_of_the_same_studies():
    splits = [published_split(f"brats2018-{index}") for index in (1, 2, 3)]
    assert len({frozenset(study for names in split.values() for study in names) for split in splits}) == 1
    tests = [set(split["test"]) for split in splits]
    assert [len(first & second) for first, second in combinations(tests, 2)] == [14, 9, 14]
    assert len(set.union(*tests)) == 137


def test_names_of_published_lists_are_those_of_the_data_sets():
    # the heads and ends of the lists as the repositories that they were collected from have them
    assert {"Brats18_TCIA04_149_1", "Brats18_TCIA04_343_1", "Brats18_CBICA_ASO_1"} <= set(
        published_split("brats2018-1")["test"]
    )
    split = published_split("brats2020")
    assert split["training"][:2] == ["BraTS20_Training_002", "BraTS20_Training_003"]
    assert split["validation"][:2] == ["BraTS20_Training_005", "BraTS20_Training_018"]
    assert split["test"][:2] == ["BraTS20_Training_001", "BraTS20_Training_016"]


def test_unknown_lists_are_refused():
    with pytest.raises(ValueError, match=r"brats2018-1.*got 'brats2019'"):
        published_split("brats2019")


def test_a_split_file_may_have_a_test_part(tiny_dataset, tmp_path):
    names = [item["study"] for item in study_list(tiny_dataset)]
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"training": names[:2], "validation": names[2:3], "test": names[3:]}))
    assert read_split(path, names) == {"training": names[:2], "validation": names[2:3], "test": names[3:]}
    bound = bind_studies("test", str(tiny_dataset), split_file=str(path))
    assert [item["study"] for item in bound] == names[3:]
    path.write_text(json.dumps({"training": names[:2], "validation": names[2:3], "test": names[1:]}))
    with pytest.raises(ValueError, match=rf"both training and test: \['{names[1]}'\]"):
        read_split(path, names)
    path.write_text(json.dumps({"training": names, "validation": [], "test": ["x"]}))
    with pytest.raises(ValueError, match=r"names 1 studies that dataset_dir does not have.*\['x'\]"):
        read_split(path, names)


def test_a_test_part_that_is_not_there_is_refused(tiny_dataset, tmp_path):
    with pytest.raises(ValueError, match="section 'test' is not there: a drawn split has"):
        study_list(tiny_dataset, "test")
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"training": [f"BraTS2021_0000{index}" for index in range(4)], "validation": []}))
    with pytest.raises(ValueError, match=r"split\.json has training and validation only"):
        study_list(tiny_dataset, "test", split_file=path)
