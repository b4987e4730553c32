"""Tests of scripts/package_bundles.py: what is in a zip, and that it is the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

import medmap_components

REPOSITORY = Path(__file__).resolve().parents[2]
VERSION = medmap_components.__version__
URL = "https://github.com/OWNER/REPOSITORY/releases/download/v1"
NARROW = {"filters": [4, 6, 8, 8], "network_def#stem_channels": 2}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("package_bundles")


@pytest.fixture(scope="module")
def all_zips(script, tmp_path_factory) -> Path:
    """The release of all bundles, with the weights that the repository ships."""
    folder = tmp_path_factory.mktemp("release")
    script.main(["--output_dir", str(folder), "--base_url", URL])
    return folder


@pytest.fixture
def weights_dir(tmp_path) -> Path:
    """Weights of a U-Net that is narrower than its bundle's."""
    folder = tmp_path / "weights" / "unet_pmix"
    folder.mkdir(parents=True)
    parser = ConfigParser(ConfigParser.load_config_file(REPOSITORY / "bundles/unet_pmix/configs/inference.json"))
    for key, value in NARROW.items():
        parser[key] = value
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "model.pt")
    (folder / "weights.md").write_text("Narrow, for a test.\n")
    (folder / "settings.json").write_text(json.dumps({"inference": NARROW}))
    return folder.parent


@pytest.fixture
def package(script, tmp_path):
    """Packages one U-Net into a folder, with further arguments; returns the zip."""

    def run(*arguments: str, output: str = "out") -> Path:
        script.main(["--only", "unet_pmix", "--output_dir", str(tmp_path / output), *map(str, arguments)])
        return tmp_path / output / f"unet_pmix_v{VERSION}.zip"

    return run


def content(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def test_every_bundle_becomes_a_zip_with_one_folder_of_its_name(all_zips):
    bundles = sorted(path.name for path in (REPOSITORY / "bundles").iterdir())
    assert len(bundles) == 20
    assert [path.name for path in sorted(all_zips.glob("*.zip"))] == [f"{name}_v{VERSION}.zip" for name in bundles]
    for name in bundles:
        files = content(all_zips / f"{name}_v{VERSION}.zip")
        assert {file.split("/")[0] for file in files} == {name}
        for file in ("LICENSE", "docs/README.md", "configs/train.json", "configs/logging.conf"):
            assert files[f"{name}/{file}"] == (REPOSITORY / "bundles" / name / file).read_bytes()
        assert json.loads(files[f"{name}/configs/metadata.json"])["version"] == VERSION
        # the README names the files of requirements, so they come with it
        readme = files[f"{name}/docs/README.md"].decode()
        for file in ("requirements.txt", "requirements.lock"):
            assert f"-r {file}" in readme
            assert files[f"{name}/{file}"] == (REPOSITORY / file).read_bytes()
        assert not [file for file in files if "/output/" in file]
        models = {file.split("/")[-1] for file in files if "/models/" in file}
        assert models == ({"model.pt", "model.json"} if name == "unet_pmix" else set())


def test_the_copy_of_the_package_is_complete_and_nothing_else(all_zips):
    folder = "unet_pmix/medmap_components/"
    files = content(all_zips / f"unet_pmix_v{VERSION}.zip")
    copied = {name.removeprefix(folder): data for name, data in files.items() if name.startswith(folder)}
    assert copied["__init__.py"] == (REPOSITORY / "medmap_components" / "__init__.py").read_bytes()
    modules = {
        path.relative_to(REPOSITORY / "medmap_components") for path in REPOSITORY.glob("medmap_components/**/*.py")
    }
    assert {path.as_posix() for path in modules} == {name for name in copied if name.endswith(".py")}
    # the data that the phantom and the split lists are made from, and the licence of the former
    assert {"data/phantom/mni152_tissue_1mm.npz", "data/phantom/LICENSE-ICBM152.txt", "py.typed"} <= copied.keys()
    assert "data/split_lists/brats2018.csv" in copied
    assert not [name for name in copied if "__pycache__" in name or name.endswith(".pyc")]


def test_the_same_input_gives_the_same_bytes_on_another_day(script, package, all_zips, monkeypatch, tmp_path):
    copy = shutil.copytree(REPOSITORY / "bundles" / "unet_pmix", tmp_path / "bundles" / "unet_pmix")
    for path in copy.rglob("*"):
        os.utime(path, (0, 0))
        path.chmod(0o700)
    again = package("--bundles_dir", tmp_path / "bundles")
    assert again.read_bytes() == (all_zips / again.name).read_bytes()
    with zipfile.ZipFile(again) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o100644}


