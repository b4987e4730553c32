"""Training runs of a bundle, with tiny settings."""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path

import monai.engines
import numpy as np
import pytest
import torch

LOSS_TERMS = {
    "loss",
    "fused_ce",
    "fused_dice",
    "modality_flair",
    "modality_t1ce",
    "modality_t1",
    "modality_t2",
    "deep_2",
    "deep_4",
    "deep_8",
    "deep_16",
}
ALIGNMENT_TERMS = {"alignment", "alignment_level_1"}


def listing(folder: Path, left_out: str = "output") -> dict[str, tuple[int, float]]:
    """Size and time of every file, but for those in one sub-folder and what Python caches."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime)
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != left_out and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("run_id", ["training", "run", ""])
def test_every_run_id_trains_exactly_once(bundle, tiny_dataset, monkeypatch, tmp_path, run_id):
    calls: list[str] = []
    for engine in (monai.engines.Trainer, monai.engines.Evaluator):
        monkeypatch.setattr(engine, "run", lambda self, *_: calls.append(type(self).__mro__[-4].__name__))
    overrides = bundle.tiny_training(dataset_dir=str(tiny_dataset), output_dir=str(tmp_path), cache_rate=0.0)
    bundle.run("train", run_id, **overrides)
    assert len(calls) == 1


def test_a_run_leaves_weights_state_and_curves_and_nothing_else(trained):
    assert sorted(path.name for path in trained.iterdir()) == ["last.pt", "model.json", "model.pt", "tensorboard"]


def test_weights_load_strictly_and_safely(bundle, trained):
    weights = torch.load(trained / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    workflow = bundle.workflow("inference", "infer", checkpoint=str(trained / "model.pt"), **bundle.tiny_network)
    workflow.initialize()
    network = workflow.parser.get_parsed_content("network_def")
    network.load_state_dict(weights, strict=True)
    # the crop size is that of the training run, told by the weights
    assert network.img_size == (32, 32, 32)


def test_every_loss_term_is_a_curve(trained, logged_curves):
    curves = logged_curves(trained / "tensorboard")
    for term in sorted(LOSS_TERMS | ALIGNMENT_TERMS):
        # two iterations, and their mean over the one epoch, as curves of their own
        assert len(curves[f"iteration/{term}"]) == 2, term
        assert curves[term] == [pytest.approx(np.mean(curves[f"iteration/{term}"]), rel=1e-4)], term
    assert all(math.isfinite(value) for values in curves.values() for value in values)
    assert {"WT", "TC", "ET", "val_mean_dice"} <= curves.keys()


def test_anchor_weights_and_their_two_gradients_are_curves(trained, logged_curves):
    curves = logged_curves(trained / "tensorboard")
    weights = [curves[f"anchor_weight/level_1/{name}"] for name in ("flair", "t1ce", "t1", "t2")]
    assert sum(values[0] for values in weights) == pytest.approx(1, abs=1e-5)
    for source in ("alignment", "segmentation"):
        gradient = [curves[f"anchor_gradient_{source}/level_1/{name}"][0] for name in ("flair", "t1ce", "t1", "t2")]
        # the weights go through a softmax, so nothing pulls all of them the same way
        assert sum(gradient) == pytest.approx(0, abs=1e-5)
        assert any(value != 0 for value in gradient)


def test_nothing_is_written_outside_the_output_folder(bundle, monkeypatch, tmp_path):
    """Once from the bundle's own folder and once from elsewhere, both with the default output folder."""
    copy = tmp_path / "somewhere" / bundle.root.name
    ignored = shutil.ignore_patterns("output", "*.pt")
    shutil.copytree(bundle.root, copy, ignore=ignored)
    (copy / "models" / "model.pt").write_bytes(b"shipped")
    own = type(bundle)(copy, copy / "output" / "phantom")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    repository = bundle.root.parents[1]
    before = listing(copy), listing(bundle.root), sorted(repository.iterdir())
    overrides = own.tiny_training()
    del overrides["phantom_settings#folder"]

    monkeypatch.chdir(copy)
    monai.bundle.run("training", config_file="configs/train.json", logging_file=False, **overrides)
    assert sorted(path.name for path in (copy / "output").iterdir()) == [
        "last.pt",
        "model.json",
        "model.pt",
        "phantom",
        "tensorboard",
    ]
    first = (copy / "output" / "model.pt").read_bytes()

    monkeypatch.chdir(elsewhere)
    own.run("train", "training", **overrides)
    # the second run keeps what the first one made
    assert {"last.1.pt", "last.pt", "model.1.json", "model.1.pt", "model.json", "model.pt"} <= {
        path.name for path in (copy / "output").iterdir()
    }
    assert (copy / "output" / "model.1.pt").read_bytes() == first

    assert not list(elsewhere.iterdir())
    assert (listing(copy), listing(bundle.root), sorted(repository.iterdir())) == before
    assert (copy / "models" / "model.pt").read_bytes() == b"shipped"


