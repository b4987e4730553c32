"""Tumour regions from classes, and their Dice by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import DiceMetric

from medmap_components.metrics import RegionsFromClasses, RegionsFromClassesd, region_dice, regions_from_classes

LABELS = torch.tensor([0, 1, 2, 3]).reshape(1, 4, 1, 1)
# WT, TC, ET of the classes 0, 1, 2, 3
REGIONS = [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]


def label_map(*classes):
    return torch.tensor(classes).reshape(1, -1, 1, 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_regions_of_each_class(dtype):
    regions = RegionsFromClasses()(LABELS.to(dtype))
    assert regions.shape == (3, 4, 1, 1)
    assert regions.dtype == torch.float32
    assert regions.flatten(1).tolist() == REGIONS


def test_scores_and_their_label_map_have_the_same_regions():
    scores = torch.randn(4, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = scores.argmax(0, keepdim=True)
    assert torch.equal(RegionsFromClasses()(scores), RegionsFromClasses()(labels))
    batch = torch.stack([scores, 2 * scores])
    torch.testing.assert_close(regions_from_classes(batch, channel_dim=1)[1], RegionsFromClasses()(scores))


def test_numpy_stays_numpy_and_meta_data_stay():
    assert isinstance(RegionsFromClasses()(LABELS.numpy()), np.ndarray)
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])).double()
    item = {"pred": MetaTensor(LABELS, affine=affine), "label": LABELS, "study": "case"}
    result = RegionsFromClassesd(["pred", "label"])(item)
    assert torch.equal(result["pred"].affine, affine)
    assert torch.equal(result["pred"].as_tensor(), result["label"])
    assert result["study"] == "case"
    assert item["label"] is LABELS


def test_missing_keys_are_skipped_only_on_request():
    assert RegionsFromClassesd("pred", allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError, match="pred"):
        RegionsFromClassesd("pred")({})


def test_monai_scores_the_regions():
    metric = DiceMetric(reduction="mean_batch")
    prediction = label_map(3, 1, 2, 0)
    metric([RegionsFromClasses()(prediction)], [RegionsFromClasses()(label_map(3, 1, 0, 0))])
    assert metric.aggregate().tolist() == pytest.approx([0.8, 1, 1])


def test_dice_by_hand():
    prediction, target = label_map(1, 2, 3, 3, 0, 0), label_map(1, 1, 3, 0, 2, 0)
    # WT: 4 and 4 voxels, 3 shared; TC: 3 and 3, 2 shared; ET: 2 and 1, 1 shared
    assert region_dice(prediction, target) == pytest.approx({"WT": 6 / 8, "TC": 4 / 6, "ET": 2 / 3})


def test_dice_of_empty_regions():
    oedema, background, core = label_map(2, 0), label_map(0, 0), label_map(3, 0)
    assert region_dice(background, background) == {"WT": 1, "TC": 1, "ET": 1}
    assert region_dice(oedema, oedema) == {"WT": 1, "TC": 1, "ET": 1}
    assert region_dice(background, oedema) == {"WT": 0, "TC": 1, "ET": 1}
    assert region_dice(core, oedema) == {"WT": 1, "TC": 0, "ET": 0}


def test_dice_takes_meta_tensors_and_scores():
    scores = torch.nn.functional.one_hot(LABELS[0], 4).movedim(-1, 0).float()
    assert region_dice(MetaTensor(scores), MetaTensor(LABELS.float())) == {"WT": 1, "TC": 1, "ET": 1}


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"classes must have 1 channel .*got the shape \(3, 4, 1, 1\)"):
        RegionsFromClasses()(LABELS.expand(3, 4, 1, 1))
    with pytest.raises(ValueError, match=r"classes must hold 0 to 3 only, got \[0, 1, 2, 4\]"):
        RegionsFromClasses()(label_map(0, 1, 2, 4))
    with pytest.raises(ValueError, match=r"of one size, got \(1, 4, 1, 1\) and \(1, 2, 1, 1\)"):
        region_dice(LABELS, label_map(0, 1))
