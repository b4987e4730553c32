"""The preprocessing of the published weights, against numbers derived by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from medmap_components.transforms import (
    EXISTS_KEY,
    MASK_KEY,
    PublishedCropd,
    PublishedNormalize,
    is_published_preprocessing,
)


def image_with_brain(size: tuple[int, int, int], *edges: tuple[int, int]) -> MetaTensor:
    """Zeros but for a block whose first and last plane along each axis are ``edges``."""
    voxels = torch.zeros(4, *size)
    inside = tuple(slice(first, last + 1) for first, last in edges)
    voxels[(slice(None), *inside)] = torch.arange(1.0, 5.0)[:, None, None, None]
    return MetaTensor(voxels, affine=torch.eye(4))


@pytest.mark.parametrize(
    ("first", "last", "size", "window", "box"),
    [
        (20, 160, 240, 80, (20, 160)),  # long enough: the last plane is left out
        (20, 148, 240, 80, (20, 148)),  # exactly 128
        (20, 147, 240, 80, (20, 148)),  # 127: floor(1 / 2) = 0 to the front and 1 more behind
        (60, 160, 240, 80, (46, 175)),  # 100: 14 to the front, 15 behind, 129
        (5, 105, 155, 80, (0, 129)),  # the front would begin at -9: that much is added behind, 120 + 9
        (30, 154, 155, 80, (28, 155)),  # 124: 28 to 157 ends behind the volume; windows of 80 fit into what is left
        (30, 154, 155, 128, (27, 155)),  # windows of 128 do not, so it moves back
        (10, 90, 100, 128, (0, 128)),  # the volume is too short: 28 voxels are padded
        (10, 90, 100, 80, (0, 100)),
    ],
)
def test_the_box_along_one_axis(first, last, size, window, box):
    image = image_with_brain((3, size, 2), (0, 2), (first, last), (0, 1))
    crop = PublishedCropd("image", window=[3, window, 2])
    start, end = crop.cropper.compute_bounding_box(image)
    assert (start[1], end[1]) == box
    result = crop({"image": image})["image"]
    assert result.shape[2] == box[1] - box[0]
    expected = np.zeros(box[1] - box[0])
    expected[: size - box[0]] = image[3, 1, box[0] : box[1], 0]
    np.testing.assert_array_equal(result[3, 1, :, 0], expected)


def test_the_crop_is_inverted_and_labels_follow_the_image():
    image = image_with_brain((150, 131, 20), (3, 149), (2, 129), (4, 15))
    label = MetaTensor((image[:1].as_tensor() > 0).float(), affine=image.affine)
    crop = Compose([PublishedCropd(["image", "label"], window=24)])
    item = crop({"image": image, "label": label})
    # 3 to 149, without plane 149; 127 long: 2 to 130; the whole axis of 20, and 4 of padding
    assert item["image"].shape == (4, 146, 128, 24)
    torch.testing.assert_close(item["label"].as_tensor(), (item["image"][:1] > 0).float().as_tensor())
    item["pred"] = item["image"].clone()
    back = Invertd("pred", transform=crop, orig_keys="image", nearest_interp=False)(item)["pred"]
    expected = image.as_tensor().clone()
    expected[:, 149] = 0
    torch.testing.assert_close(back.as_tensor(), expected)


def test_normalisation_by_hand():
    # five voxels; the brain is where the sum is positive: the first four
    image = MetaTensor(torch.zeros(4, 5, 1, 1))
    image[0, :, 0, 0] = torch.tensor([2.0, 4.0, 4.0, 6.0, 0.0])
    image[1, :, 0, 0] = torch.tensor([0.0, 0.0, 8.0, 8.0, 0.0])
    image[2, :, 0, 0] = torch.tensor([5.0, 5.0, 5.0, 5.0, 0.0])
    image[3, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    result = PublishedNormalize()(image)
    # mean 4, variance (4 + 0 + 0 + 4) / 4 = 2
    assert result[0, :, 0, 0].tolist() == pytest.approx([-(2**0.5), 0, 0, 2**0.5, -4 / 2**0.5])
    # zeros inside the common brain count: mean 4, variance 16
    assert result[1, :, 0, 0].tolist() == pytest.approx([-1, -1, 1, 1, -1])
    # a modality without contrast is not divided by zero
    assert result[2, :, 0, 0].tolist() == [0, 0, 0, 0, -5]
    # mean 1/4, variance 3/16
    assert result[3, :, 0, 0].tolist() == pytest.approx([3**0.5, *[-(3**-0.5)] * 4])


def test_an_absent_modality_stays_zero_and_leaves_the_brain_to_the_others():
    exists = torch.tensor([True, True, False, True])
    generator = torch.Generator().manual_seed(0)
    image = MetaTensor(torch.rand(4, 3, 3, 3, generator=generator), meta={EXISTS_KEY: exists, MASK_KEY: exists})
    image[:, 0] = 0
    image[2] = 0
    result = PublishedNormalize()(image)
    assert not result[2].any()
    assert torch.equal(result.meta[EXISTS_KEY], exists)
    for index in (0, 1, 3):
        brain = result[index, 1:].flatten().as_tensor()
        assert float(brain.mean()) == pytest.approx(0, abs=1e-6)
        assert float(brain.square().mean()) == pytest.approx(1, rel=1e-5)
        assert len(result[index, 0].unique()) == 1
        assert result[index, 0, 0, 0] < 0


def test_empty_images_and_unknown_schemes_are_refused():
    with pytest.raises(ValueError, match="nothing but zeros"):
        PublishedCropd("image")({"image": MetaTensor(torch.zeros(4, 8, 8, 8))})
    with pytest.raises(ValueError, match="nowhere positive"):
        PublishedNormalize()(MetaTensor(torch.full((4, 8, 8, 8), -1.0)))
    with pytest.raises(ValueError, match=r"preprocessing_scheme.*'standard', 'published'.*got 'publish'"):
        is_published_preprocessing("publish")
    assert [is_published_preprocessing(name) for name in ("standard", "published")] == [False, True]
