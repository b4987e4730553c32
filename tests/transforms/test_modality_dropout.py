from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
from monai.data import MetaTensor

from medmap_components.modalities import SUBSETS
from medmap_components.transforms import (
    EXISTS_KEY,
    MASK_KEY,
    RandModalityDropout,
    RandModalityDropoutd,
    SelectModalities,
    SelectModalitiesd,
    masks_of,
)


def study(*exists: bool) -> MetaTensor:
    present = torch.tensor(exists or (True,) * 4)
    return MetaTensor(torch.rand(4, 2, 2, 2), meta={EXISTS_KEY: present, MASK_KEY: present.clone()})


def drawn(image: MetaTensor, times: int, **arguments) -> Counter:
    dropout = RandModalityDropout(**arguments).set_random_state(seed=0)
    masks = []
    for _ in range(times):
        dropout.randomize(image.meta[EXISTS_KEY])
        masks.append(tuple(dropout.visible.tolist()))
    return Counter(masks)


def test_all_15_subsets_are_equally_likely():
    counts = drawn(study(), 3000)
    assert set(counts) == {subset.mask for subset in SUBSETS}
    assert all(140 < count < 260 for count in counts.values())  # 200 expected, standard deviation 14


def test_subsets_of_what_exists_are_equally_likely_and_never_empty():
    counts = drawn(study(True, False, True, False), 900)
    assert set(counts) == {(True, False, True, False), (True, False, False, False), (False, False, True, False)}
    assert all(240 < count < 360 for count in counts.values())  # 300 expected, standard deviation 14


def test_only_the_mask_of_the_result_changes():
    image = study(True, True, True, False)
    before = image.as_tensor().clone()
    shown = RandModalityDropout(subset_probabilities=[1] + [0] * 14)
    with pytest.raises(ValueError, match=r"only FLAIR\+T1ce\+T1"):
        shown(image)
    result = SelectModalities(["t1"])(image)
    assert torch.equal(result.as_tensor(), before)
    assert result.meta[MASK_KEY].tolist() == [False, False, True, False]
    assert result.meta[EXISTS_KEY].tolist() == image.meta[MASK_KEY].tolist() == [True, True, True, False]


def test_draws_follow_the_seed_and_can_be_repeated():
    first, second = (RandModalityDropoutd().set_random_state(seed=3) for _ in range(2))
    masks = [[d({"image": study()})["image"].meta[MASK_KEY].tolist() for _ in range(20)] for d in (first, second)]
    assert masks[0] == masks[1]
    assert len({tuple(mask) for mask in masks[0]}) > 5
    array = RandModalityDropout().set_random_state(seed=3)
    mask = array(study()).meta[MASK_KEY].tolist()
    assert all(array(study(), randomize=False).meta[MASK_KEY].tolist() == mask for _ in range(5))


def test_weights_and_probability_decide_how_often():
    weights = [0.0] * 15
    weights[0], weights[14] = 3.0, 1.0
    counts = drawn(study(), 800, subset_probabilities=weights)
    assert set(counts) == {SUBSETS[0].mask, SUBSETS[14].mask}
    assert 540 < counts[SUBSETS[0].mask] < 660
    counts = drawn(study(), 800, prob=0.25, subset_probabilities=[1.0] + [0.0] * 14)
    assert 140 < counts[SUBSETS[0].mask] < 260
    assert counts[SUBSETS[14].mask] == 800 - counts[SUBSETS[0].mask]


def test_modalities_are_shown_independently_of_each_other_where_probabilities_of_their_own_are_given():
    weights = RandModalityDropout(modality_probabilities=[0.5, 0.25, 1.0, 0.0]).weights
    by_name = {subset.name: weight for subset, weight in zip(SUBSETS, weights, strict=True) if weight}
    assert by_name == {"T1": 0.375, "FLAIR+T1": 0.375, "T1ce+T1": 0.125, "FLAIR+T1ce+T1": 0.125}


def test_one_probability_goes_for_all_modalities_and_a_half_makes_all_subsets_equally_likely():
    weights = RandModalityDropout(modality_probabilities=0.75).weights * 256
    assert weights.tolist() == [3 ** sum(subset.mask) for subset in SUBSETS]
    assert set(RandModalityDropout(modality_probabilities=0.5).weights) == {1 / 16}
    assert drawn(study(), 50, modality_probabilities=0.5) == drawn(study(), 50)


def test_settings_that_do_nothing_warn():
    with pytest.warns(UserWarning, match="hides nothing with prob=0"):
        RandModalityDropoutd(prob=0)
    with pytest.warns(UserWarning, match="hides nothing"):
        RandModalityDropout(subset_probabilities=[0] * 14 + [1])
    with pytest.warns(UserWarning, match=r"hides nothing .*modality_probabilities=1\.0"):
        RandModalityDropout(modality_probabilities=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RandModalityDropoutd()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prob": 1.5}, "prob.*1.5"),
        ({"subset_probabilities": [1.0]}, r"15 non-negative.*\[1.0\]"),
        ({"subset_probabilities": [-1.0] + [1.0] * 14}, "15 non-negative"),
        ({"subset_probabilities": [0.0] * 15}, "15 non-negative"),
        ({"modality_probabilities": 1.5}, r"one number between 0 and 1, or one each of \['flair'.*got 1.5"),
        ({"modality_probabilities": [0.5, 0.5, 0.5]}, r"one each of .*got \[0.5, 0.5, 0.5\]"),
        ({"modality_probabilities": [float("nan")] * 4}, "one number between 0 and 1"),
        ({"modality_probabilities": 0}, "not all 0, got 0"),
        ({"modality_probabilities": 0.5, "subset_probabilities": [1.0] * 15}, "not both"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        RandModalityDropout(**arguments)


def test_a_fixed_set_shows_what_exists_of_it():
    image = study(True, False, False, True)
    item = SelectModalitiesd("image", modalities=["FLAIR", "t1"])({"image": image})
    assert masks_of(item["image"])[0].tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match=r"has FLAIR\+T2 .*asked for, T1ce"):
        SelectModalities(["t1ce"])(image)
    with pytest.raises(ValueError, match=r"has FLAIR\+T2 .*asked for, FLAIR\+T1.*strict"):
        SelectModalities(["flair", "t1"], strict=True)(image)
    with pytest.raises(ValueError, match="unknown modalities"):
        SelectModalities(["pd"])
    assert SelectModalitiesd("image", allow_missing_keys=True)({}) == {}


def test_two_selections_intersect():
    image = SelectModalities(["t1", "t2"])(SelectModalities(["t1", "flair"])(study()))
    assert masks_of(image)[0].tolist() == [False, False, True, False]


def test_plain_tensors_have_everything():
    result = SelectModalities(["t2"])(torch.ones(4, 2, 2, 2))
    mask, exists = masks_of(result)
    assert mask.tolist() == [False, False, False, True]
    assert exists.all()
