from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, SaveImaged

from medmap_components.data import find_studies
from medmap_components.modalities import MODALITIES
from medmap_components.transforms import EXISTS_KEY, MASK_KEY, LoadBratsLabeld, LoadStudy, LoadStudyd
from medmap_components.transforms.read_nifti import read_nifti


@pytest.fixture
def complete(tmp_path: Path, make_study) -> Path:
    return make_study(tmp_path / "case", "case")


def path_of(folder: Path, modality: str) -> Path:
    return folder / f"case_{modality}.nii.gz"


def test_channels_come_in_the_one_order_with_zeros_for_what_is_missing(tmp_path: Path, make_study, tiny_arrays):
    folder = make_study(tmp_path, "case", modalities=("t2", "t1ce"))
    image = LoadStudy()({"t2": path_of(folder, "t2"), "t1ce": str(path_of(folder, "t1ce")), "t1": None})
    arrays = tiny_arrays()
    assert image.dtype == torch.float32
    assert image.shape == (4, 16, 18, 14)
    for index, modality in enumerate(MODALITIES):
        expected = arrays[modality] if modality in ("t1ce", "t2") else np.zeros_like(arrays[modality])
        np.testing.assert_array_equal(image[index].numpy(), expected)
    assert image.meta[EXISTS_KEY].tolist() == image.meta[MASK_KEY].tolist() == [False, True, False, True]


def test_all_ways_of_giving_a_study_are_equal(complete: Path, make_nifti, tiny_arrays):
    arrays = tiny_arrays()
    stacked = np.stack([arrays[modality] for modality in MODALITIES], axis=-1)
    single = make_nifti(complete.parent / "4d" / "case.nii.gz", stacked)
    vector = make_nifti(complete.parent / "5d" / "case.nii.gz", stacked[:, :, :, None])
    paths = {modality: path_of(complete, modality) for modality in MODALITIES}
    expected = LoadStudy()(paths)
    shuffled = [str(paths["t1"]), None, paths["flair"], paths["t2"], paths["t1ce"]]
    for source in (shuffled, complete, str(paths["t2"]), single, str(single.parent), vector):
        image = LoadStudy()(source)
        assert torch.equal(image.as_tensor(), expected.as_tensor())
        assert torch.equal(image.affine, expected.affine)
        assert image.meta[MASK_KEY].all()
        assert Path(image.meta["filename_or_obj"]).name == "case.nii.gz"


def test_four_files_without_telling_names_go_by_position(tmp_path: Path, make_nifti, tiny_arrays):
    arrays = tiny_arrays()
    paths = [make_nifti(tmp_path / f"x_{index}.nii", arrays[m]) for index, m in enumerate(MODALITIES)]
    np.testing.assert_array_equal(LoadStudy()(paths)[3].numpy(), arrays["t2"])
    with pytest.raises(ValueError, match=r"no readable modality in .*x_0\.nii.*order flair"):
        LoadStudy()(paths[:3])


def test_siblings_are_found_among_other_studies_and_for_the_2023_naming(tmp_path: Path, make_study):
    make_study(tmp_path, "case", naming="brats2023", modalities=("t1", "t2"))
    make_study(tmp_path, "other", naming="brats2023")
    image = LoadStudyd("image")({"image": str(tmp_path / "case-t2w.nii.gz")})["image"]
    assert image.meta[EXISTS_KEY].tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match=r"holds files of 2 studies, \['case', 'other'\]"):
        LoadStudy()(tmp_path)
    with pytest.raises(ValueError, match=r"case-seg\.nii\.gz is a segmentation"):
        LoadStudy()(tmp_path / "case-seg.nii.gz")


