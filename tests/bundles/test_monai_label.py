"""Training with exactly the overrides that MONAI Label passes (monailabel.tasks.train.bundle)."""

from __future__ import annotations

import logging
import math

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch


@pytest.fixture
def datastore(make_study, make_nifti, tiny_arrays, tmp_path):
    """Images and labels as MONAI Label lists them: a single modality's path, or one file with four channels."""
    folder = tmp_path / "store"
    # siblings of the named modality are found; the second study has no T1ce; labels are 0 to 3
    make_study(folder, "case_a", label=False)
    make_study(folder, "case_b", modalities=("flair", "t1", "t2"), label=False)
    arrays = tiny_arrays(enhancing=3)
    channels = np.stack([arrays[name] for name in ("flair", "t1ce", "t1", "t2")], axis=-1)
    make_nifti(folder / "case_c.nii.gz", channels)
    items = []
    for name, image in (("a", "case_a_flair.nii.gz"), ("b", "case_b_flair.nii.gz"), ("c", "case_c.nii.gz")):
        label = make_nifti(folder / "labels" / "final" / f"case_{name}.nii.gz", arrays["label"])
        items.append({"image": str(folder / image), "label": str(label)})
    return items


def overrides_of_monai_label(bundle, training, validation, pretrained):
    config = monai.bundle.ConfigParser()
    config.read_config(str(bundle.config("train")))
    handlers = config.get("train#handlers", [])
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(pretrained),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    handlers.insert(0, loader)
    overrides = {
        "bundle_root": str(bundle.root),
        "train#trainer#max_epochs": 1,
        "train#dataset#data": training,
        "device": "cpu",
        "train#handlers": handlers,
    }
    if validation is not None:
        overrides["validate#dataset#data"] = validation
    return overrides


@pytest.fixture
def run_as_monai_label(bundle, datastore, trained, tmp_path):
    def run(validation):
        overrides = overrides_of_monai_label(bundle, datastore[:2], validation, trained / "model.pt")
        # what keeps the test small; MONAI Label itself passes nothing of this
        small = {"crop_size": [32, 32, 32], "batch_size": 1, "num_workers": 0, **bundle.tiny_network}
        monai.bundle.run(
            run_id="run",
            init_id=None,
            final_id=None,
            meta_file=str(bundle.config("metadata")),
            config_file=str(bundle.config("train")),
            logging_file=False,
            **overrides,
            **small,
            output_dir=str(tmp_path / "out"),
        )
        return tmp_path / "out"

    return run


@pytest.mark.bundles("one of each family")
def test_one_epoch_runs_on_the_given_data_alone(run_as_monai_label, datastore, caplog, monkeypatch):
    monkeypatch.setattr("medmap_components.data.phantom.studies._announced", set())
    monkeypatch.setattr(
        "medmap_components.data.phantom.studies.write_phantom_case", lambda *_, **__: pytest.fail("a phantom was made")
    )
    with caplog.at_level(logging.INFO):
        output = run_as_monai_label(datastore[2:])
    assert "PHANTOM" not in caplog.text.upper()
    state = torch.load(output / "last.pt", weights_only=True)
    assert state["epoch"] == 1
    assert state["iteration"] == 2
    assert not list(output.rglob("*phantom*"))
    # the default interval between validations is longer than this run: there are weights all the same
    weights = torch.load(output / "model.pt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_the_schedule_follows_monai_labels_epochs(bundle, datastore, trained):
    overrides = overrides_of_monai_label(bundle, datastore[:2], datastore[2:], trained / "model.pt")
    workflow = bundle.workflow("train", "train", **{**overrides, **bundle.tiny_network, "crop_size": 32})
    workflow.initialize()
    assert workflow.parser.get_parsed_content("lr_scheduler").total_iters == 1
    # real data get the published settings
    assert workflow.parser.get_parsed_content("phantom") is False
    assert math.isclose(workflow.parser.get_parsed_content("learning_rate"), 2e-4)


def test_the_labels_are_read_as_0_to_3(bundle, datastore, trained):
    overrides = overrides_of_monai_label(bundle, datastore[:2], datastore[2:], trained / "model.pt")
    small = {**bundle.tiny_network, "crop_size": 32, "cache_rate": 0.0, "num_workers": 0}
    workflow = bundle.workflow("train", "train", **{**overrides, **small})
    workflow.initialize()
    item = workflow.parser.get_parsed_content("validate#dataset")[0]
    original = np.asarray(nib.load(datastore[2]["label"]).dataobj)
    for value in (1, 2, 3):
        assert int((item["label"] == value).sum()) == int((original == value).sum()) > 0


def test_the_phantom_does_not_validate_what_was_trained_on_real_data(run_as_monai_label):
    # MONAI Label's val_split -1 leaves validation to the bundle, which has no data of its own
    with pytest.raises(RuntimeError) as caught:
        run_as_monai_label(None)
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, ValueError):
        cause = cause.__cause__
    assert "there is no validation data" in str(cause)
