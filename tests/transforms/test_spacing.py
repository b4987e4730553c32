from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd, SpatialCrop

from medmap_components.transforms import SpacingIfNeeded, SpacingIfNeededd, nonzero, undo_spacing, was_resampled


def image(spacing, shape=(12, 10, 8)) -> MetaTensor:
    affine = torch.diag(torch.tensor([-spacing[0], -spacing[1], spacing[2], 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([5.0, 7.0, -3.0])
    voxels = torch.zeros(2, *shape)
    voxels[:, 2:-2, 2:-2, 2:-2] = 7
    return MetaTensor(voxels, affine=affine)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.04, 0.97, 1.0)])
def test_what_has_the_voxel_size_already_stays_the_same_object(spacing):
    study = image(spacing)
    transform = SpacingIfNeeded()
    assert transform(study) is study
    assert transform.inverse(study) is study
    assert SpacingIfNeeded(None)(image((3.0, 2.0, 1.0))).shape == (2, 12, 10, 8)


def test_the_grid_becomes_the_wanted_one_and_keeps_its_corner():
    result = SpacingIfNeeded(1.0)(image((2.0, 0.5, 1.0)))
    # 12 voxels of 2 mm: centres 22 mm apart, 23 voxels; 10 of 0.5 mm: 4.5 mm, rounded to 6 voxels
    assert result.shape[1] == 23
    assert result.shape[3] == 8
    torch.testing.assert_close(result.affine.diagonal()[:3], torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))


def test_a_brain_of_one_value_keeps_it_up_to_its_rim():
    # linear interpolation alone gives a seam of values between 0 and 7
    result = SpacingIfNeeded(1.0)(image((1.7, 0.6, 2.3)))
    assert set(result.as_tensor().unique().tolist()) <= {0.0, 7.0} or torch.allclose(
        result[result != 0].as_tensor(), torch.tensor(7.0), atol=1e-4
    )
    volume = float((result[0] != 0).sum())
    assert volume == pytest.approx(8 * 6 * 4 * 1.7 * 0.6 * 2.3, rel=0.2)


def test_a_plane_of_rising_values_is_interpolated_linearly():
    study = image((2.0, 1.0, 1.0))
    study[:] = (torch.arange(12.0) + 1)[:, None, None]
    result = SpacingIfNeeded(1.0)(study)
    torch.testing.assert_close(result[0, :, 5, 4].as_tensor(), torch.arange(23) / 2 + 1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.0, 1.3), (2.0, 0.5, 3.1)])
def test_the_inverse_gives_the_grid_back_exactly(spacing):
    steps = Compose(
        [
            Orientationd("image", axcodes="RSA", labels=None),
            SpacingIfNeededd("image"),
            CropForegroundd("image", source_key="image", select_fn=nonzero, allow_smaller=True),
        ]
    )
    study = image(spacing)
    item = steps({"image": study.clone()})
    item["pred"] = item["image"].clone()
    back = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert back.shape == study.shape
    assert torch.equal(back.affine, study.affine)
    middle = (slice(None), slice(4, -4), slice(4, -4), slice(3, -3))
    torch.testing.assert_close(back[middle].as_tensor(), study[middle].as_tensor())


def test_a_prediction_goes_back_to_the_grid_of_a_label_that_was_cropped_by_itself():
    study = image((2.0, 0.5, 3.1))
    transform = SpacingIfNeededd("image")
    resampled = CropForegroundd("image", source_key="image", select_fn=nonzero)(transform({"image": study.clone()}))
    predicted = resampled["image"].as_tensor()  # without what is known of its grid
    label = SpatialCrop(roi_start=(3, 1, 2), roi_end=(12, 9, 8))(study[:1])
    back = undo_spacing(predicted, resampled["image"], label)
    assert back.shape == (2, 9, 8, 6)
    whole = transform.inverse(transform({"image": study.clone()}))["image"]
    torch.testing.assert_close(back, whole[:, 3:, 1:-1, 2:].as_tensor())


def test_an_image_that_was_resampled_is_told_whatever_its_shape():
    # 4 voxels of 1.2 mm: centres 3.6 mm apart, which is 4 or 5 voxels of 1 mm; cropped to 4, the shape tells nothing
    study = image((1.2, 1.2, 1.2), (4, 4, 4))
    crop = SpatialCrop(roi_start=(0, 0, 0), roi_end=(4, 4, 4))
    assert crop(SpacingIfNeeded()(study)).shape == study.shape
    assert was_resampled(crop(SpacingIfNeeded()(study)))
    assert not was_resampled(crop(study))


def test_a_prediction_on_an_image_that_was_not_resampled_stays_the_same_object():
    study = image((1.0, 1.0, 1.0))
    predicted = torch.zeros(4, 12, 10, 8)
    assert undo_spacing(predicted, SpacingIfNeeded()(study), study[:1]) is predicted


def test_a_prediction_without_a_grid_to_go_to_is_refused():
    resampled = SpacingIfNeeded()(image((2.0, 2.0, 2.0)))
    with pytest.raises(ValueError, match="not on the grid of image"):
        undo_spacing(torch.zeros(4, 12, 10, 8), resampled, resampled[:1])
    with pytest.raises(ValueError, match="reference has no affine"):
        undo_spacing(resampled.as_tensor(), resampled, torch.zeros(1, 12, 10, 8))


@pytest.mark.parametrize("bad", [{"spacing": 0.0}, {"spacing": -1.0}, {"tolerance": 0.0}])
def test_sizes_that_are_not_positive_are_refused(bad):
    with pytest.raises(ValueError, match="must be positive, got"):
        SpacingIfNeeded(**bad)
