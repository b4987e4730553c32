"""Studies in any layout, as one folder of links that MONAI Label can list."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def lay_out(load_script, tmp_path):
    def call(dataset_dir, store=tmp_path / "store", **kwargs):
        return load_script("label_server.studies").lay_out_studies(dataset_dir, store, **kwargs)

    return call


@pytest.fixture
def dataset(make_study, make_nifti, tiny_arrays, tmp_path):
    """Studies in a folder of their own, all in one folder, in two namings, and one file with all channels."""
    root = tmp_path / "data"
    make_study(root / "in_folder", "in_folder", modalities=("t1", "t2"))
    make_study(root, "flat", modalities=("flair", "t1ce"), label=False, extension=".nii")
    make_study(root / "BraTS-GLI-00001-000", "BraTS-GLI-00001-000", modalities=("t1ce", "t2"), naming="brats2023")
    channels = np.stack([tiny_arrays()[name] for name in ("flair", "t1ce", "t1", "t2")], axis=-1)
    make_nifti(root / "stacked.nii.gz", channels)
    return root


def links(store):
    return {path.name: path.readlink().name for path in store.iterdir() if path.is_symlink()}


def test_every_study_has_one_link_named_after_it(lay_out, dataset, tmp_path):
    lay_out(dataset)
    assert links(tmp_path / "store") == {
        "in_folder.nii.gz": "in_folder_t1.nii.gz",
        "flat.nii": "flat_flair.nii",
        "BraTS-GLI-00001-000.nii.gz": "BraTS-GLI-00001-000-t1c.nii.gz",
        "stacked.nii.gz": "stacked.nii.gz",
    }


def test_the_modality_to_show_can_be_chosen(lay_out, dataset, tmp_path):
    files = lay_out(dataset, shown=["t2"])
    assert files["in_folder"].name == "in_folder_t2.nii.gz"
    # a study without it shows the next that it has
    assert files["flat"].name == "flat_flair.nii"


def test_links_follow_the_folder(lay_out, dataset, make_study, tmp_path):
    lay_out(dataset)
    (dataset / "stacked.nii.gz").unlink()
    (dataset / "flat_flair.nii").unlink()
    make_study(dataset, "new", modalities=("t2",))
    lay_out(dataset)
    assert links(tmp_path / "store") == {
        "in_folder.nii.gz": "in_folder_t1.nii.gz",
        "flat.nii": "flat_t1ce.nii",
        "BraTS-GLI-00001-000.nii.gz": "BraTS-GLI-00001-000-t1c.nii.gz",
        "new.nii.gz": "new_t2.nii.gz",
    }


def test_labels_are_taken_over_with_values_0_to_3(lay_out, dataset, tmp_path):
    lay_out(dataset, with_labels=True)
    folder = tmp_path / "store" / "labels" / "final"
    assert sorted(path.name for path in folder.iterdir()) == ["BraTS-GLI-00001-000.nii.gz", "in_folder.nii.gz"]
    copy, original = nib.load(folder / "in_folder.nii.gz"), nib.load(dataset / "in_folder" / "in_folder_seg.nii.gz")
    assert copy.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(copy.affine, original.affine)
    # BraTS 2018 calls enhancing tumour 4; nothing else changes
    values = np.asarray(original.dataobj)
    np.testing.assert_array_equal(np.asarray(copy.dataobj), np.where(values == 4, 3, values))
    assert (values == 4).any()


def test_labels_that_are_there_stay(lay_out, dataset, make_nifti, tmp_path):
    edited = make_nifti(tmp_path / "store" / "labels" / "final" / "in_folder.nii.gz", np.ones((2, 2, 2), np.uint8))
    before = edited.read_bytes()
    lay_out(dataset, with_labels=True)
    assert edited.read_bytes() == before


def test_what_is_no_study_is_left_out(lay_out, dataset, make_nifti, caplog):
    make_nifti(dataset / "odd" / "a.nii.gz", np.ones((2, 2, 2), np.uint8))
    make_nifti(dataset / "odd" / "b.nii.gz", np.ones((2, 2, 2), np.uint8))
    assert "odd" not in lay_out(dataset)
    assert "left out odd" in caplog.text


def test_a_store_belongs_to_one_folder(lay_out, dataset, make_study, tmp_path):
    lay_out(dataset)
    other = make_study(tmp_path / "other", "case")
    with pytest.raises(ValueError, match="give another --workspace"):
        lay_out(other)


def test_a_store_among_the_studies_is_refused(lay_out, dataset):
    with pytest.raises(ValueError, match="lies in the folder of studies"):
        lay_out(dataset, dataset / "store")
