"""Weighted cross-entropy and soft Dice: numbers by hand, and the published formula."""

from __future__ import annotations

import math

import pytest
import torch
from monai.data import MetaTensor

from medmap_components.losses import TargetStatistics, soft_dice_loss, upsampled_softmax, weighted_cross_entropy


def labels(*rows):
    return torch.tensor(rows).reshape(len(rows), 1, -1, 1, 1)


def one_hot(target, num_classes=4):
    return torch.nn.functional.one_hot(target[:, 0].long(), num_classes).movedim(-1, 1).float()


def published_cross_entropy(output, target):
    """RFNet's and mmFormer's weighted cross-entropy (https://github.com/YaoZhang93/mmFormer at b18663a).

    ``target`` is one-hot (B, K, D, H, W); the class weights are per sample.
    """
    total = 0
    for k in range(output.shape[1]):
        weight = 1 - target[:, k].sum(dim=(1, 2, 3)) / target.sum(dim=(1, 2, 3, 4))
        total = total - weight[:, None, None, None] * target[:, k] * torch.log(torch.clamp(output[:, k], 0.005, 1))
    return total.mean()


def published_dice(output, target):
    """RFNet's and mmFormer's Dice loss, summed over the batch (same source)."""
    classes = output.shape[1]
    dice = 0
    for k in range(classes):
        top = 2 * (output[:, k] * target[:, k]).sum()
        dice = dice + top / (output[:, k].sum() + target[:, k].sum() + 1e-7)
    return 1 - dice / classes


def random_case(seed=0, batch=2, size=(4, 3, 5)):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, 4, *size, generator=generator)
    return logits, torch.randint(0, 4, (batch, 1, *size), generator=generator)


def test_cross_entropy_by_hand():
    # two voxels of classes 0 and 1, so both weigh 1 - 1/2
    statistics = TargetStatistics.from_labels(labels([0, 1]), 4)
    probabilities = torch.tensor([[0.5, 0.2], [0.3, 0.25], [0.1, 0.25], [0.1, 0.3]]).reshape(1, 4, 2, 1, 1)
    expected = (0.5 * math.log(2) + 0.5 * math.log(4)) / 2
    assert weighted_cross_entropy(probabilities, statistics).item() == pytest.approx(expected)


def test_class_weights_are_those_of_each_sample():
    # sample 0: four voxels of class 0, weight 0; sample 1: one of class 3 (weight 3/4), three of class 0 (weight 1/4)
    statistics = TargetStatistics.from_labels(labels([0, 0, 0, 0], [0, 3, 0, 0]), 4)
    probabilities = torch.full((2, 4, 4, 1, 1), 0.25)
    expected = math.log(4) * (0.75 + 3 * 0.25) / 8
    assert weighted_cross_entropy(probabilities, statistics).item() == pytest.approx(expected)


def test_probabilities_below_the_floor_count_as_the_floor_and_get_no_gradient():
    statistics = TargetStatistics.from_labels(labels([0, 1]), 4)
    probabilities = torch.tensor([[0.004, 0.1], [0.9, 0.5], [0.05, 0.2], [0.046, 0.2]]).reshape(1, 4, 2, 1, 1)
    probabilities.requires_grad_()
    loss = weighted_cross_entropy(probabilities, statistics)
    assert loss.item() == pytest.approx(-0.25 * (math.log(0.005) + math.log(0.5)))
    loss.backward()
    assert probabilities.grad[0, 0, 0].item() == 0
    assert probabilities.grad[0, 1, 1].item() == pytest.approx(-0.25 / 0.5)


def test_dice_by_hand():
    statistics = TargetStatistics.from_labels(labels([0, 1]), 4)
    probabilities = torch.tensor([[0.5, 0.25], [0.5, 0.75], [0.0, 0.0], [0.0, 0.0]]).reshape(1, 4, 2, 1, 1)
    # class 0: 2 * 0.5 / (0.75 + 1); class 1: 2 * 0.75 / (1.25 + 1); classes 2 and 3 occur nowhere: 0
    expected = 1 - (1 / 1.75 + 1.5 / 2.25) / 4
    assert soft_dice_loss(probabilities, statistics).item() == pytest.approx(expected)


