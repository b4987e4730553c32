"""What a user does with a bundle, once with every bundle and tiny settings: train, evaluate, segment."""

from __future__ import annotations

import csv
import json
import logging
import math

import nibabel as nib
import numpy as np
import pytest
import torch

from medmap_components.modalities import REGIONS, SUBSETS

pytestmark = pytest.mark.bundles("every")


def test_training_leaves_weights_that_inference_loads_strictly(bundle, trained):
    of_the_family = {"kdnet": ["teacher.pt", "teacher_last.pt"]}.get(bundle.backbone, [])
    left = sorted(path.name for path in trained.iterdir())
    assert left == sorted(["last.pt", "model.json", "model.pt", "tensorboard", *of_the_family])
    weights = torch.load(trained / "model.pt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in weights.values())
    workflow = bundle.workflow("inference", "infer", checkpoint=str(trained / "model.pt"), **bundle.tiny_network)
    workflow.initialize()
    network = workflow.parser.get_parsed_content("network_def")
    network.load_state_dict(weights, strict=True)
    trained_on = torch.load(trained / "last.pt", weights_only=True)
    assert trained_on["epoch"] == 1
    assert all(bool(torch.equal(trained_on["network"][name], weights[name])) for name in weights)


def test_evaluation_scores_every_subset(bundle, trained, tmp_path):
    overrides = bundle.tiny_training(output_dir=str(tmp_path), checkpoint=str(trained / "model.pt"))
    bundle.run("train", "evaluating", overlays=[bundle.config("evaluate")], modality_gap=True, **overrides)
    protocol = json.loads((tmp_path / "evaluation" / "protocol.json").read_text())
    assert 0 <= protocol["additions"]["modality_gap"]["probe_accuracy"] <= 1
    with (tmp_path / "evaluation" / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [*(subset.name for subset in SUBSETS), "average"]
    assert [(row["metric"], row["region"]) for row in rows[:3]] == [("Dice", region) for region in REGIONS]
    assert all(0 <= float(row[name]) <= 1 for row in rows[:3] for name in names)


def test_an_incomplete_study_is_segmented_in_its_own_space(bundle, trained, make_study, tmp_path, caplog):
    study = make_study(tmp_path / "in" / "case", "case", modalities=("t1ce", "t2"), label=False)
    with caplog.at_level(logging.INFO):
        bundle.infer(tmp_path / "in", tmp_path / "out", trained / "model.pt")
    result = nib.load(tmp_path / "out" / "case" / "case_seg.nii.gz")
    source = nib.load(study / "case_t2.nii.gz")
    assert result.shape == source.shape
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-5)
    assert result.get_data_dtype() == np.uint8
    assert set(np.unique(result.dataobj)) <= {0, 1, 2, 3}
    assert "t1ce+t2" in caplog.text.lower()


def test_the_loss_and_the_alignment_are_curves(bundle, trained, logged_curves):
    curves = logged_curves(trained / "tensorboard")
    aligned = bundle.anchor != "base"
    assert ("alignment" in curves) == ("alignment_level_1" in curves) == aligned
    assert {"loss", "val_mean_dice", *REGIONS} <= curves.keys()
    assert all(math.isfinite(value) for values in curves.values() for value in values)
