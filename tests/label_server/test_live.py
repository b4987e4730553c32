"""A server that is started for real, on studies in several layouts; ``bash scripts/monai_label.sh --self_test``."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

from medmap_components.data.phantom import write_phantom_case
from medmap_components.modalities import MODALITIES

pytest.importorskip("monailabel", reason="it has an environment of its own: bash scripts/monai_label.sh --self_test")

from tests.label_server.live_server import REPOSITORY, LiveServer

pytestmark = pytest.mark.slow

GRID = {"shape": (48, 48, 48), "spacing": 4.0}
NARROW = {"filters": [4, 6, 8, 8], "network_def#stem_channels": 2, "crop_size": [32, 32, 32], "spacing_mm": None}
STUDIES = ("full", "two", "flat", "stacked", "BraTS-GLI-00009-000")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights of a narrow U-Net after a short training on the phantom."""
    output = tmp_path_factory.mktemp("training")
    shapes = {"phantom_size": list(GRID["shape"]), "phantom_spacing": GRID["spacing"], "phantom_cases": [8, 1]}
    network = {key: value for key, value in NARROW.items() if key != "spacing_mm"}
    monai.bundle.run(
        run_id="training",
        config_file=str(REPOSITORY / "bundles" / "unet_pmix" / "configs" / "train.json"),
        logging_file=False,
        output_dir=str(output),
        epochs=20,
        val_interval=20,
        learning_rate=0.01,
        **shapes,
        **network,
    )
    return output / "model.pt"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Studies in folders of their own, all in one folder, in two namings, and as one file with four channels."""
    root, made = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("made")
    write_phantom_case(root, "full", seed=900_001, **GRID)
    write_phantom_case(root, "two", seed=900_002, modalities=("flair", "t2"), **GRID)
    flat = write_phantom_case(made, "flat", seed=900_003, modalities=("t1ce", "t1"), with_label=False, **GRID)
    for file in flat.glob("*.nii.gz"):
        shutil.copy(file, root)
    newer = write_phantom_case(made, "newer", seed=900_004, modalities=("flair", "t1ce", "t1"), **GRID)
    (root / STUDIES[4]).mkdir()
    for old, new in (("flair", "t2f"), ("t1ce", "t1c"), ("t1", "t1n")):
        shutil.copy(newer / f"newer_{old}.nii.gz", root / STUDIES[4] / f"{STUDIES[4]}-{new}.nii.gz")
    stack(write_phantom_case(made, "last", seed=900_005, modalities=("flair", "t1ce", "t2"), **GRID), root)
    return root


def stack(case, root):
    """One file, T1 all zero, with axes that run to the right and front, so that a flip or a lost origin shows."""
    images = {path.name.split("_")[1].split(".")[0]: nib.load(path) for path in case.glob("*.nii.gz")}
    first = images["flair"]
    channels = [np.asarray(images[name].dataobj) if name in images else np.zeros(first.shape) for name in MODALITIES]
    turned = np.stack(channels, axis=-1)[::-1, ::-1].astype(np.float32)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (-90, -120, -70)
    nib.save(nib.Nifti1Image(turned, affine), root / "stacked.nii.gz")


@pytest.fixture(scope="module")
def zipped(weights, load_script, serve_folder, tmp_path_factory):
    """The address of a released bundle: one folder with configs, weights and a copy of the package."""
    folder = tmp_path_factory.mktemp("release")
    place = load_script("label_server.bundles").place_bundle
    released = place("unet_pmix", folder, weights, NARROW).rename(folder / "unet_released")
    shutil.copytree(REPOSITORY / "medmap_components", released / "medmap_components")
    archive = Path(shutil.make_archive(str(folder / "unet_released_v0.1.0"), "zip", folder, "unet_released"))
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}\n")
    return f"{serve_folder(folder)}/unet_released_v0.1.0.zip"


def break_bundles(model_dir, weights):
    """Three bundles that cannot be served, each for another reason."""
    bare = REPOSITORY / "bundles" / "unet_pmix", model_dir / "without_weights"
    shutil.copytree(*bare, ignore=shutil.ignore_patterns("model.pt", "model.json"))
    for name in ("without_package", "of_other_width"):
        shutil.copytree(REPOSITORY / "bundles" / "unet_pmix", model_dir / name)
        shutil.copy(weights, model_dir / name / "models" / "model.pt")
    configs = model_dir / "without_package" / "configs"
    for file, key, value in (
        ("inference", "network_def", {"_target_": "absent_package.Network"}),
        ("metadata", "required_packages_version", {"absent-package": "1.2.3", "nibabel": "5.4.2"}),
    ):
        content = json.loads((configs / f"{file}.json").read_text())
        (configs / f"{file}.json").write_text(json.dumps(content | {key: value}))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def server(workspace, data, weights, zipped):
    model_dir = workspace / "app" / "model"
    model_dir.mkdir(parents=True)
    break_bundles(model_dir, weights)
    settings = [f"{key}={value}".replace(" ", "") for key, value in NARROW.items()]
    bundles = ["--bundle", "unet_pmix", zipped, "--weights", weights, weights, "--set", *settings]
    live = LiveServer([data, *bundles, "--with_labels", "--workspace", workspace], workspace / "server.log")
    try:
        live.wait_until_ready()
        yield live
    finally:
        live.stop()


@pytest.fixture(scope="module")
def bundle_run(workspace, data, tmp_path_factory):
    """What ``monai.bundle run`` makes of all studies, with the bundle that is served: study name to image."""

    def run(**overrides):
        output = tmp_path_factory.mktemp("bundle_run")
        config = workspace / "app" / "model" / "unet_pmix" / "configs" / "inference.json"
        monai.bundle.run(
            config_file=str(config),
            logging_file=False,
            dataset_dir=str(data),
            output_dir=str(output),
            report_pictures=False,
            **overrides,
        )
        return {study: nib.load(output / study / f"{study}_seg.nii.gz") for study in STUDIES}

    return run


@pytest.fixture(scope="module")
def expected(server, bundle_run):
    return bundle_run()


def assert_same(found, wanted):
    assert found.get_data_dtype() == np.uint8
    assert found.shape == wanted.shape == GRID["shape"]
    np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(wanted.dataobj))


def test_info_lists_the_bundles_with_their_labels_and_switches(server):
    models = server.info()["models"]
    assert sorted(models) == ["unet_pmix", "unet_released"]
    for model in models.values():
        assert model["labels"] == {"necrotic core": 1, "edema": 2, "enhancing tumor": 3}
        assert {key: model["config"][key] for key in model["config"] if key.startswith("use_")} == {
            "use_flair": True,
            "use_t1ce": True,
            "use_t1": True,
            "use_t2": True,
        }


def test_all_studies_are_listed_and_the_labelled_ones_counted(server):
    assert sorted(server.ask("GET", "/datastore/?output=all").json()["objects"]) == sorted(STUDIES)
    assert server.info()["datastore"]["completed"] == 2


def test_broken_bundles_are_left_out_and_the_reason_is_given(server):
    description = server.info()["description"]
    assert "without_package: Cannot locate class or function path: 'absent_package.Network'" in description
    # nibabel is there and not named
    assert "pip install absent-package==1.2.3" in description
    assert "nibabel" not in description
    assert "without_weights: there is no models/model.pt in" in description
    assert "of_other_width:" in description
    assert "holds the weights of another network" in description


@pytest.mark.parametrize("study", STUDIES)
def test_a_segmentation_equals_the_bundles_own(server, expected, tmp_path, study):
    assert np.asarray(expected[study].dataobj).any()
    assert_same(server.label_map(tmp_path, "unet_pmix", study), expected[study])


def test_a_bundle_from_a_zip_segments_alike(server, expected, tmp_path):
    assert_same(server.label_map(tmp_path, "unet_released", "two"), expected["two"])


def test_what_was_used_and_what_is_missing_is_reported(server):
    result = server.segment("unet_pmix", "stacked", output="json").json()
    assert result["modalities_used"] == ["flair", "t1ce", "t2"]
    assert result["modalities_missing"] == ["t1"]


def test_switching_a_modality_off_is_as_if_it_were_missing(server, bundle_run, expected, tmp_path):
    without = bundle_run(**{"displayable_configs#use_flair": False, "displayable_configs#use_t1ce": False})
    found = server.label_map(tmp_path, "unet_pmix", "full", use_flair=False, use_t1ce=False)
    assert_same(found, without["full"])
    assert (np.asarray(found.dataobj) != np.asarray(expected["full"].dataobj)).any()
    # and it holds for that one request
    assert_same(server.label_map(tmp_path, "unet_pmix", "full"), expected["full"])


def test_a_study_without_any_modality_left_is_refused_with_the_reason(server):
    response = server.segment("unet_pmix", "two", use_flair=False, use_t2=False)
    assert response.status_code == 422
    assert "study 'two' has no readable modality: found ['flair', 't2']" in response.json()["detail"]


def upload(server, file):
    with file.open("rb") as content:
        files = {"file": (file.name, content), "params": (None, "{}")}
        return server.ask("POST", "/infer/unet_pmix?output=image", files=files)


def test_an_uploaded_file_with_all_channels_is_segmented(server, data, expected, tmp_path):
    response = upload(server, data / "stacked.nii.gz")
    assert response.status_code == 200, response.text
    (tmp_path / "result.nii.gz").write_bytes(response.content)
    assert_same(nib.load(tmp_path / "result.nii.gz"), expected["stacked"])


def test_an_uploaded_single_modality_is_refused_with_the_reason(server, data):
    response = upload(server, data / "flat_t1.nii.gz")
    assert response.status_code == 422
    assert "its name tells no modality" in response.json()["detail"]


def test_training_starts_from_the_weights_and_keeps_them(server, bundle_run, expected, workspace, weights, tmp_path):
    label = tmp_path / "label.nii.gz"
    nib.save(expected["flat"], label)
    with label.open("rb") as file:
        saved = server.ask("PUT", "/datastore/label?image=flat&tag=final", files={"label": ("label.nii.gz", file)})
    assert saved.status_code == 200
    assert server.info()["datastore"]["completed"] == 3

    rate, steps = 1e-3, 2  # two of the three labelled studies, one of them per step
    task = server.train(
        "unet_pmix", max_epochs=1, val_split=0.34, learning_rate=rate, batch_size=1, num_workers=0, device="cpu"
    )
    assert task["status"] == "DONE", server.log.read_text()[-5000:]
    models = workspace / "app" / "model" / "unet_pmix" / "models"
    assert (models / "model.1.pt").read_bytes() == weights.read_bytes()
    before = torch.load(weights, weights_only=True)
    after = torch.load(models / "model.pt", weights_only=True)
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    # each step of Adam moves a weight by about the learning rate at most; new weights would be far away
    assert 0 < moved < 4 * rate * steps

    assert_same(server.label_map(tmp_path, "unet_pmix", "full"), bundle_run()["full"])
    kept = server.label_map(tmp_path, "unet_pmix", "full", model_filename="model.1.pt")
    assert_same(kept, expected["full"])
    assert server.info()["models"]["unet_pmix"]["config"]["model_filename"] == ["model.pt", "model.1.pt"]
