from __future__ import annotations

import math

import pytest
import torch

from medmap_components.losses import CoTrainingLoss, MissingModalityLoss, consistency_loss, information_loss, ramp_up
from medmap_components.networks import ACN, AdaptiveMixAnchor, CoTrainedPair
from tests.networks.contract import MIXED

JUDGED = {"entropy": torch.tensor([[0.5]]), "feature": torch.tensor([[-1.0]])}


@pytest.fixture
def pair() -> CoTrainedPair:
    torch.manual_seed(0)
    paths = [
        ACN(stem_channels=2, base_channels=4, groups=2, dropout_rate=0.0, anchor=AdaptiveMixAnchor()) for _ in range(2)
    ]
    return CoTrainedPair(*paths)


@pytest.fixture
def output(pair):
    image = torch.randn(2, 4, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    return pair(image, MIXED, torch.ones(2, 4, dtype=torch.bool))


@pytest.fixture
def target():
    return torch.randint(0, 4, (2, 1, 16, 16, 16), generator=torch.Generator().manual_seed(2))


def reached(term, module) -> list[str]:
    """The parameters that a term has a gradient for other than zero."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is not None and gradient.any()]


def parts(names) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_consistency_by_hand():
    """p = (1/2, 1/2, 0, 0), q = (1/4, 1/4, 1/4, 1/4): four squares of 1/16."""
    first = torch.tensor([0.0, 0.0, -99.0, -99.0]).reshape(1, 4, 1, 1, 1).expand(2, 4, 1, 2, 3)
    assert float(consistency_loss(first, torch.zeros(2, 4, 1, 2, 3))) == pytest.approx(4 / 16)
    assert float(consistency_loss(first, first)) == 0.0


def test_consistency_pulls_both_segmentations_in_every_class():
    """Published bug 4: the background had no gradient."""
    first, second = (torch.randn(1, 4, 2, 2, 2, requires_grad=True) for _ in range(2))
    consistency_loss(first, second).backward()
    for logits in (first, second):
        assert (logits.grad.abs().amax(dim=(0, 2, 3, 4)) > 1e-4).all()
    step = 0.01
    moved = consistency_loss(first - step * first.grad, second - step * second.grad)
    assert bool(moved < consistency_loss(first, second))


def test_background_has_a_segmentation_gradient(output, target):
    """Published bug 4: Dice ran over the three tumour classes alone."""
    loss = CoTrainingLoss(consistency_weight=0, entropy_weight=0, feature_weight=0)(output, target, JUDGED, 0)["loss"]
    for path in (output.full, output.missing):
        (gradient,) = torch.autograd.grad(loss, path.logits, retain_graph=True)
        assert (gradient.abs().amax(dim=(0, 2, 3, 4)) > 1e-6).all()


@pytest.mark.parametrize(
    ("epoch", "length", "value"),
    [(0, 20, math.exp(-5)), (10, 20, math.exp(-1.25)), (20, 20, 1.0), (300, 20, 1.0), (0, 0, 1.0)],
)
def test_ramp_up_follows_its_formula(epoch, length, value):
    assert ramp_up(epoch, length) == pytest.approx(value)


def test_information_by_hand():
    """Standardised, -3 and 1 are -1 and 1: ((-1 - 1)^2 / 4 + log 4) / 2, and for the other voxel log 4 / 2."""
    target = torch.tensor([-3.0, 1.0]).double().reshape(1, 1, 2, 1, 1)
    value = information_loss(target, torch.ones_like(target), torch.tensor([4.0]).double())
    assert float(value) == pytest.approx((1 + 2 * math.log(4)) / 4, rel=1e-5)


def test_each_channel_has_its_own_variance():
    """Prediction 0 of a standardised target: (1 / v + log v) / 2 with v = 1 and v = 4."""
    target = torch.tensor([-3.0, 1.0]).reshape(1, 1, 2, 1, 1).expand(2, 2, 2, 3, 3)
    value = information_loss(target, torch.zeros_like(target), torch.tensor([1.0, 4.0]))
    assert float(value) == pytest.approx((1 / 2 + (1 / 4 + math.log(4)) / 2) / 2, rel=1e-4)


def test_information_is_smallest_where_mean_and_variance_are_those_of_the_target():
    known, rest = torch.randn(2, 1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0))
    target, mean, variance = 5 + 3 * (0.8 * known + 0.6 * rest), 0.8 * known, torch.tensor([0.36])
    best = information_loss(target, mean, variance)
    for worse in ((mean + 1, variance), (mean - 1, variance), (mean, variance * 2), (mean, variance / 2)):
        assert information_loss(target, *worse) > best + 0.05
    assert float(best) == pytest.approx((1 + math.log(0.36)) / 2, abs=0.01)


def test_scale_of_the_features_is_no_information(output):
    """A residual sum that nothing bounds made the term a hundred times larger than all others."""
    full = output.full.features["bottleneck"]
    value = information_loss(full, output.mean, output.variance)
    assert bool(torch.isclose(information_loss(100 * full + 7, output.mean, output.variance), value, rtol=1e-3))


def test_information_flows_from_the_full_path_to_the_missing_path(pair, output):
    """Published bug 1: the missing path's features were predicted from themselves, the full path took no part."""
    full, missing = output.full.features["bottleneck"], output.missing.features["bottleneck"]
    term = information_loss(full, output.mean, output.variance)
    names = reached(term, pair)
    assert parts(names) == {"missing", "head"}
    assert parts(name.removeprefix("missing.") for name in names if name.startswith("missing")) >= {"stems", "encoder"}
    # downhill, the prediction comes nearer to the full path
    gradient = torch.autograd.grad(term, output.mean, retain_graph=True)[0]
    standard = (full - full.mean((2, 3, 4), keepdim=True)) / full.std((2, 3, 4), correction=0, keepdim=True)
    moved = output.mean - 100 * gradient
    assert (moved - standard).square().mean() < (output.mean - standard).square().mean()
    assert not torch.equal(full, missing)


def test_information_of_the_whole_loss_is_about_the_full_path(output, target):
    """Published bug 1 again, where the loss puts the term together."""
    value = CoTrainingLoss()(output, target, JUDGED, 0)["information"]
    full = output.full.features["bottleneck"]
    standard = (full - full.mean((2, 3, 4), keepdim=True)) / full.std((2, 3, 4), correction=0, keepdim=True)
    by_hand = (((standard - output.mean) ** 2) / 5 + math.log(5)).mean() / 2
    assert float(value) == pytest.approx(float(by_hand.detach()), rel=1e-4)
    other = output._replace(full=output.full._replace(features={"bottleneck": full.flip(2)}))
    assert float(CoTrainingLoss()(other, target, JUDGED, 0)["information"]) != pytest.approx(float(value), rel=1e-3)


def test_loss_is_the_weighted_sum_of_its_terms(output, target):
    terms = CoTrainingLoss(alignment_weight=0.3)(output, target, JUDGED, epoch=10)
    paths = {}
    for path, alone in (("full", output.full), ("missing", output.missing)):
        expected = MissingModalityLoss(alignment_weight=0.3, probability_floor=1e-12)(alone, target)
        paths[path] = float(expected["loss"])
        for name, value in expected.items():
            assert float(terms[f"{path}_{name}"]) == pytest.approx(float(value), rel=1e-5), name
    assert float(terms["adversarial_entropy"]) == pytest.approx(math.log(1 + math.exp(-0.5)))
    assert float(terms["adversarial_feature"]) == pytest.approx(math.log(1 + math.exp(1)))
    weight = 10 * math.exp(-5 * 0.25)
    assert float(terms["consistency_weight"]) == pytest.approx(weight)
    total = 0.2 * paths["full"] + 0.8 * paths["missing"] + weight * float(terms["consistency"])
    total += 0.5 * float(terms["information"]) + 0.001 * float(terms["adversarial_entropy"])
    total += 0.0002 * float(terms["adversarial_feature"])
    assert float(terms["loss"].detach()) == pytest.approx(total, rel=1e-5)
    shared = 0.2 * float(terms["full_alignment"]) + 0.8 * float(terms["missing_alignment"])
    assert float(terms["alignment"].detach()) == pytest.approx(shared, rel=1e-5)


def test_loss_alone_and_the_alignment_carry_a_gradient(output, target):
    terms = CoTrainingLoss()(output, target, JUDGED, 0)
    assert {name for name, term in terms.items() if term.requires_grad} == {"loss", "alignment"}


def test_each_path_learns_from_its_own_share(pair, output, target):
    quiet = {"consistency_weight": 0, "information_weight": 0, "entropy_weight": 0, "feature_weight": 0}
    only_missing = CoTrainingLoss(missing_weight=1.0, **quiet)(output, target, JUDGED, 0)["loss"]
    assert parts(reached(only_missing, pair)) == {"missing"}
    only_full = CoTrainingLoss(missing_weight=0.0, **quiet)(output, target, JUDGED, 0)["loss"]
    assert parts(reached(only_full, pair)) == {"full"}


def test_a_class_that_was_driven_out_of_the_segmentation_can_come_back(output, target):
    """Its probability is 2e-9; below the usual floor of 0.005 only Dice would pull, a million times more weakly."""
    logits = torch.zeros(2, 4, 16, 16, 16)
    logits[:, 3] = -20
    logits.requires_grad_()
    driven_out = output._replace(full=output.full._replace(logits=logits))
    (gradient,) = torch.autograd.grad(CoTrainingLoss(missing_weight=0)(driven_out, target, JUDGED, 0)["loss"], logits)
    pull = gradient[:, 3][target[:, 0] == 3]
    # (1 - p) times the weight of the class, about 3/4, in the mean over the voxels of both samples
    assert (pull * -2 * 16**3).tolist() == pytest.approx([0.75] * len(pull), rel=0.05)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_every_parameter_takes_part_in_the_whole_loss(pair, output, target, weight):
    """DistributedDataParallel waits for parameters that get no gradient, not even a zero one."""
    loss = CoTrainingLoss(alignment_weight=weight, information_weight=weight)(output, target, JUDGED, 0)["loss"]
    loss.backward()
    assert [name for name, p in pair.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"missing_weight": 1.5}, "1.5"),
        ({"missing_weight": -0.1}, "missing_weight.*-0.1"),
        ({"information_weight": math.nan}, "information_weight"),
        ({"alignment_weight": -1}, "alignment_weight"),
        ({"consistency_ramp": -5}, "consistency_ramp.*-5"),
    ],
)
def test_wrong_weights_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        CoTrainingLoss(**wrong)
