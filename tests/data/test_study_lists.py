from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from medmap_components.data import find_studies, split_names, study_list

NAMES = [f"case{index:02d}" for index in range(20)]


def test_folders_nested_folders_and_flat_files_are_all_found(tmp_path: Path, make_study):
    make_study(tmp_path / "HGG" / "Brats18_A", "Brats18_A")
    make_study(tmp_path / "LGG" / "Brats18_B", "Brats18_B", extension=".nii")
    make_study(tmp_path, "BraTS-GLI-00001-000", naming="brats2023")
    make_study(tmp_path, "flat", modalities=("t1",))
    items = find_studies(tmp_path)
    assert [item["study"] for item in items] == ["BraTS-GLI-00001-000", "Brats18_A", "Brats18_B", "flat"]
    assert [item["label_scheme"] for item in items] == ["brats2023", "brats2018", "brats2018", "brats2018"]
    assert items[0]["image"]["flair"].endswith("BraTS-GLI-00001-000-t2f.nii.gz")
    assert list(items[3]["image"]) == ["t1"]


def test_incomplete_studies_are_listed_with_what_they_have(tiny_dataset: Path):
    assert [sorted(item["image"]) for item in find_studies(tiny_dataset)[2:]] == [["flair", "t2"], ["t1", "t1ce", "t2"]]


def test_equal_names_in_two_folders_are_told_apart(tmp_path: Path, make_study):
    make_study(tmp_path / "p1", "MR")
    make_study(tmp_path / "p2", "MR")
    (tmp_path / "p3").mkdir()
    for path in make_study(tmp_path / "p2", "x").glob("x_*"):
        path.rename(tmp_path / "p3" / path.name[2:])
    assert [item["study"] for item in find_studies(tmp_path)] == ["p1_MR", "p2_MR", "p3"]


def test_linked_folders_are_followed_once(tmp_path: Path, make_study):
    make_study(tmp_path / "elsewhere" / "a", "a")
    (tmp_path / "data").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "link")
    os.symlink(tmp_path / "data", tmp_path / "elsewhere" / "loop")
    assert [item["study"] for item in find_studies(tmp_path / "data")] == ["a"]


def test_studies_without_label_are_left_out_of_training_with_a_warning(tmp_path: Path, make_study):
    make_study(tmp_path / "a", "a")
    make_study(tmp_path / "b", "b", label=False)
    with pytest.warns(UserWarning, match=r"left out 1 studies, \['b'\].*label"):
        assert [item["study"] for item in find_studies(tmp_path)] == ["a"]
    items = find_studies(tmp_path, labels=False)
    assert [item["study"] for item in items] == ["a", "b"]
    assert "label" not in items[0]


def test_no_label_at_all_is_refused_by_name(tmp_path: Path, make_study):
    make_study(tmp_path / "b", "b", label=False)
    with pytest.raises(ValueError, match=r"\['b'\], but none has a label"):
        find_studies(tmp_path)


