"""A released bundle, downloaded with MONAI's command where the package is not installed: it trains, segments, loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medmap_components import __version__
from tests.bundles.conftest import Bundle
from tests.conftest import import_script

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "mmformer_pmix"
ZIP = f"{NAME}_v{__version__}.zip"
RELEASE = f"OWNER/REPOSITORY/v{__version__}"

IN_PYTHON = f"""
import inspect, json, sys
import torch
import monai.bundle
from monai.bundle import ConfigWorkflow

# until 1.4, MONAI gave the weights by default
old = "return_state_dict" in inspect.signature(monai.bundle.load).parameters
options = {{"return_state_dict": False}} if old else {{}}
network = monai.bundle.load("{NAME}", bundle_dir="downloads", workflow_type="inference", device="cpu", **options)
weights = torch.load("downloads/{NAME}/models/model.pt", weights_only=True)
loaded = network.state_dict()
assert loaded.keys() == weights.keys() and all(torch.equal(loaded[name], weights[name]) for name in weights)

config = "downloads/{NAME}/configs/inference.json"
workflow = ConfigWorkflow(config_file=config, workflow_type="infer", logging_file=False, dataset_dir=sys.argv[1])
workflow.initialize()
assert type(workflow.network_def).__module__.startswith("medmap_components.")
from medmap_components import __file__ as package
print(package)
"""


def options(settings):
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The bundle of the repository, for its tiny settings."""
    return Bundle(REPOSITORY / "bundles" / NAME, tmp_path_factory.getbasetemp() / "phantom")


@pytest.fixture(scope="module")
def package(server):
    """Packages the bundle into a folder of the server."""

    def run(folder, *arguments):
        import_script("package_bundles").main(["--only", NAME, "--output_dir", str(server.folder / folder), *arguments])

    return run


@pytest.fixture(scope="module")
def downloaded(server, package, bare_python, tiny, tmp_path_factory):
    """The folder that a bundle was downloaded to from a URL, after an epoch of training on the phantom."""
    package("anywhere")
    parent = tmp_path_factory.mktemp("downloaded")
    url = f"{server.url}/anywhere/{ZIP}"
    bare_python("-m", "monai.bundle", "download", "--name", NAME, "--url", url, "--bundle_dir", ".", cwd=parent)
    training = bare_python(
        *("-m", "monai.bundle", "run", "training", "--config_file", f"{NAME}/configs/train.json"),
        *options(tiny.tiny_training()),
        cwd=parent,
    )
    assert "SYNTHETIC PHANTOM" in training.stdout
    return parent


@pytest.fixture(scope="module")
def studies(make_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    make_study(folder / "case", "case", modalities=("t1ce", "t2"), label=False)
    return folder


@pytest.fixture(scope="module")
def released(server, package, downloaded, bare_python, tiny, tmp_path_factory):
    """The folder that the same bundle, now with weights, was downloaded to from the release of a repository."""
    weights = tmp_path_factory.mktemp("weights") / NAME
    weights.mkdir()
    shutil.copy(downloaded / NAME / "output" / "model.pt", weights)
    (weights / "weights.md").write_text("One epoch on two phantom cases: demonstration, not for patients.\n")
    settings = dict.fromkeys(("train", "inference"), tiny.tiny_network)
    (weights / "settings.json").write_text(json.dumps(settings))
    owner, name, tag = RELEASE.split("/")
    folder = f"github.com/{owner}/{name}/releases/download/{tag}"
    package(folder, "--weights_dir", str(weights.parent), "--base_url", f"https://{folder}")
    index = server.folder / "raw.githubusercontent.com" / RELEASE
    shutil.copytree(server.folder / folder / "models", index / "models")
    parent = tmp_path_factory.mktemp("released")
    bare_python(
        *("-m", "monai.bundle", "download", "--name", NAME, "--source", "github", "--repo", RELEASE),
        *("--version", __version__, "--bundle_dir", "downloads"),
        cwd=parent,
    )
    return parent


def segment(bare_python, cwd, config, studies, output_dir, **settings):
    """Segments the study with MONAI's command and returns its label map."""
    bare_python(
        *("-m", "monai.bundle", "run", "--config_file", config, "--dataset_dir", studies, "--output_dir", output_dir),
        *options({"report_pictures": False, **settings}),
        cwd=cwd,
    )
    return np.asarray(nib.load(output_dir / "case" / "case_seg.nii.gz").dataobj)


def test_a_bundle_trains_from_its_parent_folder_and_segments_from_its_own(
    downloaded, bare_python, tiny, studies, tmp_path
):
    bundle = downloaded / NAME
    assert torch.load(bundle / "output" / "model.pt", weights_only=True)
    assert not (downloaded / "output").exists()
    found = segment(
        bare_python, bundle, "configs/inference.json", studies, tmp_path / "downloaded", **tiny.tiny_network
    )
    # the bundle of the repository, with the same weights, says the same
    tiny.infer(studies, tmp_path / "repository", bundle / "output" / "model.pt")
    expected = np.asarray(nib.load(tmp_path / "repository" / "case" / "case_seg.nii.gz").dataobj)
    np.testing.assert_array_equal(found, expected)


def test_a_bundle_of_a_release_segments_from_the_root_folder_with_its_own_weights(
    released, bare_python, studies, tmp_path
):
    config = released / "downloads" / NAME / "configs" / "inference.json"
    labels = segment(bare_python, Path("/"), config, studies, tmp_path)
    assert labels.dtype == np.uint8
    assert f"{NAME}/models/model.pt" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_bundle_of_a_release_is_loaded_in_python(released, bare_python, studies, tmp_path):
    package = bare_python("-c", IN_PYTHON, studies, cwd=released).stdout.splitlines()[-1]
    assert Path(package).resolve() == (released / "downloads" / NAME / "medmap_components" / "__init__.py").resolve()


def test_without_a_version_the_index_of_the_release_names_it(released, server, bare_python, tmp_path):
    server.asked.clear()
    bare_python(
        *("-m", "monai.bundle", "download", "--name", NAME, "--source", "github", "--repo", RELEASE),
        *("--bundle_dir", "."),
        cwd=tmp_path,
    )
    owner, name, tag = RELEASE.split("/")
    assert server.asked == [
        f"/raw.githubusercontent.com/{RELEASE}/models/model_info.json",
        f"/github.com/{owner}/{name}/releases/download/{tag}/{ZIP}",
    ]
    assert (tmp_path / NAME / "models" / "model.pt").is_file()
