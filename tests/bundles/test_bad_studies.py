"""What inference says about input that it cannot use, and what it does with the rest."""

from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pytest
import torch

from medmap_components.engines import StudyError

BAD = {
    # name: words that the reason must hold
    "no_modality": ["no readable modality"],
    "shapes": ["flair has the shape (16, 18, 14)", "t1ce (16, 18, 13)"],
    "affines": ["flair has the affine", "t1ce", "register"],
    "nan": ["t2", "NaN"],
    "constant": ["t1", "constant_t1.nii.gz", "all voxels"],
    "truncated": ["truncated_t1.nii.gz"],
    "channels": ["(16, 18, 14, 3)"],
    "empty": ["zero"],
}


@pytest.fixture(scope="module")
def weights(trained):
    return trained / "model.pt"


@pytest.fixture(scope="module")
def mixed_folder(make_study, make_nifti, tiny_arrays, tmp_path_factory):
    """Two good studies, first and last by name, and one of each bad kind between them."""
    root = tmp_path_factory.mktemp("mixed")
    for name in ("a_good", "zz_good"):
        make_study(root / name, name, modalities=("flair", "t1"), label=False)
    for name in ("shapes", "affines", "nan", "constant", "truncated"):
        make_study(root / name, name, label=False)
    arrays = tiny_arrays()
    make_nifti(root / "no_modality" / "something_else.nii.gz", arrays["t1"])
    make_nifti(root / "shapes" / "shapes_t1ce.nii.gz", arrays["t1ce"][:, :, :13])
    make_nifti(root / "affines" / "affines_t1ce.nii.gz", arrays["t1ce"], np.diag([1.0, 1, 2, 1]))
    damaged = arrays["t2"].astype(np.float32)
    damaged[8, 8, 8] = np.nan
    make_nifti(root / "nan" / "nan_t2.nii.gz", damaged)
    make_nifti(root / "constant" / "constant_t1.nii.gz", np.full_like(arrays["t1"], 5))
    half = root / "truncated" / "truncated_t1.nii.gz"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    make_nifti(root / "channels" / "channels.nii.gz", np.stack([arrays["t1"]] * 3, axis=-1))
    make_nifti(root / "empty" / "empty_t1.nii.gz", np.zeros_like(arrays["t1"]))
    return root


def test_bad_studies_are_named_and_the_good_ones_segmented(bundle, mixed_folder, weights, tmp_path):
    with pytest.raises(StudyError) as caught:
        bundle.infer(mixed_folder, tmp_path, weights)
    assert caught.value.failures.keys() == BAD.keys()
    for name, words in BAD.items():
        reason = caught.value.failures[name]
        assert all(word in reason for word in words), f"{name}: {reason}"
        # the message at the end names every study and reason
        assert name in str(caught.value)
        assert reason in str(caught.value)
    assert f"{len(BAD)} of {len(BAD) + 2} studies" in str(caught.value)
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = {row["study"]: row for row in csv.DictReader(file)}
    assert {name: row["reason"] for name, row in rows.items() if row["status"] == "failed"} == caught.value.failures
    assert [row["modalities_used"] for row in rows.values() if row["status"] == "ok"] == ["flair t1", "flair t1"]
    page = (tmp_path / "report.html").read_text()
    assert all(f"<h2>{name}</h2>" in page for name in rows)
    assert sorted(path.name for path in tmp_path.rglob("*.nii.gz")) == ["a_good_seg.nii.gz", "zz_good_seg.nii.gz"]
    assert np.asarray(nib.load(tmp_path / "zz_good" / "zz_good_seg.nii.gz").dataobj).shape == (16, 18, 14)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"dataset_dir": None}, ValueError, ["--dataset_dir"]),
        ({"dataset_dir": "EMPTY"}, ValueError, ["holds no study", "flair"]),
        ({"dataset_dir": "NOWHERE"}, FileNotFoundError, ["NOWHERE", "dataset_dir"]),
        ({"checkpoint": "NOWHERE.pt"}, FileNotFoundError, ["NOWHERE.pt", "--checkpoint", "Train the bundle"]),
        ({"checkpoint": "LAST"}, ValueError, ["last.pt", "model.pt", "state dict"]),
        ({"checkpoint": "FOREIGN"}, ValueError, ["foreign.pt", "another network"]),
        ({"checkpoint": "GARBAGE"}, ValueError, ["garbage.pt", "cannot be read"]),
        ({"crop_size": 50}, ValueError, ["img_size", "50", "divisible by 16"]),
        ({"crop_size": [64, 64, 64]}, ValueError, ["model.pt", "another network", "position"]),
        ({"modalities": []}, ValueError, ["at least one"]),
        ({"modalities": ["flair", "t1c"]}, ValueError, ["t1c", "flair"]),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_work_are_refused(bundle, tiny_dataset, trained, tmp_path, change, error, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing here")
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    (tmp_path / "garbage.pt").write_bytes(b"not weights at all")
    places = {
        "EMPTY": str(tmp_path / "empty"),
        "NOWHERE": str(tmp_path / "NOWHERE"),
        "NOWHERE.pt": str(tmp_path / "NOWHERE.pt"),
        "LAST": str(trained / "last.pt"),
        "FOREIGN": str(tmp_path / "foreign.pt"),
        "GARBAGE": str(tmp_path / "garbage.pt"),
    }
    change = {key: places.get(value, value) if isinstance(value, str) else value for key, value in change.items()}
    given = {"dataset_dir": str(tiny_dataset), "checkpoint": str(trained / "model.pt"), **bundle.tiny_network, **change}
    with pytest.raises(error) as caught:
        bundle.run("inference", output_dir=str(tmp_path / "out"), **given)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_a_training_crop_that_the_network_cannot_take_is_refused(bundle, tiny_dataset, tmp_path):
    with pytest.raises(ValueError, match=r"img_size must be .* divisible by 16 .* got 50"):
        bundle.train(tmp_path, dataset_dir=str(tiny_dataset), crop_size=50, cache_rate=0.0)
