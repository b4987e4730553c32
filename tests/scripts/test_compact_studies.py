"""Tests of scripts/compact_studies.py."""

import nibabel as nib
import numpy as np
import pytest

from medmap_components.data import find_studies
from medmap_components.transforms import EXISTS_KEY, LoadBratsLabeld, LoadStudyd
from tests.conftest import import_script, study_arrays, write_nifti, write_study

SHAPE = (16, 18, 14)


@pytest.fixture(scope="module")
def script():
    return import_script("compact_studies")


def compacted(script, dataset, output, *options):
    assert script.main(["--dataset_dir", str(dataset), "--output_dir", str(output), *options]) == 0
    load = LoadBratsLabeld("label"), LoadStudyd("image")
    return {item["study"]: load[1](load[0](item)) for item in find_studies(output)}


def test_crops_to_the_brain_and_keeps_every_labelled_voxel(script, tmp_path):
    write_study(tmp_path / "in", "case", shape=SHAPE)
    image = compacted(script, tmp_path / "in", tmp_path / "out")["case"]["image"]
    arrays = study_arrays(SHAPE)
    extent = [np.ptp(np.flatnonzero((arrays["t1"] > 0).any(axis=axes))) + 1 for axes in ((1, 2), (0, 2), (0, 1))]
    assert list(image.shape[1:]) == extent
    label = nib.load(tmp_path / "out" / "case" / "case_seg.nii.gz").get_fdata()
    assert [int((label == value).sum()) for value in (1, 2, 4)] == [
        int((arrays["label"] == value).sum()) for value in (1, 2, 4)
    ]


def test_voxels_stay_at_their_place_in_space(script, tmp_path):
    write_study(tmp_path / "in", "case", shape=SHAPE)
    label = compacted(script, tmp_path / "in", tmp_path / "out")["case"]["label"]
    before = nib.load(tmp_path / "in" / "case_seg.nii.gz")
    core = np.argwhere(np.asarray(before.dataobj) == 1)[0]
    index = np.argwhere(label[0].numpy() == 1)[0]
    np.testing.assert_allclose(label.affine.numpy() @ [*index, 1], before.affine @ [*core, 1])


def test_brain_reaches_from_1_to_4095_and_background_is_zero(script, tmp_path):
    write_study(tmp_path / "in", "case", shape=SHAPE)
    image = compacted(script, tmp_path / "in", tmp_path / "out")["case"]["image"].numpy()
    brain = study_arrays(SHAPE)["t1"] > 0
    for channel in image:
        assert (channel > 0).sum() == brain.sum()
        assert channel[channel > 0].min() == 1
        assert channel.max() == 4095


def test_scaling_is_linear_within_the_brain_also_below_zero(script):
    np.testing.assert_array_equal(script.scaled(np.array([0.0, -1.0, 1.0, 3.0])), [0, 1, 2048, 4095])


def test_missing_modalities_stay_missing(script, tmp_path):
    write_study(tmp_path / "in" / "a", "a", modalities=("flair", "t2"))
    write_study(tmp_path / "in" / "b", "b", naming="brats2023")
    studies = compacted(script, tmp_path / "in", tmp_path / "out")
    assert studies["a"]["image"].meta[EXISTS_KEY].tolist() == [True, False, False, True]
    assert studies["b"]["image"].meta[EXISTS_KEY].tolist() == [True] * 4
    assert int((studies["b"]["label"] == 3).sum()) == int((studies["a"]["label"] == 3).sum()) > 0


def test_studies_of_one_name_in_two_folders_are_both_written(script, tmp_path):
    for folder in ("first", "second"):
        write_study(tmp_path / "in" / folder / "case", "case")
    assert len(compacted(script, tmp_path / "in", tmp_path / "out")) == 2


def test_resamples_image_and_label_to_the_wanted_spacing(script, tmp_path):
    write_study(tmp_path / "in", "case", shape=SHAPE)
    study = compacted(script, tmp_path / "in", tmp_path / "out", "--spacing", "2")["case"]
    np.testing.assert_allclose(np.abs(np.diag(study["image"].affine.numpy())[:3]), 2)
    assert study["image"].shape[1:] == study["label"].shape[1:]
    before = nib.load(tmp_path / "in" / "case_seg.nii.gz")
    tumour, small = np.argwhere(before.get_fdata() > 0), np.argwhere(study["label"][0].numpy() > 0)
    assert len(small) == len(tumour) / 8  # a cube of 4 mm, in voxels of 2 mm
    centres = [nib.affines.apply_affine(*pair) for pair in ((before.affine, tumour), (study["label"].affine, small))]
    np.testing.assert_allclose(centres[1].mean(0), centres[0].mean(0), atol=1)


def test_labels_are_not_mixed_to_classes_in_between(script, tmp_path):
    folder = write_study(tmp_path / "in", "case", shape=SHAPE)
    # slices of necrosis (1) and enhancing tumour (4) in turns: every other voxel of 1.5 mm lies between two, where
    # the mean of their classes would be oedema
    label = np.where(study_arrays(SHAPE)["label"] > 0, np.where(np.arange(SHAPE[0]) % 2, 4, 1)[:, None, None], 0)
    write_nifti(folder / "case_seg.nii.gz", label.astype(np.uint8))
    small = compacted(script, tmp_path / "in", tmp_path / "out", "--spacing", "1.5")["case"]["label"].numpy()
    assert 2 not in small
    assert (small > 0).any()


def test_a_folder_that_is_not_empty_is_left_alone(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main(["--dataset_dir", str(tmp_path), "--output_dir", str(write_study(tmp_path / "full"))])
    assert "is not empty" in capsys.readouterr().err


def test_a_folder_without_studies_is_an_error(script, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert script.main(["--dataset_dir", str(tmp_path / "empty"), "--output_dir", str(tmp_path / "out")]) == 1
    assert "holds no study" in capsys.readouterr().err