def test_meta_data_hold_the_grid(complete: Path):
    image = LoadStudy()(complete, study="renamed")
    assert image.affine.dtype == torch.float64
    assert image.affine.tolist() == [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(image.meta["original_affine"], image.affine.numpy())
    assert list(image.meta["spatial_shape"]) == [16, 18, 14]
    assert image.meta["space"] == "RAS"
    assert Path(image.meta["filename_or_obj"]) == complete / "renamed.nii.gz"


@pytest.mark.parametrize("study", ["case", "case.v1"])
def test_predictions_are_saved_under_the_study_name(complete: Path, tmp_path: Path, study: str):
    item = LoadStudyd("image")({"image": complete, "study": study})
    item["pred"] = item["image"][:1]
    SaveImaged("pred", output_dir=tmp_path / "out", output_postfix="seg", separate_folder=True, print_log=False)(item)
    assert (tmp_path / "out" / study / f"{study}_seg.nii.gz").is_file()


def test_an_all_zero_modality_counts_as_missing(complete: Path, make_nifti, tiny_arrays):
    make_nifti(path_of(complete, "t1"), np.zeros_like(tiny_arrays()["t1"]))
    assert LoadStudy()(complete).meta[EXISTS_KEY].tolist() == [True, True, False, True]
    for modality in MODALITIES:
        make_nifti(path_of(complete, modality), np.zeros_like(tiny_arrays()["t1"]))
    with pytest.raises(ValueError, match="'case' has no readable modality: all voxels"):
        LoadStudy()(complete)


def test_modalities_that_are_not_asked_for_are_not_opened(complete: Path):
    path_of(complete, "t1").write_bytes(b"damaged")
    image = LoadStudy(modalities=["flair", "t2"])(complete)
    assert image.meta[EXISTS_KEY].tolist() == [True, False, False, True]
    with pytest.raises(ValueError, match="unknown modalities"):
        LoadStudy(modalities=["pd"])
    path_of(complete, "t2").unlink()
    with pytest.raises(ValueError, match=r"'case'.*found \['flair', 't1', 't1ce'\].*asked for \['t2'\]"):
        LoadStudy(modalities=["t2"])(complete)


def test_one_file_of_all_channels_can_be_restricted(tmp_path: Path, make_nifti, tiny_arrays):
    arrays = tiny_arrays()
    path = make_nifti(tmp_path / "case.nii.gz", np.stack([arrays[modality] for modality in MODALITIES], axis=-1))
    image = LoadStudy(modalities=["t1"])(path)
    assert image.meta[EXISTS_KEY].tolist() == [False, False, True, False]
    assert not image[0].any()


def test_trailing_axes_of_length_one_are_dropped_and_the_int16_maximum_is_fine(complete: Path, make_nifti, tiny_arrays):
    voxels = tiny_arrays()["t2"]
    voxels[8, 8, 8] = 32767
    make_nifti(path_of(complete, "t2"), voxels[..., None])
    assert LoadStudy()(complete)[3].max() == 32767


def test_differing_shapes_and_affines_are_refused(complete: Path, make_nifti, tiny_arrays):
    make_nifti(path_of(complete, "t1"), tiny_arrays()["t1"][:-1])
    with pytest.raises(ValueError, match=r"'case'.*flair.*\(16, 18, 14\).*t1 \(15, 18, 14\).*case_t1\.nii\.gz"):
        LoadStudy()(complete)
    make_nifti(path_of(complete, "t1"), tiny_arrays()["t1"], np.diag([1.0, 1, 1, 1]))
    with pytest.raises(ValueError, match=r"'case'.*flair has the affine \[\[-1.*t1 \[\[1.*case_t1\.nii\.gz"):
        LoadStudy()(complete)
    nearly = np.array([[-1.0, 0, 0, 4e-4], [0, -1.0, 0, 239], [0, 0, 1.0, 0], [0, 0, 0, 1]])
    make_nifti(path_of(complete, "t1"), tiny_arrays()["t1"], nearly)
    assert LoadStudy()(complete).meta[EXISTS_KEY].all()


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (lambda array: np.where(array == array.max(), np.nan, array).astype(np.float32), "t1 has .* NaN"),
        (lambda array: np.where(array == array.max(), -np.inf, array).astype(np.float32), "t1 has .* infinite"),
        (lambda array: np.full_like(array, 7), "all voxels of t1 are 7"),
        (lambda array: np.stack([array, array], -1), r"\(16, 18, 14, 2\)"),
        (lambda array: array[0], r"\(18, 14\)"),
    ],
)
def test_voxels_that_cannot_be_real_are_refused_by_study_and_file(
    complete: Path, make_nifti, tiny_arrays, voxels, message: str
):
    make_nifti(path_of(complete, "t1"), voxels(tiny_arrays()["t1"]))
    with pytest.raises(ValueError, match=message) as error:
        LoadStudy()(complete)
    assert "'case'" in str(error.value)
    assert "case_t1.nii.gz" in str(error.value)


@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5])
def test_truncated_files_are_refused_by_study_and_file(tmp_path: Path, make_study, extension: str, kept: float):
    make_study(tmp_path, "case", extension=extension, shape=(24, 24, 24))
    path = tmp_path / f"case_t1{extension}"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=rf"'case'.*case_t1{extension}.*truncated or damaged"):
        LoadStudy()(tmp_path)


