from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medmap_components.transforms import (
    BratsLabels,
    BratsLabelsd,
    LabelsToBrats,
    LabelsToBratsd,
    LoadBratsLabel,
    LoadBratsLabeld,
    LoadStudyd,
)


@pytest.mark.parametrize(
    ("scheme", "values", "classes"),
    [("brats2018", [0, 1, 2, 4], [0, 1, 2, 3]), ("brats2023", [0, 1, 2, 3], [0, 1, 2, 3]), ("classes", [3, 0], [3, 0])],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
def test_values_become_classes(scheme: str, values: list[int], classes: list[int], dtype: torch.dtype):
    converted = BratsLabels(scheme)(torch.tensor([values], dtype=dtype))
    assert converted.tolist() == [classes]
    assert converted.dtype == torch.float32


def test_tiny_rounding_errors_of_float_files_are_fine_and_larger_ones_are_not():
    assert BratsLabels("brats2018")(torch.tensor([3.9999, 1.0004])).tolist() == [3, 1]
    with pytest.raises(ValueError, match=r"values \[0.0, 1.5\]"):
        BratsLabels("brats2018")(torch.tensor([0.0, 1.5]))
    with pytest.raises(ValueError, match="nan"):
        BratsLabels("brats2018")(torch.tensor([0.0, torch.nan]))


@pytest.mark.parametrize(("scheme", "values"), [("brats2018", [0, 3]), ("brats2023", [0, 4]), ("classes", [-1, 0])])
def test_values_that_the_scheme_lacks_are_refused_with_the_way_out(scheme: str, values: list[int]):
    with pytest.raises(ValueError, match=rf"x\.nii holds the values \[{values[0]}.*'{scheme}'.*resection cavity"):
        BratsLabels(scheme)(torch.tensor(values), source="x.nii")


def test_unknown_schemes_are_refused():
    for make in (lambda: BratsLabels("brats"), lambda: BratsLabels()(torch.zeros(1), scheme="brats")):
        with pytest.raises(ValueError, match=r"'brats' is unknown.*'brats2018'"):
            make()


def test_an_item_names_its_own_scheme():
    convert = BratsLabelsd("label", default_scheme="brats2023")
    assert convert({"label": torch.tensor([4]), "label_scheme": "brats2018"})["label"].tolist() == [3]
    assert convert({"label": torch.tensor([3])})["label"].tolist() == [3]
    assert BratsLabelsd("label", allow_missing_keys=True)({}) == {}


def test_meta_data_stay_and_the_given_map_is_not_changed():
    label = MetaTensor(torch.tensor([[[[4]]]]), affine=torch.eye(4) * 2, meta={"filename_or_obj": "x"})
    converted = BratsLabels("brats2018")(label)
    assert isinstance(converted, MetaTensor)
    assert converted.meta["filename_or_obj"] == "x"
    assert label.flatten().tolist() == [4]


@pytest.mark.parametrize("naming", ["brats2018", "brats2023"])
def test_a_label_file_is_read_onto_the_images_grid(tmp_path: Path, make_study, tiny_arrays, naming: str):
    make_study(tmp_path, "case", naming=naming)
    suffix = {"brats2018": "_seg", "brats2023": "-seg"}[naming]
    item = {"image": tmp_path, "label": tmp_path / f"case{suffix}.nii.gz", "label_scheme": naming}
    item = LoadBratsLabeld()(LoadStudyd("image")(item))
    np.testing.assert_array_equal(item["label"][0].numpy(), tiny_arrays(enhancing=3)["label"])
    assert item["label"].shape == (1, 16, 18, 14)
    assert torch.equal(item["label"].affine, item["image"].affine)


def test_labels_on_another_grid_are_refused(tmp_path: Path, make_study, make_nifti, tiny_arrays):
    make_study(tmp_path, "case")
    item = LoadStudyd("image")({"image": tmp_path, "label": tmp_path / "case_seg.nii.gz", "label_scheme": "brats2018"})
    voxels = tiny_arrays()["label"]
    make_nifti(item["label"], voxels[1:])
    with pytest.raises(ValueError, match=r"'case'.*case_seg.*\(15, 18, 14\), its image \(16, 18, 14\)"):
        LoadBratsLabeld()(item)
    make_nifti(item["label"], voxels, np.eye(4))
    with pytest.raises(ValueError, match=r"'case'.*case_seg.*affine \[\[1.*its image \[\[-1"):
        LoadBratsLabeld()(item)
    make_nifti(item["label"], np.stack([voxels, voxels], -1))
    with pytest.raises(ValueError, match=r"'case'.*case_seg.*\(16, 18, 14, 2\)"):
        LoadBratsLabeld()(item)


def test_bad_label_files_are_refused_by_study_and_file(tmp_path: Path, make_nifti):
    path = make_nifti(tmp_path / "case_seg.nii.gz", np.full((4, 4, 4), 3, np.uint8))
    with pytest.raises(ValueError, match=r"'case'.*case_seg\.nii\.gz holds the values \[3\]"):
        LoadBratsLabel("brats2018")(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"'case'.*case_seg\.nii\.gz.*truncated"):
        LoadBratsLabel()(path)
    with pytest.raises(FileNotFoundError, match=r"'other'.*other_seg"):
        LoadBratsLabel()(tmp_path / "other_seg.nii.gz")


def test_writing_for_brats_undoes_reading():
    values = torch.tensor([[0, 1, 2, 4]], dtype=torch.uint8)
    written = LabelsToBrats()(BratsLabels("brats2018")(values).to(torch.uint8))
    assert torch.equal(written, values)
    assert written.dtype == torch.uint8
    assert LabelsToBratsd("pred", enhancing=3)({"pred": torch.tensor([3])})["pred"].tolist() == [3]
    assert LabelsToBratsd("pred")({"pred": torch.tensor([3])})["pred"].tolist() == [4]
    with pytest.raises(ValueError, match=r"enhancing.*5"):
        LabelsToBrats(5)
    with pytest.raises(ValueError, match=r"values \[0, 4\].*argmax"):
        LabelsToBrats()(torch.tensor([0, 4]))


def test_a_scheme_can_be_spelled_out():
    label = torch.tensor([0, 1, 2, 7])
    assert BratsLabels("0=0,1=2,2=1,7=3")(label).tolist() == [0, 2, 1, 3]
    for scheme in ("1=2,2=4", "1:2", "", "1=2,,2=1"):
        with pytest.raises(ValueError, match=r"unknown.*value=class"):
            BratsLabels(scheme)