def test_missing_and_empty_folders_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_studies(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds no study: expected <study>_\{flair.*found \['notes.txt'\]"):
        find_studies(tmp_path)


def test_unreadable_studies_fail_by_name_at_inference_and_are_left_out_of_training(
    tmp_path: Path, make_study, make_nifti, tiny_arrays
):
    make_study(tmp_path / "a", "a")
    for name in ("one", "two"):
        make_nifti(tmp_path / "odd" / f"{name}.nii.gz", tiny_arrays()["t1"])
    make_study(tmp_path / "bare", "bare", modalities=())
    items = {item["study"]: item["image"] for item in find_studies(tmp_path, labels=False)}
    assert sorted(items) == ["a", "bare", "odd"]
    assert items["odd"] == str(tmp_path / "odd")
    with pytest.warns(UserWarning, match=r"left out 2 studies.*odd.*bare"):
        assert [item["study"] for item in find_studies(tmp_path)] == ["a"]


def test_two_files_of_one_modality_stop_training_but_not_other_studies_at_inference(tmp_path: Path, make_study):
    make_study(tmp_path / "a", "a")
    make_study(tmp_path / "a", "a", modalities=("t1",), extension=".nii", label=False)
    with pytest.raises(ValueError, match=r"'a'.*a_t1\.nii'.*a_t1\.nii\.gz"):
        find_studies(tmp_path)
    (item,) = find_studies(tmp_path, labels=False)
    assert len(item["image"]) == 5


def test_an_open_label_scheme_is_asked_for(tmp_path: Path, make_study):
    make_study(tmp_path, "a", modalities=("t1ce",), naming="brats2023")
    with pytest.raises(ValueError, match=r"'a'.*\['t1c'\].*label_scheme"):
        find_studies(tmp_path)
    assert find_studies(tmp_path, label_scheme="brats2023")[0]["label_scheme"] == "brats2023"
    make_study(tmp_path, "b", naming="brats2023")
    assert [item["label_scheme"] for item in find_studies(tmp_path)] == ["brats2023", "brats2023"]


def test_the_split_depends_on_names_and_seed_only():
    split = split_names(NAMES, 0.2, seed=1)
    assert split == split_names(NAMES[::-1], 0.2, seed=1)
    assert split != split_names(NAMES, 0.2, seed=2)
    assert len(split["validation"]) == 4
    assert sorted(split["training"] + split["validation"]) == NAMES


def test_both_sections_get_a_study_as_soon_as_there_are_two():
    for fraction in (0.01, 0.99):
        assert [len(part) for part in split_names(["a", "b"], fraction, 0).values()] == [1, 1]
    assert split_names(["a"], 0.5, 0) == {"training": ["a"], "validation": []}
    assert split_names(["a", "b"], 0.0, 0)["validation"] == []
    with pytest.raises(ValueError, match=r"validation_fraction.*1\.5"):
        split_names(["a", "b"], 1.5, 0)


def test_time_points_of_a_patient_stay_together():
    names = [f"BraTS-GLI-{patient:05d}-{time:03d}" for patient in range(8) for time in range(3)]
    split = split_names(names, 0.3, 0)
    patients = [{name[:-4] for name in part} for part in split.values()]
    assert patients[0].isdisjoint(patients[1])
    assert len(split["validation"]) == 9


def test_a_folder_is_divided_without_overlap(tiny_dataset: Path):
    parts = [study_list(tiny_dataset, section, validation_fraction=0.25) for section in ("training", "validation")]
    assert [len(part) for part in parts] == [3, 1]
    names = sorted(item["study"] for part in parts for item in part)
    assert names == [item["study"] for item in study_list(tiny_dataset)]
    with pytest.raises(ValueError, match=r"section.*'tests'"):
        study_list(tiny_dataset, "tests")


def test_a_single_patient_cannot_be_validated(tmp_path: Path, make_study):
    make_study(tmp_path, "a")
    assert len(study_list(tmp_path, "training")) == 1
    assert study_list(tmp_path, "validation", validation_fraction=0) == []
    with pytest.raises(ValueError, match=r"\['a'\].*validation_fraction"):
        study_list(tmp_path, "validation")


def test_a_split_file_wins_and_is_checked(tiny_dataset: Path, tmp_path: Path):
    names = [item["study"] for item in study_list(tiny_dataset)]
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"training": names[:1], "validation": names[1:3]}))
    with pytest.warns(UserWarning, match=f"leaves out 1 studies.*{names[3]}"):
        assert [item["study"] for item in study_list(tiny_dataset, "validation", split_file=path)] == names[1:3]
    for content, message in [
        ({"training": ["x"], "validation": []}, r"\['x'\]"),
        ({"training": names, "validation": names[:1]}, f"both.*{names[0]}"),
        ({"training": names}, "must hold"),
    ]:
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            study_list(tiny_dataset, "training", split_file=path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        study_list(tiny_dataset, "training", split_file="nowhere.json")


def test_real_cases_are_found(medmap_data: Path):
    items = find_studies(medmap_data)
    assert len(items) >= 13
    assert {item["label_scheme"] for item in items} == {"brats2018"}
    assert all(sorted(item["image"]) == ["flair", "t1", "t1ce", "t2"] for item in items)
