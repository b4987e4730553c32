"""The weights that the repository ships are a demonstration that runs as it is."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import run

from medmap_components import segment
from medmap_components.data.phantom import write_phantom_case
from tests.bundles.conftest import FIRST

BUNDLE = FIRST.parent / "unet_pmix"
WEIGHTS = BUNDLE / "models" / "model.pt"


def test_they_are_small_and_said_to_be_a_demonstration():
    assert WEIGHTS.stat().st_size < 10e6
    assert "demonstration, not for patients" in (BUNDLE / "docs" / "weights.md").read_text()


def test_they_find_the_tumour_of_a_new_phantom_and_lose_enhancement_without_t1ce(tmp_path):
    case = write_phantom_case(tmp_path, "New", seed=77, shape=(64, 64, 64), spacing=3.0, kind="ring")
    images = {name: case / f"New_{name}.nii.gz" for name in ("flair", "t1ce", "t1", "t2")}
    truth = np.asarray(nib.load(case / "New_seg.nii.gz").dataobj)

    def dice(modalities, codes, classes):
        labels = segment({name: images[name] for name in modalities}, bundle=BUNDLE, checkpoint=WEIGHTS).labels
        found, there = np.isin(labels, classes), np.isin(truth, codes)
        return 2 * (found & there).sum() / (found.sum() + there.sum())

    assert dice(images, (1, 2, 4), (1, 2, 3)) > 0.6
    assert dice(images, (4,), (3,)) > 0.2
    assert dice(("flair", "t1", "t2"), (4,), (3,)) < dice(images, (4,), (3,))


def test_studies_of_another_voxel_size_are_scored_as_inference_segments_them(tmp_path):
    # the weights are of 3 mm, these studies of 2 mm
    for seed in (77, 78):
        write_phantom_case(tmp_path / "studies", f"Fine_{seed}", seed=seed, shape=(88, 96, 80), spacing=2.0)
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"training": ["Fine_77"], "validation": ["Fine_78"]}))
    run(
        run_id="evaluating",
        config_file=[str(BUNDLE / "configs" / f"{name}.json") for name in ("train", "evaluate")],
        **{
            "dataset_dir": str(tmp_path / "studies"),
            "split_file": str(split),
            "output_dir": str(tmp_path / "out"),
            "checkpoint": str(WEIGHTS),
            "subsets": [["flair", "t1ce", "t1", "t2"], ["flair"]],
            "num_workers": 0,
        },
    )
    with (tmp_path / "out" / "evaluation" / "cases.csv").open(newline="") as file:
        scored = {row["subset"]: row for row in csv.DictReader(file)}
    case = tmp_path / "studies" / "Fine_78"
    truth = np.asarray(nib.load(case / "Fine_78_seg.nii.gz").dataobj) > 0
    for subset, names in {"all": ("flair", "t1ce", "t1", "t2"), "FLAIR": ("flair",)}.items():
        images = {name: case / f"Fine_78_{name}.nii.gz" for name in names}
        found = segment(images, bundle=BUNDLE, checkpoint=WEIGHTS).labels > 0
        dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        assert float(scored[subset]["Dice_WT"]) == pytest.approx(dice, abs=1e-4)
        assert dice > 0.5
