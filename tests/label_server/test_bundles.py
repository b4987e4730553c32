"""Placing bundles in the model folder of a MONAI Label app."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile

import pytest
import torch


@pytest.fixture
def place(load_script, tmp_path):
    model_dir = tmp_path / "app" / "model"
    model_dir.mkdir(parents=True)

    def place_there(source, **kwargs):
        return load_script("label_server.bundles").place_bundle(str(source), model_dir, **kwargs)

    return place_there


def weights_of(folder):
    return torch.load(folder / "models" / "model.pt", weights_only=True)["conv.weight"].tolist()


def zipped(folder, name):
    shutil.make_archive(str(folder.parent / name), "zip", folder.parent, folder.name)
    return folder.parent / f"{name}.zip"


def test_a_bundle_is_copied_with_its_weights_and_without_its_output(place, make_bundle):
    bundle = make_bundle()
    (bundle / "output").mkdir()
    (bundle / "output" / "last.pt").write_bytes(b"state of a training")
    placed = place(bundle)
    assert placed.name == "toy_pmix"
    assert weights_of(placed) == [0, 1, 2, 3]
    assert not (placed / "output").exists()


@pytest.mark.parametrize("shipped", [True, False])
def test_weights_that_were_trained_in_the_bundle_win_over_those_that_came_with_it(place, make_bundle, shipped):
    bundle = make_bundle(weights=shipped)
    (bundle / "output").mkdir()
    torch.save({"conv.weight": torch.ones(2)}, bundle / "output" / "model.pt")
    assert weights_of(place(bundle)) == [1, 1]


def test_what_is_said_of_weights_goes_with_them_and_with_no_others(place, make_bundle, tmp_path):
    bundle = make_bundle()
    (bundle / "models" / "model.json").write_text('{"spacing_mm": 3.0}')
    assert json.loads((place(bundle) / "models" / "model.json").read_text()) == {"spacing_mm": 3.0}
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "mine.pt")
    placed = place(bundle, weights=tmp_path / "mine.pt", replace=True)
    assert not (placed / "models" / "model.json").exists()


def test_given_weights_win(place, make_bundle, tmp_path):
    torch.save({"conv.weight": torch.full((1,), 5.0)}, tmp_path / "mine.pt")
    assert weights_of(place(make_bundle(), weights=tmp_path / "mine.pt")) == [5]


def test_a_bundle_without_weights_is_refused(place, make_bundle):
    with pytest.raises(FileNotFoundError, match=r"toy_pmix has no weights.*--weights FILE"):
        place(make_bundle(weights=False))


def test_weights_that_are_no_state_dict_are_refused(place, make_bundle, tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="does not hold a bare state dict"):
        place(make_bundle(), weights=tmp_path / "list.pt")


def test_settings_go_into_the_configs_that_have_them(place, make_bundle):
    placed = place(make_bundle(), settings={"crop_size": 32, "spacing_mm": 3, "network_def#width": 2})
    train, inference = (
        json.loads((placed / "configs" / f"{name}.json").read_text()) for name in ("train", "inference")
    )
    assert train == {"crop_size": 32, "epochs": 7, "network_def": {"width": 2}}
    assert inference == {"crop_size": 32, "spacing_mm": 3, "network_def": {"width": 2}}


def test_a_setting_that_the_bundle_does_not_have_is_refused(place, make_bundle, tmp_path):
    with pytest.raises(ValueError, match=r"toy_pmix has no setting \['spacing'\]"):
        place(make_bundle(), settings={"spacing": 3, "crop_size": 32})
    assert not (tmp_path / "app" / "model" / "toy_pmix").exists()


def test_a_bundle_that_is_there_keeps_its_weights(place, make_bundle):
    bundle = make_bundle()
    placed = place(bundle)
    torch.save({"conv.weight": torch.full((1,), 9.0)}, placed / "models" / "model.pt")
    assert weights_of(place(bundle)) == [9]


@pytest.mark.parametrize("change", [{"settings": {"crop_size": 32}}, {"weights": "weights.pt"}, {"version": "2.0.0"}])
def test_what_would_change_a_bundle_that_is_there_is_refused(place, make_bundle, tmp_path, change):
    bundle = make_bundle()
    place(bundle)
    if "weights" in change:
        change = {"weights": bundle / "models" / "model.pt"}
    if "version" in change:
        bundle, change = make_bundle(version=change["version"]), {}
    with pytest.raises(ValueError, match=r"is there already, in version 1\.2\.3.*--replace"):
        place(bundle, **change)


def test_a_bundle_that_is_replaced_is_kept_outside_of_the_model_folder(place, make_bundle, tmp_path):
    placed = place(make_bundle())
    (placed / "mark").touch()
    place(make_bundle(version="2.0.0"), replace=True)
    assert not (placed / "mark").exists()
    assert [path.parent.name for path in (tmp_path / "app" / "replaced").rglob("mark")] == ["toy_pmix.1"]
    assert [path.name for path in placed.parent.iterdir()] == ["toy_pmix"]


def test_an_unknown_bundle_is_refused_with_the_names_that_there_are(place):
    with pytest.raises(FileNotFoundError, match=r"no bundle 'mmformer_pnix'.*mmformer_pmix"):
        place("mmformer_pnix")


def test_a_zip_is_downloaded_and_its_checksum_verified(place, make_bundle, serve_folder):
    archive = zipped(make_bundle(), "toy_pmix_v1.2.3")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    (archive.parent / "SHA256SUMS").write_text(f"{'0' * 64}  other.zip\n{digest}  {archive.name}\n")
    placed = place(f"{serve_folder(archive.parent)}/{archive.name}")
    assert placed.name == "toy_pmix"
    assert weights_of(placed) == [0, 1, 2, 3]


@pytest.mark.parametrize("listed", ["toy_pmix_v1.2.3.zip", "other.zip"])
def test_a_zip_with_another_checksum_is_refused(place, make_bundle, serve_folder, listed):
    archive = zipped(make_bundle(), "toy_pmix_v1.2.3")
    (archive.parent / "SHA256SUMS").write_text(f"{'0' * 64}  {listed}\n")
    with pytest.raises(ValueError, match="do not use it"):
        place(f"{serve_folder(archive.parent)}/{archive.name}")


def test_that_no_checksum_is_published_is_said(place, make_bundle, serve_folder, caplog):
    archive = zipped(make_bundle(), "toy_pmix_v1.2.3")
    place(f"{serve_folder(archive.parent)}/{archive.name}")
    assert "is not checked" in caplog.text


def test_an_address_without_a_file_is_refused(place, serve_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing_v1.0.0.zip could not be downloaded \(HTTP Error 404"):
        place(f"{serve_folder(tmp_path)}/nothing_v1.0.0.zip")


def test_a_zip_that_is_no_bundle_is_refused(place, tmp_path):
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        archive.writestr("configs/metadata.json", "{}")
        archive.writestr("models/model.pt", "")
    with pytest.raises(ValueError, match=r"expected one folder .* found \['configs', 'models'\]"):
        place(tmp_path / "flat.zip")
