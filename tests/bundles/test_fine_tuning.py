"""Training that begins with weights: which they are, and the voxel size that belongs to them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch


@pytest.mark.bundles("one of each backbone")
def test_training_begins_with_the_given_weights(bundle, trained, tmp_path):
    out = bundle.train(tmp_path / "tuned", start_from=str(trained / "model.pt"), learning_rate=0.0, epochs=1, seed=3)
    before, after = (torch.load(folder / "model.pt", weights_only=True) for folder in (trained, out))
    assert before.keys() == after.keys()

    for name, value in before.items():
        assert torch.equal(after[name], value), name


@pytest.mark.bundles("one of each backbone")
def test_widths_and_crop_are_those_of_the_weights_unless_told(bundle, trained, tiny_dataset):
    stems = {name: value for name, value in bundle.tiny_network.items() if "stem_channels" in name}
    start = {**stems, "start_from": str(trained / "model.pt"), "dataset_dir": str(tiny_dataset)}
    told = bundle.workflow("train", "train", **start, crop_size=[64, 64, 64])
    assert told.parser.get_parsed_content("crop_size") == [64, 64, 64]
    parser = bundle.workflow("train", "train", **start).parser
    if bundle.backbone == "mmformer":  # its widths are no setting of the bundle; its crop belongs to the weights
        assert parser.get_parsed_content("crop_size") == [32, 32, 32]
        return
    assert parser.get_parsed_content("crop_size") == [48, 48, 48]
    weights = torch.load(trained / "model.pt", weights_only=True)
    network = parser.get_parsed_content("network_def").state_dict()
    assert {name: value.shape for name, value in network.items()} == {n: v.shape for n, v in weights.items()}


def test_the_voxel_size_of_the_weights_is_that_of_the_training(bundle, trained, tiny_dataset, tmp_path):
    start = tmp_path / "start.pt"
    shutil.copy(trained / "model.pt", start)
    start.with_suffix(".json").write_text(json.dumps({"spacing_mm": 1.5}))
    workflow = bundle.workflow("train", "train", start_from=str(start), dataset_dir=str(tiny_dataset))
    item = workflow.parser.get_parsed_content("train#dataset")[0]
    assert [float(size) for size in item["image"].pixdim] == pytest.approx([1.5] * 3)
    assert item["image"].shape[1:] == item["label"].shape[1:]
    assert set(item["label"].unique().tolist()) <= {0, 1, 2, 3}
    assert workflow.parser.get_parsed_content("about_weights") == {"spacing_mm": 1.5}


@pytest.mark.bundles("distillation")
def test_weights_that_are_not_there_are_refused_before_anything_is_trained(bundle, tmp_path):
    with pytest.raises(FileNotFoundError, match="--start_from"):
        bundle.train(tmp_path / "out", start_from=str(tmp_path / "none.pt"))
    assert not list(tmp_path.rglob("*.pt"))


def test_weights_that_the_run_would_set_aside_are_refused_and_stay(bundle, trained, tmp_path):
    start = tmp_path / "out" / "model.pt"
    start.parent.mkdir()
    shutil.copy(trained / "model.pt", start)
    with pytest.raises(ValueError, match="give another --output_dir"):
        bundle.train(tmp_path / "out", start_from=str(start))
    assert [path.name for path in start.parent.glob("*.pt")] == ["model.pt"]
