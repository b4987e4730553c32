"""The parts of the MONAI Label app, without a server; ``bash scripts/monai_label.sh --self_test``."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch

from medmap_components.networks import ACN, AdaptiveMixAnchor

pytest.importorskip("monailabel", reason="it has an environment of its own: bash scripts/monai_label.sh --self_test")

from fastapi import HTTPException

from tests.label_server.live_server import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def load_part():
    """Imports a module of the app, as MONAI Label does that runs it."""
    app = str(REPOSITORY / "scripts" / "label_server" / "app")
    sys.path.insert(0, app)
    yield importlib.import_module
    sys.path.remove(app)


@pytest.fixture
def store(load_part, make_study, tmp_path):
    """A datastore with one study behind a link, and one file that was uploaded."""
    study = make_study(tmp_path / "data", "case", modalities=("flair",), label=False)
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "case.nii.gz").symlink_to(study / "case_flair.nii.gz")
    datastore = load_part("medmap_datastore").StudyDatastore(str(folder), extensions=["*.nii.gz"])
    datastore.add_image("uploaded", str(study / "case_flair.nii.gz"), {})
    return datastore


def test_removing_a_study_leaves_its_file(store, tmp_path):
    final = tmp_path / "store" / "labels" / "final"
    store.save_label("case", str(tmp_path / "data" / "case_flair.nii.gz"), "final", {})
    assert (final / "case.nii.gz").is_file()
    store.remove_image("case")
    assert store.list_images() == ["uploaded"]
    assert not (final / "case.nii.gz").exists()
    assert (tmp_path / "data" / "case_flair.nii.gz").is_file()


def test_removing_an_uploaded_image_removes_it(store, tmp_path):
    store.remove_image("uploaded")
    assert store.list_images() == ["case"]
    assert not (tmp_path / "store" / "uploaded.nii.gz").exists()


def test_an_upload_does_not_overwrite_a_study(store, tmp_path):
    other = tmp_path / "other.nii.gz"
    other.write_bytes(b"other")
    before = (tmp_path / "data" / "case_flair.nii.gz").read_bytes()
    with pytest.raises(HTTPException) as caught:
        store.add_image("case", str(other), {})
    assert caught.value.status_code == 409
    assert (tmp_path / "data" / "case_flair.nii.gz").read_bytes() == before


class Labelled:
    """Stands for a datastore with labelled studies."""

    def __init__(self, folders):
        self.folders = folders

    def datalist(self):
        # one file stands for a study; labels are 0 to 3
        return [
            {"image": str(folder / f"{folder.name}-t2f.nii.gz"), "label": str(folder / f"{folder.name}-seg.nii.gz")}
            for folder in self.folders
        ]


@pytest.fixture
def acn(load_script, load_part, tmp_path):
    """ACN with small networks, placed as it would be served, and the task that trains it."""
    narrow = json.loads((REPOSITORY / "tests" / "data" / "tiny_acn.json").read_text())
    critics = json.loads((REPOSITORY / "tests" / "data" / "tiny_acn_training.json").read_text())
    narrow.pop("_desc_", None)
    critics.pop("_desc_", None)
    network = ACN(stem_channels=2, base_channels=8, anchor=AdaptiveMixAnchor(levels=[1]))
    torch.save(network.state_dict(), tmp_path / "start.pt")
    (tmp_path / "start.json").write_text('{"spacing_mm": 3.0}')
    place = load_script("label_server.bundles").place_bundle
    bundle = place("acn_pmix", tmp_path, tmp_path / "start.pt", {**narrow, **critics})
    return bundle, load_part("medmap_tasks").MedmapTrainTask(str(bundle), {})


def test_both_paths_of_acn_start_from_the_weights(acn, make_study, tmp_path):
    bundle, task = acn
    studies = [make_study(tmp_path / name, name, naming="brats2023") for name in ("one", "two")]
    # a learning rate of 0: what the run leaves is what it started from
    request = {"model": "acn_pmix", "max_epochs": 1, "val_split": 0.5, "device": "cpu", "learning_rate": 0.0}
    task({**request, "crop_size": [32, 32, 32], "num_workers": 0}, Labelled(studies))
    start = torch.load(tmp_path / "start.pt", weights_only=True)
    state = torch.load(bundle / "output" / "last.pt", weights_only=True)
    for found in (state["network"], state["also"]["full_path"]):
        assert found.keys() == start.keys()
        assert all(torch.equal(found[name], start[name]) for name in start)
    # training goes on in the voxel size of the weights that it starts from
    for name in ("model", "model.1"):
        assert json.loads((bundle / "models" / f"{name}.json").read_text()) == {"spacing_mm": 3.0}
