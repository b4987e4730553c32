from __future__ import annotations

import json

import pytest

from medmap_components.data import bind_studies, is_phantom

PHANTOM = {"size": 32, "spacing": 6.0, "num_training": 3, "num_validation": 2}


def test_a_folder_is_split_into_training_and_validation(tiny_dataset):
    sections = {name: bind_studies(name, str(tiny_dataset), 0.25) for name in ("training", "validation")}
    names = {section: {item["study"] for item in items} for section, items in sections.items()}
    assert len(names["training"]) == 3
    assert len(names["validation"]) == 1
    assert not names["training"] & names["validation"]
    assert not is_phantom(sections["training"])
    assert all({"image", "label", "study", "label_scheme"} == item.keys() for item in sections["training"])


def test_fraction_seed_and_split_file_decide_the_split(tiny_dataset, tmp_path):
    def validation(**kwargs):
        return [item["study"] for item in bind_studies("validation", str(tiny_dataset), **kwargs)]

    assert len(validation(validation_fraction=0.5)) == 2
    assert len({tuple(validation(validation_fraction=0.25, seed=seed)) for seed in range(8)}) > 1
    names = ["BraTS2021_00000", "BraTS2021_00002"]
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"training": ["BraTS2021_00001", "BraTS2021_00003"], "validation": names}))
    assert validation(split_file=str(split), validation_fraction=0.25) == names


def test_a_folder_wins_over_the_phantom(tiny_dataset, tmp_path):
    studies = bind_studies("training", str(tiny_dataset), phantom={"folder": str(tmp_path), **PHANTOM})
    assert not is_phantom(studies)


@pytest.mark.parametrize(("section", "count"), [("training", 3), ("validation", 2)])
def test_without_a_folder_it_is_the_phantom_and_nothing_is_written_yet(tmp_path, section, count):
    studies = bind_studies(section, phantom={"folder": str(tmp_path), **PHANTOM})
    assert is_phantom(studies)
    assert len(studies) == count
    assert not list(tmp_path.iterdir())


def test_a_list_of_items_is_no_phantom():
    assert not is_phantom([{"image": "x"}])


def test_neither_folder_nor_phantom_is_refused():
    with pytest.raises(ValueError, match=r"no validation data.*--dataset_dir"):
        bind_studies("validation")


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bind_studies("training", str(tmp_path / "nowhere"), phantom={"folder": str(tmp_path), **PHANTOM})


def test_real_cases_are_found_and_split(medmap_data):
    sections = {name: bind_studies(name, str(medmap_data), 0.2) for name in ("training", "validation")}
    assert {name: len(items) for name, items in sections.items()} == {"training": 10, "validation": 3}
    assert all(len(item["image"]) == 4 for items in sections.values() for item in items)