def test_results_that_lie_in_a_bundle_are_not_shipped(package, all_zips, tmp_path):
    copy = shutil.copytree(REPOSITORY / "bundles" / "unet_pmix", tmp_path / "bundles" / "unet_pmix")
    for name in ("output/model.pt", "models/model.1.pt"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(b"of this machine")
    again = package("--bundles_dir", tmp_path / "bundles")
    assert again.read_bytes() == (all_zips / again.name).read_bytes()


def test_the_checksums_are_those_of_the_zips(all_zips):
    lines = (all_zips / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == 20
    for line in lines:
        digest, name = line.split("  ")
        assert digest == hashlib.sha256((all_zips / name).read_bytes()).hexdigest()


def test_the_index_has_the_model_zoos_form(all_zips):
    index = json.loads((all_zips / "models" / "model_info.json").read_text())
    assert len(index) == 20
    entry = index[f"acn_pn_v{VERSION}"]
    assert entry["source"] == f"{URL}/acn_pn_v{VERSION}.zip"
    assert entry["checksum"] == hashlib.sha1((all_zips / f"acn_pn_v{VERSION}.zip").read_bytes()).hexdigest()


def test_weights_come_with_their_description_and_the_settings_that_they_need(package, weights_dir, capsys):
    files = content(package("--weights_dir", weights_dir))
    assert files["unet_pmix/models/model.pt"] == (weights_dir / "unet_pmix" / "model.pt").read_bytes()
    assert files["unet_pmix/docs/weights.md"] == b"Narrow, for a test.\n"
    # what is said of the weights that the repository ships does not hold for these
    assert "unet_pmix/models/model.json" not in files
    inference = json.loads(files["unet_pmix/configs/inference.json"])
    assert inference["filters"] == [4, 6, 8, 8]
    assert inference["network_def"]["stem_channels"] == 2
    # what is not named stays as it is
    there = json.loads((REPOSITORY / "bundles/unet_pmix/configs/inference.json").read_text())
    there["filters"], there["network_def"]["stem_channels"] = [4, 6, 8, 8], 2
    assert inference == there
    assert "1 with weights" in capsys.readouterr().out


def test_bundles_without_weights_are_named(script, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    options = ["--only", "unet_base", "--output_dir", str(tmp_path / "out"), "--weights_dir", str(tmp_path / "none")]
    script.main(options)
    out = capsys.readouterr().out
    assert "0 with weights" in out
    assert out.splitlines()[-1].endswith(": unet_base")


def test_weights_that_the_repository_ships_go_along_with_their_description(package):
    files = content(package())
    for name in ("models/model.pt", "models/model.json", "docs/weights.md"):
        assert files[f"unet_pmix/{name}"] == (REPOSITORY / "bundles" / "unet_pmix" / name).read_bytes()


@pytest.mark.parametrize(
    ("file", "replacement", "said"),
    [
        ("settings.json", None, "weights of another network"),
        ("weights.md", None, "weights.md is missing"),
        ("model.pt", None, "model.pt is missing"),
        ("model.pt", {"state_dict": {"weight": torch.zeros(1)}}, "bare state dict"),
    ],
    ids=["other width", "no description", "no weights", "nested"],
)
def test_weights_that_do_not_fit_or_say_nothing_are_not_packaged(package, weights_dir, file, replacement, said):
    path = weights_dir / "unet_pmix" / file
    path.unlink()
    if replacement is not None:
        torch.save(replacement, path)
    with pytest.raises(ValueError, match=said):
        package("--weights_dir", weights_dir)


def test_a_bundle_of_another_version_than_the_package_is_refused(package, tmp_path):
    copy = shutil.copytree(REPOSITORY / "bundles" / "unet_pmix", tmp_path / "bundles" / "unet_pmix")
    metadata = copy / "configs" / "metadata.json"
    metadata.write_text(metadata.read_text().replace(f'"version": "{VERSION}"', '"version": "9.9.9"'))
    with pytest.raises(ValueError, match=r"of version 9\.9\.9 .*build_bundles"):
        package("--bundles_dir", tmp_path / "bundles")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--only", "unet_pmx"], "--only names .*unet_pmx"), (["--bundles_dir", "/nowhere"], "has no bundle")],
)
def test_a_wrong_name_is_refused(script, tmp_path, arguments, said):
    with pytest.raises(ValueError, match=said):
        script.main(["--output_dir", str(tmp_path), *arguments])
