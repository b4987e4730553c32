from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medmap_components.transforms import (
    WARNINGS_KEY,
    CleanSegmentationd,
    DescribeSegmentationd,
    RegionProbabilitiesd,
    lesions,
    with_mask,
)

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0], dtype=torch.float64))  # 20 mm^3, 50 voxels a mL


def label_map() -> MetaTensor:
    """Lesions of 125 voxels (25 of them enhancing), 8 and 1, the last two far from the first."""
    labels = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
    labels[0, 2:7, 2:7, 2:7] = 2
    labels[0, 2:7, 2:7, 4] = 3
    labels[0, 15:17, 15:17, 15:17] = 1
    labels[0, 10, 10, 18] = 2
    return MetaTensor(labels, affine=AFFINE)


def cleaned(**settings) -> MetaTensor:
    return CleanSegmentationd("pred", **settings)({"pred": label_map()})["pred"]


def counts(labels: torch.Tensor) -> list[int]:
    return torch.bincount(labels.as_tensor().flatten().int(), minlength=4).tolist()[1:]


def test_lesions_are_numbered_by_size_and_touch_at_corners():
    numbers, sizes = lesions(label_map()[0].numpy())
    assert sizes.tolist() == [125, 8, 1]
    assert [int(numbers[2, 2, 2]), int(numbers[15, 15, 15]), int(numbers[10, 10, 18]), int(numbers[0, 0, 0])] == [
        1,
        2,
        3,
        0,
    ]
    corner = np.zeros((3, 3, 3))
    corner[0, 0, 0] = corner[1, 1, 1] = 1
    assert lesions(corner)[1].tolist() == [2]
    assert lesions(np.zeros((2, 2, 2)))[1].size == 0


def test_nothing_is_cleaned_by_default():
    result = cleaned()
    assert torch.equal(result.as_tensor(), label_map().as_tensor())
    assert result.meta["cleanup"] == ""


@pytest.mark.parametrize(
    ("settings", "left", "note"),
    [
        ({"keep_largest": True}, [0, 100, 25], "removed 2 small lesions, 0.18 mL in all"),
        ({"min_lesion_ml": 0.1}, [8, 100, 25], "removed 1 small lesions, 0.02 mL in all"),
        ({"min_lesion_ml": 0.16}, [8, 100, 25], "removed 1 small lesions, 0.02 mL in all"),
        ({"min_lesion_ml": 3.0}, [0, 0, 0], "removed 3 small lesions, 2.68 mL in all"),
        ({"min_et_ml": 0.51}, [33, 101, 0], "0.50 mL of enhancing tumour became necrotic core"),
        ({"min_et_ml": 0.5}, [8, 101, 25], ""),
    ],
)
def test_cleaning_counts_in_mL(settings, left, note):  # noqa: N802
    result = cleaned(**settings)
    assert counts(result) == left
    assert result.meta["cleanup"] == note
    assert result.dtype == torch.uint8


def test_negative_volumes_are_refused():
    with pytest.raises(ValueError, match=r"got -1 and 0"):
        CleanSegmentationd("pred", min_lesion_ml=-1)


def test_region_probabilities_add_up_the_classes():
    classes = torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1, 1).expand(4, 2, 3, 4)
    regions = RegionProbabilitiesd("pred")({"pred": MetaTensor(classes, affine=AFFINE)})["probabilities"]
    assert regions.shape == (3, 2, 3, 4)
    torch.testing.assert_close(regions[:, 0, 0, 0].as_tensor(), torch.tensor([0.9, 0.6, 0.4]))
    assert torch.equal(regions.affine, AFFINE)
    with pytest.raises(ValueError, match="4 class probabilities"):
        RegionProbabilitiesd("pred")({"pred": classes[:3]})


def test_the_description_counts_regions_and_names_modalities():
    image = with_mask(MetaTensor(torch.ones(4, 2, 2, 2)), torch.tensor([True, False, False, True]))
    image.meta[WARNINGS_KEY] = "One.\nTwo."
    result = DescribeSegmentationd("pred")({"pred": label_map(), "image": image})["result"]
    assert result["modalities_used"] == ["flair", "t2"]
    assert result["modalities_missing"] == ["t1ce", "t1"]
    assert result["volumes_ml"] == pytest.approx({"WT": 134 / 50, "TC": 33 / 50, "ET": 25 / 50})
    assert result["spacing_mm"] == [2.0, 2.0, 5.0]
    assert result["warnings"] == ["One.", "Two."]
