"""The command that writes split files."""

from __future__ import annotations

import json

import pytest

from medmap_components.data import published_split, read_split


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("prepare_datalist")


def test_folds_of_a_folder_are_split_files(script, tiny_dataset, tmp_path, capsys):
    assert (
        script.main(["folds", "--dataset_dir", str(tiny_dataset), "--output_dir", str(tmp_path), "--folds", "2"]) == 0
    )
    names = [f"BraTS2021_0000{index}" for index in range(4)]
    folds = [read_split(tmp_path / f"fold_{index}.json", names) for index in range(2)]
    assert sorted(folds[0]["validation"] + folds[1]["validation"]) == names
    assert "fold_0.json: 2 training, 2 validation" in capsys.readouterr().out


def test_a_published_list_is_written_as_it_is(script, tmp_path, capsys):
    assert script.main(["published", "brats2020", "--output_file", str(tmp_path / "split.json")]) == 0
    assert json.loads((tmp_path / "split.json").read_text()) == published_split("brats2020")
    assert "219 training, 50 validation, 100 test" in capsys.readouterr().out


def test_studies_that_the_folder_lacks_are_named(script, make_study, tmp_path, capsys):
    make_study(tmp_path / "data", "BraTS20_Training_001")
    make_study(tmp_path / "data", "BraTS20_Training_002")
    target = tmp_path / "split.json"
    command = ["published", "brats2020", "--output_file", str(target), "--dataset_dir", str(tmp_path / "data")]
    assert script.main(command) == 1
    said = capsys.readouterr().err
    assert "367 studies of brats2020 are not in" in said
    assert "  BraTS20_Training_003\n" in said
    assert not target.exists()
    assert script.main([*command, "--allow_missing"]) == 0
    expected = {"training": ["BraTS20_Training_002"], "validation": [], "test": ["BraTS20_Training_001"]}
    assert json.loads(target.read_text()) == expected


def test_bad_requests_say_what_is_wrong(script, tmp_path, tiny_dataset, capsys):
    assert script.main(["folds", "--dataset_dir", str(tmp_path / "no"), "--output_dir", str(tmp_path)]) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert script.main(["folds", "--dataset_dir", str(tiny_dataset), "--output_dir", str(tmp_path)]) == 1
    assert "4 patients, fewer than the 5 folds" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main(["published", "brats2020", "--output_file", "x.json", "--allow_missing"])
    assert "--allow_missing needs --dataset_dir" in capsys.readouterr().err