def test_dice_is_summed_over_the_batch():
    # sample 0 is right in its 2 voxels of class 0, sample 1 wrong in its only voxel pair of class 1
    target = labels([0, 0], [1, 1])
    predicted = one_hot(labels([0, 0], [0, 0]))
    # class 0: 2 * 2 / (4 + 2); classes 1 to 3: 0
    loss = soft_dice_loss(predicted, TargetStatistics.from_labels(target, 4))
    assert loss.item() == pytest.approx(1 - (4 / 6) / 4)


def test_perfect_prediction_costs_nothing():
    target = labels([0, 1, 2, 3])
    statistics = TargetStatistics.from_labels(target, 4)
    assert soft_dice_loss(one_hot(target), statistics).item() == pytest.approx(0, abs=1e-6)
    assert weighted_cross_entropy(one_hot(target), statistics).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_published_loss(seed):
    logits, target = random_case(seed)
    probabilities, statistics = logits.softmax(1), TargetStatistics.from_labels(target, 4)
    assert (probabilities < 0.005).any()
    expected = published_cross_entropy(probabilities, one_hot(target)), published_dice(probabilities, one_hot(target))
    torch.testing.assert_close(weighted_cross_entropy(probabilities, statistics), expected[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(soft_dice_loss(probabilities, statistics), expected[1], atol=1e-6, rtol=1e-6)


def test_equal_gradient_to_the_published_loss():
    logits, target = random_case()
    gradients = []
    for published in (True, False):
        leaf = logits.clone().requires_grad_()
        if published:
            loss = published_cross_entropy(leaf.softmax(1), one_hot(target))
            loss = loss + published_dice(leaf.softmax(1), one_hot(target))
        else:
            statistics = TargetStatistics.from_labels(target, 4)
            loss = weighted_cross_entropy(leaf.softmax(1), statistics) + soft_dice_loss(leaf.softmax(1), statistics)
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.float32, torch.float64, "meta"])
def test_any_type_of_label_map_gives_the_same(kind):
    _, target = random_case()
    expected = TargetStatistics.from_labels(target, 4)
    given = TargetStatistics.from_labels(MetaTensor(target.float()) if kind == "meta" else target.to(kind), 4)
    for name in ("classes", "one_hot", "voxel_weights", "class_sizes"):
        assert torch.equal(getattr(given, name), getattr(expected, name))
        assert type(getattr(given, name)) is torch.Tensor


def test_selected_samples_are_those_samples_alone():
    _, target = random_case(batch=3)
    selected = TargetStatistics.from_labels(target, 4).select([0, 2])
    alone = TargetStatistics.from_labels(target[[0, 2]], 4)
    for name in ("classes", "one_hot", "voxel_weights", "class_sizes"):
        assert torch.equal(getattr(selected, name), getattr(alone, name))


@pytest.mark.parametrize("value", [4.0, -1.0, 0.5, math.nan])
def test_a_value_that_is_no_class_is_named(value):
    with pytest.raises(ValueError, match=rf"target must hold the classes 0 to 3 only, got .*{value}"):
        TargetStatistics.from_labels(torch.tensor([0.0, value]).reshape(1, 1, 2, 1, 1), 4)


@pytest.mark.parametrize("shape", [(1, 2, 2, 2, 2), (1, 2, 2, 2)])
def test_a_wrong_shape_is_named(shape):
    with pytest.raises(ValueError, match=r"target must be a label map of the shape .*got \(1, 2, 2, 2"):
        TargetStatistics.from_labels(torch.zeros(shape), 4)


def test_softmax_comes_before_upsampling():
    # one axis of two voxels, logits of two classes far apart: probabilities 1 and 0 become 1, 2/3, 1/3, 0 when
    # upsampled with aligned corners; logits first would give about 1, 1, 0, 0
    logits = torch.tensor([[100.0, -100.0], [-100.0, 100.0]]).reshape(1, 2, 2, 1, 1)
    upsampled = upsampled_softmax(logits, (4, 1, 1))
    torch.testing.assert_close(upsampled[0, 0].flatten(), torch.tensor([1, 2 / 3, 1 / 3, 0]))
    torch.testing.assert_close(upsampled_softmax(logits, (2, 1, 1)), logits.softmax(1))
    assert upsampled_softmax(logits.half(), (4, 1, 1)).dtype == torch.float32