@pytest.mark.parametrize("fill", [b"\x00", b"\xff"])
def test_damaged_compression_is_refused_wherever_the_damage_is(complete: Path, fill: bytes):
    path = path_of(complete, "t1")
    content = path.read_bytes()
    for start in range(0, len(content) - 100, 97):
        path.write_bytes(content[:start] + 100 * fill + content[start + 100 :])
        with pytest.raises(ValueError, match=r"'case'.*case_t1\.nii\.gz.*truncated or damaged"):
            read_nifti(path, "case")


def test_both_versions_and_byte_orders_of_nifti_are_read(tmp_path: Path, tiny_arrays):
    voxels = tiny_arrays()["t1"]
    for image_type in (nib.Nifti1Image, nib.Nifti2Image):
        for order in "<>":
            for extension in (".nii", ".nii.gz"):
                path = tmp_path / f"x{extension}"
                header = image_type.header_class(endianness=order)
                header.set_data_dtype(np.int16)
                nib.save(image_type(voxels, np.diag([2.0, 3, 4, 1]), header), path)
                read, affine = read_nifti(path, "x")
                np.testing.assert_array_equal(read, voxels)
                np.testing.assert_array_equal(affine, np.diag([2.0, 3, 4, 1]))


def test_a_scale_in_the_header_is_applied(tmp_path: Path, tiny_arrays):
    image = nib.Nifti1Image(tiny_arrays()["t1"].astype(np.float32) / 7, np.eye(4))
    image.header.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "x.nii.gz")
    np.testing.assert_allclose(read_nifti(tmp_path / "x.nii.gz", "x")[0], tiny_arrays()["t1"] / 7, atol=1e-2)


def test_wrong_numbers_of_channels_and_unknown_names_are_refused(tmp_path: Path, make_nifti, tiny_arrays):
    voxels = tiny_arrays()["t1"]
    path = make_nifti(tmp_path / "x.nii.gz", np.stack([voxels] * 3, axis=-1))
    with pytest.raises(ValueError, match=r"'x'.*x\.nii\.gz has the shape \(16, 18, 14, 3\)"):
        LoadStudy()(path)
    make_nifti(tmp_path / "y.nii.gz", voxels)
    with pytest.raises(ValueError, match=r"no readable modality.*found \['x\.nii\.gz', 'y\.nii\.gz'\]"):
        LoadStudy()(tmp_path)


@pytest.mark.parametrize("source", ["nowhere", "nowhere_t1.nii.gz", {"t1": "nowhere_t1.nii.gz"}, ["nowhere_t1.nii.gz"]])
def test_missing_paths_are_refused_by_name(source):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*does not exist"):
        LoadStudy()(source)


@pytest.mark.parametrize(("source", "message"), [({}, "names no file"), ({"pd": "x"}, r"\['pd'\]"), ([None], r"\[\]")])
def test_sources_that_name_nothing_are_refused(source, message: str):
    with pytest.raises(ValueError, match=message):
        LoadStudy()(source)


def test_several_files_of_one_modality_are_refused(complete: Path, make_study):
    make_study(complete, "case", modalities=("t1",), extension=".nii")
    for source in (complete, path_of(complete, "t1"), sorted(complete.glob("*t1.*"))):
        with pytest.raises(ValueError, match=r"'case'.*t1.*case_t1\.nii'.*case_t1\.nii\.gz"):
            LoadStudy()(source)


def test_missing_keys_can_be_allowed(complete: Path):
    assert LoadStudyd("image", allow_missing_keys=True)({"other": 1}) == {"other": 1}
    with pytest.raises(KeyError):
        LoadStudyd("image")({"other": 1})


def test_unreadable_studies_found_for_inference_fail_by_name(tmp_path: Path, make_study, make_nifti, tiny_arrays):
    for name in ("one", "two"):
        make_nifti(tmp_path / "odd" / f"{name}.nii.gz", tiny_arrays()["t1"])
    make_study(tmp_path / "bare", "bare", modalities=())
    make_nifti(tmp_path / "single" / "scan.nii.gz", tiny_arrays()["t1"])
    items = find_studies(tmp_path, labels=False)
    assert [item["study"] for item in items] == ["bare", "odd", "single"]
    for item in items:
        with pytest.raises(ValueError, match=f"'{item['study']}'"):
            LoadStudyd("image")(item)


def test_a_real_case_has_four_modalities_and_the_classes(medmap_data: Path):
    item = find_studies(medmap_data)[0]
    item = Compose([LoadStudyd("image"), LoadBratsLabeld("label")])(item)
    assert item["image"].shape == (4, 240, 240, 155)
    assert item["image"].meta[EXISTS_KEY].all()
    assert item["label"].shape == (1, 240, 240, 155)
    assert set(item["label"].unique().tolist()) == {0, 1, 2, 3}