def test_cases_that_lack_modalities_can_be_trained_on(bundle, make_study, tmp_path, caplog, logged_curves):
    data = tmp_path / "data"
    make_study(data / "A", "A", modalities=("flair", "t1", "t2"))
    make_study(data / "B", "B", modalities=("t1ce", "t1"))
    make_study(data / "C", "C")
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"training": ["A", "B"], "validation": ["C"]}))
    with caplog.at_level(logging.INFO):
        output = bundle.train(tmp_path / "out", dataset_dir=str(data), split_file=str(split))
    curves = logged_curves(output / "tensorboard")
    by_iteration = {name: curves[f"iteration/{name}"] for name in LOSS_TERMS}
    assert all(math.isfinite(value) for values in by_iteration.values() for value in values)
    # exactly one of the two cases has each of these, both have T1
    for name in ("modality_flair", "modality_t1ce", "modality_t2"):
        assert len(by_iteration[name]) == 1, name
    assert len(by_iteration["modality_t1"]) == 2
    # real data were given
    assert "PHANTOM" not in caplog.text
    assert not list(output.rglob("*phantom*"))


def test_layout_and_label_scheme_reach_the_studies_of_both_sections(
    bundle, make_study, make_nifti, tiny_arrays, tmp_path
):
    data = tmp_path / "data"
    label = tiny_arrays()["label"]
    label[label == 4] = 3
    for name in "AB":
        make_study(data / name, name)
        make_nifti(data / name / f"{name}_seg.nii.gz", label)
    with pytest.raises(ValueError, match="label_scheme"):
        bundle.train(tmp_path / "out", dataset_dir=str(data))
    with pytest.raises(ValueError, match="brats2023"):
        bundle.train(tmp_path / "out", dataset_dir=str(data), label_scheme="brats2023", layout="brats2023")
    # a study in another layout, which neither section may take in
    make_study(data / "C", "C", modalities=("flair", "t1", "t2"), naming="brats2023")
    given = {"dataset_dir": str(data), "label_scheme": "brats2023", "layout": "brats2018"}
    workflow = bundle.workflow("train", "training", **bundle.tiny_training(output_dir=str(tmp_path / "out"), **given))
    workflow.initialize()
    sections = [workflow.parser.get_parsed_content(f"{part}#dataset#data") for part in ("train", "validate")]
    assert sorted(item["study"] for section in sections for item in section) == ["A", "B"]
    output = bundle.train(tmp_path / "out", **given)
    assert (output / "model.pt").is_file()
    # of a folder's studies the voxel size is not known
    assert not (output / "model.json").exists()


def test_a_label_with_unknown_values_is_named(bundle, make_study, make_nifti, tiny_arrays, tmp_path):
    make_study(tmp_path / "A", "A")
    make_study(tmp_path / "B", "B")
    label = tiny_arrays()["label"]
    label[label == 4] = 7
    for name in "AB":
        make_nifti(tmp_path / name / f"{name}_seg.nii.gz", label)
    with pytest.raises(ValueError, match=r"[AB]_seg\.nii\.gz.*7|7.*[AB]_seg\.nii\.gz"):
        bundle.train(tmp_path / "out", dataset_dir=str(tmp_path))


@pytest.mark.parametrize("reason", ["the run is shorter than the interval", "there is no validation data"])
def test_a_run_without_validation_leaves_weights(bundle, tiny_dataset, tmp_path, caplog, reason):
    overrides = {"val_interval": 5} if "shorter" in reason else {"validation_fraction": 0.0}
    output = bundle.train(tmp_path, dataset_dir=str(tiny_dataset), **overrides)
    assert "No validation took place" in caplog.text
    last = torch.load(output / "last.pt", weights_only=True)["network"]
    weights = torch.load(output / "model.pt", weights_only=True)
    assert weights.keys() == last.keys()
    assert all(torch.equal(weights[name], last[name]) for name in last)


def test_the_phantom_is_announced(bundle, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("medmap_components.data.phantom.studies._announced", set())
    workflow = bundle.workflow("train", "train", **bundle.tiny_training(output_dir=str(tmp_path)))
    workflow.initialize()
    assert workflow.parser.get_parsed_content("phantom") is True
    assert "SYNTHETIC PHANTOM" in caplog.text


def test_the_phantom_gets_settings_of_its_own_and_real_data_the_published_ones(bundle, tiny_dataset):
    settings = {}
    for name, overrides in {"phantom": {}, "real": {"dataset_dir": str(tiny_dataset)}}.items():
        workflow = bundle.workflow("train", "train", **overrides)
        workflow.initialize()
        knobs = ("epochs", "crop_size", "batch_size", "learning_rate")
        settings[name] = {knob: workflow.parser.get_parsed_content(knob) for knob in knobs}
    assert settings["real"] == {
        "epochs": 1000,
        "crop_size": [128, 128, 128],
        "batch_size": 2,
        "learning_rate": 2e-4,
    }
    # the whole default run has to end within the hour on two cores
    assert settings["phantom"]["epochs"] < 100
    assert np.prod(settings["phantom"]["crop_size"]) <= 64**3
