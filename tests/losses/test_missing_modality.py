"""The whole training loss: its terms, their sum, modalities that do not exist, and what it refuses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from medmap_components.losses import (
    MissingModalityLoss,
    TargetStatistics,
    isotropic_divergence,
    soft_dice_loss,
    weighted_cross_entropy,
)
from medmap_components.modalities import MODALITIES
from medmap_components.networks import AdaptiveMixAnchor, FixedMixAnchor, NormalAnchor, TrainingOutput

COMPLETE = torch.ones(2, 4, dtype=torch.bool)
PARTIAL = torch.tensor([[True, True, True, False], [False, True, True, False]])
SIZE = (8, 4, 4)


def case(exists=COMPLETE, anchor=None, seed=0):
    """A training output at random with its latents, and a target."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(2, *shape, generator=generator).requires_grad_()

    latents = draw(4, 3, *SIZE)
    output = TrainingOutput(
        logits=draw(4, *SIZE),
        deep={f"deep_{k}": draw(4, *(side // k for side in SIZE)) for k in (2, 4)},
        modality={name: draw(4, *SIZE) for name in MODALITIES},
        aligned={"level_1": anchor.align(latents, exists, 1)} if anchor else {},
        mask=exists,
        exists=exists,
    )
    return output, torch.randint(0, 4, (2, 1, *SIZE), generator=generator)


def map_loss(probabilities, target):
    statistics = TargetStatistics.from_labels(target, 4)
    return weighted_cross_entropy(probabilities, statistics) + soft_dice_loss(probabilities, statistics)


def test_every_map_costs_what_was_published():
    output, target = case()
    terms = MissingModalityLoss()(output, target)
    torch.testing.assert_close(terms["fused_ce"] + terms["fused_dice"], map_loss(output.logits.softmax(1), target))
    for name, logits in output.modality.items():
        torch.testing.assert_close(terms[f"modality_{name}"], map_loss(logits.softmax(1), target).detach())
    for name, logits in output.deep.items():
        upsample = torch.nn.Upsample(scale_factor=int(name[5:]), mode="trilinear", align_corners=True)
        torch.testing.assert_close(terms[name], map_loss(upsample(logits.softmax(1)), target).detach())
    total = sum(value for name, value in terms.items() if name != "loss")
    torch.testing.assert_close(terms["loss"], total)


def test_weights_multiply_their_terms():
    output, target = case(anchor=AdaptiveMixAnchor())
    weights = {"fused_weight": 2.0, "modality_weight": 3.0, "deep_weight": 5.0, "alignment_weight": 7.0}
    terms = MissingModalityLoss(**weights)(output, target)
    expected = 2 * (terms["fused_ce"] + terms["fused_dice"]) + 7 * terms["alignment"]
    expected = expected + 3 * sum(terms[f"modality_{name}"] for name in MODALITIES)
    expected = expected + 5 * (terms["deep_2"] + terms["deep_4"])
    torch.testing.assert_close(terms["loss"], expected)


def test_alignment_is_the_mean_over_levels():
    anchor = FixedMixAnchor(levels=(1, 2))
    output, target = case()
    latents = torch.randn(2, 4, 3, 2, 2, 2)
    aligned = {f"level_{level}": anchor.align(level * latents, COMPLETE, level) for level in (1, 2)}
    terms = MissingModalityLoss()(output._replace(aligned=aligned), target)
    first = isotropic_divergence(aligned["level_1"], COMPLETE)
    torch.testing.assert_close(terms["alignment_level_1"], first)
    torch.testing.assert_close(terms["alignment_level_2"], 4 * first)
    torch.testing.assert_close(terms["alignment"], 2.5 * first)
    variance = latents.flatten(3).var(dim=3, correction=0).mean()
    torch.testing.assert_close(terms["feature_variance_level_2"], 4 * variance)


def test_gaussian_divergence_can_be_chosen():
    output, target = case(anchor=FixedMixAnchor())
    scaled = output._replace(
        aligned={"level_1": FixedMixAnchor().align(10 * output.aligned["level_1"].latents, COMPLETE, 1)}
    )
    isotropic, gaussian = MissingModalityLoss(), MissingModalityLoss(alignment_divergence="gaussian")
    torch.testing.assert_close(
        gaussian(scaled, target)["alignment"], gaussian(output, target)["alignment"], atol=1e-6, rtol=1e-3
    )
    torch.testing.assert_close(isotropic(scaled, target)["alignment"], 100 * isotropic(output, target)["alignment"])


# --- modalities that do not exist ---


def test_a_modality_is_scored_over_the_samples_that_have_it():
    output, target = case(PARTIAL)
    terms = MissingModalityLoss()(output, target)
    expected = map_loss(output.modality["flair"][:1].softmax(1), target[:1])
    torch.testing.assert_close(terms["modality_flair"], expected.detach())
    assert "modality_t2" not in terms
    terms["loss"].backward()
    assert not output.modality["flair"].grad[1].any()
    assert output.modality["flair"].grad[0].any()
    assert not output.modality["t2"].grad.any()


@pytest.mark.parametrize(
    ("anchor", "divergence"),
    [
        *itertools.product([None, NormalAnchor(), FixedMixAnchor(), AdaptiveMixAnchor()], ["isotropic", "gaussian"]),
        *itertools.product([None, FixedMixAnchor(), AdaptiveMixAnchor()], ["normalised"]),
    ],
)
def test_what_stands_for_missing_images_changes_nothing(anchor, divergence):
    loss = MissingModalityLoss(alignment_divergence=divergence)
    output, target = case(PARTIAL, anchor)
    expected = loss(output, target)
    modality = {n: z.detach().clone() for n, z in output.modality.items()}
    for index, name in enumerate(MODALITIES):
        modality[name][~PARTIAL[:, index]] = math.nan
    aligned = {}
    if anchor:
        latents = output.aligned["level_1"].latents.detach().clone()
        latents[~PARTIAL] = math.nan
        aligned = {"level_1": anchor.align(latents, PARTIAL, 1)}
    terms = loss(output._replace(modality=modality, aligned=aligned), target)
    assert terms.keys() == expected.keys()
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name])


def test_hiding_a_modality_drops_no_term():
    output, target = case(anchor=AdaptiveMixAnchor())
    expected = MissingModalityLoss()(output, target)
    hidden = MissingModalityLoss()(output._replace(mask=PARTIAL), target)
    assert {name: value.item() for name, value in hidden.items()} == {n: v.item() for n, v in expected.items()}


def test_only_a_modality_that_no_sample_has_is_left_out():
    complete, partial = (list(MissingModalityLoss()(*case(exists, NormalAnchor()))) for exists in (COMPLETE, PARTIAL))
    complete.remove("modality_t2")
    assert partial == complete


def test_every_term_is_a_finite_plain_scalar():
    for value in MissingModalityLoss()(*case(PARTIAL, AdaptiveMixAnchor())).values():
        assert value.shape == ()
        assert value.isfinite()
        assert type(value) is torch.Tensor


# --- gradients and options ---


def test_a_network_without_extra_outputs_is_scored_on_its_fused_map():
    output, target = case()
    terms = MissingModalityLoss()(output._replace(deep={}, modality={}), target)
    assert list(terms) == ["loss", "fused_ce", "fused_dice"]
    torch.testing.assert_close(terms["loss"], terms["fused_ce"] + terms["fused_dice"])


@pytest.mark.parametrize("anchor", [NormalAnchor(), FixedMixAnchor(), AdaptiveMixAnchor()])
def test_weight_zero_leaves_loss_and_gradients_as_without_anchor(anchor):
    gradients, losses = [], []
    for aligned in (False, True):
        output, target = case(anchor=anchor)
        leaves = [output.logits, *output.deep.values(), *output.modality.values()]
        if not aligned:
            output = output._replace(aligned={})
        terms = MissingModalityLoss(alignment_weight=0)(output, target)
        terms["loss"].backward()
        losses.append(terms["loss"])
        gradients.append([leaf.grad for leaf in leaves])
    assert terms["alignment"] > 0
    assert not terms["alignment"].requires_grad
    assert output.aligned["level_1"].latents.grad is None
    assert torch.equal(*losses)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    for parameter in anchor.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_alignment_and_segmentation_gradients_of_theta_can_be_told_apart():
    anchor = AdaptiveMixAnchor()
    output, target = case(anchor=anchor)
    with torch.no_grad():
        anchor.theta.copy_(torch.tensor([[0.5, 0.0, 0.0, 0.0]]))
    latents, mask = output.aligned["level_1"].latents, PARTIAL
    filled = anchor.fill_absent(latents, mask, 1)
    head = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    logits = torch.einsum("kc,bcdhw->bkdhw", head, filled.flatten(1, 2))
    output = output._replace(logits=logits, mask=mask, aligned={"level_1": anchor.align(latents, COMPLETE, 1)})
    terms = MissingModalityLoss(alignment_weight=0.5)(output, target)
    theta = anchor.mixture_logits()
    alignment = torch.autograd.grad(terms["alignment"], theta, retain_graph=True)[0]
    total = torch.autograd.grad(terms["loss"], theta)[0]
    assert alignment.any()
    assert not torch.allclose(total, 0.5 * alignment, atol=1e-4)


def test_half_precision_logits_are_scored_in_float32():
    output, target = case()
    half = output._replace(logits=output.logits.half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = MissingModalityLoss()(half, target)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    torch.testing.assert_close(terms["fused_ce"], MissingModalityLoss()(half, target)["fused_ce"], rtol=0, atol=0)


def test_a_meta_tensor_as_target_gives_the_same():
    output, target = case()
    given = MissingModalityLoss()(output, MetaTensor(target.float()))
    assert torch.equal(given["loss"], MissingModalityLoss()(output, target)["loss"])


def test_descent_fits_a_target():
    target = torch.randint(0, 4, (1, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    logits = torch.zeros(1, 4, 4, 4, 4, requires_grad=True)
    exists = COMPLETE[:1]
    for _ in range(30):
        loss = MissingModalityLoss()(TrainingOutput(logits, {}, {}, {}, exists, exists), target)["loss"]
        with torch.no_grad():
            logits -= 0.5 * torch.autograd.grad(loss, logits)[0].sign()
    assert loss < 0.01
    assert torch.equal(logits.argmax(1), target[:, 0])
    assert F.cross_entropy(logits, target[:, 0]) < 0.01


# --- what it refuses ---


@pytest.mark.parametrize("name", ["alignment_weight", "fused_weight", "modality_weight", "deep_weight"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_bad_weights_are_named(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be a finite number, at least 0, got {value}"):
        MissingModalityLoss(**{name: value})


def test_unknown_divergence_is_named():
    with pytest.raises(ValueError, match=r"divergence must be one of .*got 'l1'"):
        MissingModalityLoss(alignment_divergence="l1")


def test_another_size_of_target_is_named():
    output, target = case()
    with pytest.raises(ValueError, match=r"target must be .*\(2, 1, 8, 4, 4\).*got \(2, 1, 8, 4, 3\)"):
        MissingModalityLoss()(output, target[..., :3])
    with pytest.raises(ValueError, match=r"target must be .*got \(1, 1, 8, 4, 4\)"):
        MissingModalityLoss()(output, target[:1])


def test_brats_labels_with_a_4_are_refused():
    output, target = case()
    with pytest.raises(ValueError, match=r"target must hold the classes 0 to 3 only, got \[0, 1, 2, 4\]"):
        MissingModalityLoss()(output, torch.where(target == 3, 4, target))


def test_the_output_of_evaluation_mode_is_refused():
    output, target = case()
    with pytest.raises(ValueError, match=r"TrainingOutput .*got Tensor; call network.train\(\)"):
        MissingModalityLoss()(output.logits, target)
