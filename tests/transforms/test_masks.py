from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, decollate_batch, list_data_collate
from monai.transforms import (
    Compose,
    CropForegroundd,
    Invertd,
    MapTransform,
    NormalizeIntensityd,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotated,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
    SpatialPadd,
)

from medmap_components.data import find_studies
from medmap_components.transforms import (
    EXISTS_KEY,
    MASK_KEY,
    LoadBratsLabeld,
    LoadStudyd,
    RandModalityDropoutd,
    SelectModalitiesd,
    masks_of,
    nonzero,
    with_mask,
)

BOTH = ("image", "label")
FLAIR_T2 = [True, False, False, True]
LOAD = (LoadStudyd("image"), LoadBratsLabeld("label"))


@pytest.fixture
def item(tiny_dataset: Path) -> dict:
    """A study with FLAIR and T2 only."""
    return find_studies(tiny_dataset)[2]


@pytest.mark.parametrize(
    "transform",
    [
        RandSpatialCropd(BOTH, (8, 8, 8), random_size=False),
        RandCropByPosNegLabeld(BOTH, "label", (8, 8, 8), num_samples=3),
        SpatialPadd(BOTH, (32, 32, 32)),
        RandFlipd(BOTH, prob=1.0, spatial_axis=0),
        RandRotated(BOTH, range_x=0.17, range_y=0.17, range_z=0.17, prob=1.0, mode=("bilinear", "nearest")),
        NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        CropForegroundd(BOTH, "image", select_fn=nonzero),
        Orientationd(BOTH, axcodes="RAS", labels=None),
        RandScaleIntensityd("image", 0.1, prob=1.0),
        RandShiftIntensityd("image", 0.1, prob=1.0),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_masks_survive_a_transform_before_and_after_dropout(item: dict, transform: MapTransform):
    only_t2 = SelectModalitiesd("image", ["t2"])
    for steps in ([only_t2, transform], [transform, only_t2]):
        result = Compose([*LOAD, *steps])(item)
        for crop in result if isinstance(result, list) else [result]:
            mask, exists = masks_of(crop["image"])
            assert mask.tolist() == [False, False, False, True]
            assert exists.tolist() == FLAIR_T2
            assert not crop["image"][1:3].any() or isinstance(transform, RandShiftIntensityd)


def test_crops_of_one_study_are_masked_independently(item: dict):
    crops = Compose(
        [*LOAD, RandCropByPosNegLabeld(BOTH, "label", (8, 8, 8), num_samples=24), RandModalityDropoutd("image")]
    ).set_random_state(seed=0)(item)
    assert {tuple(crop["image"].meta[MASK_KEY].tolist()) for crop in crops} == {
        (True, False, False, True),
        (True, False, False, False),
        (False, False, False, True),
    }


@pytest.mark.parametrize("num_workers", [0, 2])
def test_masks_are_stacked_by_the_loader_and_separated_again(tiny_dataset: Path, num_workers: int):
    steps = Compose([*LOAD, SpatialPadd(BOTH, (20, 20, 20))])
    data = Dataset(find_studies(tiny_dataset), steps)
    batch = next(iter(DataLoader(data, batch_size=4, num_workers=num_workers)))
    mask, exists = masks_of(batch["image"])
    expected = [[True] * 4, [True] * 4, FLAIR_T2, [False, True, True, True]]
    assert mask.tolist() == exists.tolist() == expected
    assert [masks_of(one["image"])[1].tolist() for one in decollate_batch(batch)] == expected
    assert [masks_of(image)[1].tolist() for image in batch["image"]] == expected


def test_lists_of_crops_collate(tiny_dataset: Path):
    crop = RandCropByPosNegLabeld(BOTH, "label", (8, 8, 8), num_samples=2)
    steps = Compose([*LOAD, crop, RandModalityDropoutd("image")])
    batch = list_data_collate([steps(study) for study in find_studies(tiny_dataset)[1:3]])
    mask, exists = masks_of(batch["image"])
    assert exists.tolist() == [[True] * 4] * 2 + [FLAIR_T2] * 2
    assert bool((exists | ~mask).all())


def test_a_cache_keeps_the_mask_that_was_read(tiny_dataset: Path):
    steps = Compose([*LOAD, RandModalityDropoutd("image", subset_probabilities=[1.0] + [0.0] * 14)])
    data = CacheDataset(find_studies(tiny_dataset)[:1], steps, num_workers=0, progress=False)
    for _ in range(2):
        assert data[0]["image"].meta[MASK_KEY].tolist() == [False, False, False, True]
    assert data._cache[0]["image"].meta[MASK_KEY].all()


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("affine", ["LPS", "flipped", "permuted"])
def test_inversion_brings_a_prediction_back_to_the_files_grid(tmp_path: Path, make_study, axcodes: str, affine: str):
    affines = {
        "LPS": [[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]],
        "flipped": [[1.0, 0, 0, -5], [0, -1, 0, 10], [0, 0, -1, 3], [0, 0, 0, 1]],
        "permuted": [[0, 0, 1.0, 2], [-1, 0, 0, 30], [0, 1, 0, -7], [0, 0, 0, 1]],
    }
    make_study(tmp_path, "case", affine=torch.tensor(affines[affine]).numpy())
    (study,) = find_studies(tmp_path)
    spatial = [
        Orientationd(BOTH, axcodes=axcodes, labels=None),
        CropForegroundd(BOTH, "image", select_fn=nonzero),
        SelectModalitiesd("image", ["t1"]),
        SpatialPadd(BOTH, (24, 24, 24)),
    ]
    before = Compose([*LOAD, *spatial])
    original = Compose(LOAD)(study)["label"]
    item = before(study)
    assert item["label"].shape == (1, 24, 24, 24)
    item["pred"] = MetaTensor(item["label"].as_tensor().clone(), meta=dict(item["image"].meta))
    assert item["image"].meta[MASK_KEY].tolist() == [False, False, True, False]
    pred = Invertd("pred", before, orig_keys="image", nearest_interp=True)(item)["pred"]
    assert torch.equal(pred.as_tensor(), original.as_tensor())
    assert torch.equal(pred.affine, original.affine)


def test_normalisation_is_over_the_brain_of_each_modality_and_leaves_zeros(item: dict):
    image = Compose([LoadStudyd("image"), NormalizeIntensityd("image", nonzero=True, channel_wise=True)])(item)["image"]
    raw = LoadStudyd("image")(item)["image"]
    for channel in (0, 3):
        values = raw[channel][raw[channel] != 0]
        expected = (values - values.mean()) / values.std(unbiased=False)
        torch.testing.assert_close(image[channel][raw[channel] != 0], expected)
        assert not image[channel][raw[channel] == 0].any()
    assert not image[1:3].any()


def test_foreground_includes_negative_voxels_and_can_be_named_in_a_config():
    reference = {"_target_": "medmap_components.transforms.nonzero", "_mode_": "callable"}
    crop = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "select_fn": reference}
    transform = ConfigParser({"crop": crop}).get_parsed_content("crop")
    image = torch.zeros(4, 6, 6, 6)
    image[2, 1:5, 2, 3] = torch.tensor([-1.0, 0, 0, 2])
    assert transform({"image": image})["image"].shape == (4, 4, 1, 1)


def test_plain_tensors_and_foreign_meta_data_mean_everything():
    for image in (torch.zeros(4, 2, 2, 2), MetaTensor(torch.zeros(4, 2, 2, 2))):
        assert [part.tolist() for part in masks_of(image)] == [[True] * 4] * 2
        assert [part.tolist() for part in masks_of(image[None])] == [[[True] * 4]] * 2


def test_one_sample_with_a_batch_axis_in_front_keeps_its_masks(item: dict):
    image = LoadStudyd("image")(item)["image"]
    assert [part.tolist() for part in masks_of(image[None])] == [[FLAIR_T2]] * 2


def test_a_mask_alone_or_existence_alone_is_understood():
    image = MetaTensor(torch.zeros(4, 2, 2, 2), meta={EXISTS_KEY: [True, False, False, True]})
    assert masks_of(image)[0].tolist() == FLAIR_T2
    assert with_mask(image, torch.tensor([True, False, False, False])).meta[EXISTS_KEY].tolist() == FLAIR_T2


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({MASK_KEY: [True] * 3}, r"modality_mask.*\(4,\), got \(3,\)"),
        ({MASK_KEY: [[True] * 4] * 2}, r"modality_mask.*\(4,\), got \(2, 4\)"),
        ({MASK_KEY: [True] * 4, EXISTS_KEY: FLAIR_T2}, "shows modalities that modality_exists"),
    ],
)
def test_masks_that_do_not_fit_are_refused(meta: dict, message: str):
    with pytest.raises(ValueError, match=message):
        masks_of(MetaTensor(torch.zeros(4, 2, 2, 2), meta=meta))


def test_images_with_other_axes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 2, 2\)"):
        masks_of(torch.zeros(4, 2, 2))
