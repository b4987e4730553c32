"""Anchors: mixtures by hand, masks per sample, no leak of hidden modalities, gradients, and the authors' fragment."""

from __future__ import annotations

import math

import pytest
import torch

from medmap_components.networks import AdaptiveMixAnchor, FixedMixAnchor, NormalAnchor

ALL = torch.ones(1, 4, dtype=torch.bool)
ANCHORS = {
    "normal": NormalAnchor,
    "fixed": lambda **keywords: FixedMixAnchor(anchor_weights=[0.1, 0.2, 0.3, 0.4], **keywords),
    "adaptive": lambda **keywords: with_theta(AdaptiveMixAnchor(**keywords)),
}


def with_theta(anchor, values=(0.0, 1.0, -1.0, 0.5)):
    with torch.no_grad():
        anchor.theta.copy_(torch.tensor(values).expand_as(anchor.theta))
    return anchor


def bools(*rows):
    return torch.tensor([[character == "1" for character in row] for row in rows])


def one_value_each(*rows):
    """Latents (B, 4, 1, 1, 1, 1) from numbers."""
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 4, 1, 1, 1, 1)


def values(latents):
    return latents.flatten(1).tolist()


def random_latents(batch=2, seed=0, channels=3):
    return torch.randn(batch, 4, channels, 2, 3, 2, generator=torch.Generator().manual_seed(seed))


# --- what each anchor is, by hand ---


def test_normal_anchor_is_zero_and_fills_with_zeros():
    anchor = NormalAnchor()
    latents = one_value_each([1, 2, 3, 4])
    level = anchor.align(latents, ALL, 1)
    assert level.weights is None
    assert level.anchor.tolist() == [[[[[0.0]]]]]
    assert values(anchor.fill_absent(latents, bools("0101"), 1)) == [[0, 2, 0, 4]]
    assert not anchor.fills


def test_fixed_anchor_is_t1ce_by_default():
    anchor = FixedMixAnchor()
    latents = one_value_each([1, 2, 3, 4])
    assert anchor.align(latents, ALL, 1).anchor.item() == 2
    assert values(anchor.fill_absent(latents, bools("0110"), 1)) == [[2, 2, 3, 2]]


def test_fixed_weights_are_renormalised_over_the_available():
    anchor = FixedMixAnchor(anchor_weights=[0.1, 0.2, 0.3, 0.4])
    level = anchor.align(one_value_each([10, 20, 30, 40]), bools("0011"), 1)
    torch.testing.assert_close(level.weights, torch.tensor([[0, 0, 3 / 7, 4 / 7]]))
    assert level.anchor.item() == pytest.approx(30 * 3 / 7 + 40 * 4 / 7)


def test_fixed_weights_are_equal_when_their_modality_is_absent():
    anchor = FixedMixAnchor()
    latents = one_value_each([1, 2, 3, 5], [1, 2, 3, 5])
    level = anchor.align(latents, bools("1011", "1001"), 1)
    torch.testing.assert_close(level.weights, torch.tensor([[1 / 3, 0, 1 / 3, 1 / 3], [0.5, 0, 0, 0.5]]))
    torch.testing.assert_close(level.anchor.flatten(), torch.tensor([3.0, 3.0]))


def test_adaptive_weights_start_equal_and_follow_theta():
    anchor = AdaptiveMixAnchor(levels=(1, 3))
    assert anchor.theta.shape == (2, 4)
    assert anchor.weights_by_modality() == {
        name: {"flair": 0.25, "t1ce": 0.25, "t1": 0.25, "t2": 0.25} for name in ("level_1", "level_3")
    }
    with torch.no_grad():
        anchor.theta[1] = torch.tensor([math.log(1), math.log(2), math.log(3), math.log(4)])
    assert anchor.weights_by_modality()["level_1"]["t2"] == 0.25
    assert list(anchor.weights_by_modality()["level_3"].values()) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    torch.testing.assert_close(
        anchor.align(random_latents(1), bools("0101"), 3).weights, torch.tensor([[0, 1, 0, 2]]) / 3
    )


def test_the_anchor_of_one_modality_is_that_modality():
    latents = random_latents(1)
    for make in (FixedMixAnchor, AdaptiveMixAnchor):
        torch.testing.assert_close(make().align(latents, bools("0010"), 1).anchor, latents[:, 2])


def test_huge_theta_on_hidden_modalities_leaves_weights_finite():
    anchor = with_theta(AdaptiveMixAnchor(), (1000.0, 0.0, -1000.0, 0.0))
    weights = anchor.weights(bools("0101", "0010"), 1)
    torch.testing.assert_close(weights, torch.tensor([[0, 0.5, 0, 0.5], [0, 0, 1.0, 0]]))


# --- masks ---


@pytest.mark.parametrize("name", ANCHORS)
def test_batch_with_mixed_masks_equals_samples_alone(name):
    anchor, latents, mask = ANCHORS[name](), random_latents(3), bools("1111", "0110", "1000")
    filled, level = anchor.fill_absent(latents, mask, 1), anchor.align(latents, mask, 1)
    for i in range(3):
        torch.testing.assert_close(filled[i : i + 1], anchor.fill_absent(latents[i : i + 1], mask[i : i + 1], 1))
        torch.testing.assert_close(level.anchor[i : i + 1], anchor.align(latents[i : i + 1], mask[i : i + 1], 1).anchor)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fill", ["anchor", "zeros"])
@pytest.mark.parametrize("name", ANCHORS)
@pytest.mark.parametrize("hidden", [math.nan, math.inf, 1e6])
def test_hidden_modalities_cannot_change_what_is_filled_in(name, fill, training, hidden):
    anchor, latents, mask = ANCHORS[name](fill=fill).train(training), random_latents(), bools("0110", "1011")
    noisy = torch.where(mask[:, :, None, None, None, None], latents, torch.full_like(latents, hidden))
    torch.testing.assert_close(anchor.fill_absent(noisy, mask, 1), anchor.fill_absent(latents, mask, 1), rtol=0, atol=0)


@pytest.mark.parametrize("name", ANCHORS)
def test_gradients_stay_finite_when_a_hidden_modality_is_nan(name):
    anchor, latents, mask = ANCHORS[name](), random_latents(), bools("0110", "1011")
    latents[0, 0] = math.nan
    latents.requires_grad_()
    anchor.fill_absent(latents, mask, 1).square().sum().backward()
    assert latents.grad.isfinite().all()
    assert not latents.grad[0, 0].any()
    for parameter in anchor.parameters():
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ANCHORS)
def test_modalities_that_do_not_exist_cannot_change_the_anchor(name):
    anchor, latents, exists = ANCHORS[name](), random_latents(), bools("0110", "1011")
    noisy = torch.where(exists[:, :, None, None, None, None], latents, torch.full_like(latents, math.nan))
    torch.testing.assert_close(anchor.align(noisy, exists, 1).anchor, anchor.align(latents, exists, 1).anchor)


@pytest.mark.parametrize("name", ANCHORS)
def test_visible_modalities_are_left_alone(name):
    anchor, latents, mask = ANCHORS[name](), random_latents(), bools("0110", "1111")
    filled = anchor.fill_absent(latents, mask, 1)
    assert torch.equal(filled[mask], latents[mask])
    assert torch.equal(anchor.fill_absent(latents, torch.ones_like(mask), 1), latents)


@pytest.mark.parametrize("name", ANCHORS)
def test_zero_fill_is_zero_and_training_equals_inference(name):
    latents, mask = random_latents(), bools("0110", "1111")
    zeros = ANCHORS[name](fill="zeros")
    assert not zeros.fills
    assert not zeros.fill_absent(latents, mask, 1)[~mask].any()
    anchor = ANCHORS[name]()
    assert torch.equal(anchor.train().fill_absent(latents, mask, 1), anchor.eval().fill_absent(latents, mask, 1))


def test_the_type_of_the_latents_is_kept():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        latents = random_latents().to(dtype)
        assert AdaptiveMixAnchor().fill_absent(latents, bools("0110", "1111"), 1).dtype == dtype
        assert FixedMixAnchor().align(latents, bools("0110", "1111"), 1).anchor.dtype == dtype


@pytest.mark.parametrize("name", ANCHORS)
def test_a_trace_serves_every_mask(name):
    class Fill(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.anchor = ANCHORS[name]()

        def forward(self, latents, mask):
            return self.anchor.fill_absent(latents, mask, 1)

    fill, latents = Fill().eval(), random_latents()
    traced = torch.jit.trace(fill, (latents, bools("1111", "1111")))
    for mask in (bools("0110", "1011"), bools("1000", "0001")):
        torch.testing.assert_close(traced(latents, mask), fill(latents, mask))


# --- gradients ---


@pytest.mark.parametrize(("name", "detach"), [("fixed", True), ("adaptive", False)])
def test_default_of_detach_anchor(name, detach):
    assert ANCHORS[name]().detach_anchor is detach
    assert ANCHORS[name]().align(random_latents(1), ALL, 1).detached is detach


@pytest.mark.parametrize("detach", [True, False])
def test_detach_anchor_stops_the_latents_but_never_theta(detach):
    anchor = AdaptiveMixAnchor(detach_anchor=detach)
    latents = one_value_each([1, 2, 3, 4]).requires_grad_()
    anchor.align(latents, ALL, 1).anchor.sum().backward()
    # d a / d theta_m = w_m (z_m - a) with w_m = 1/4 and a = 2.5
    torch.testing.assert_close(anchor.mixture_logits().grad, torch.tensor([[-1.5, -0.5, 0.5, 1.5]]) / 4)
    if detach:
        assert latents.grad is None
    else:
        assert values(latents.grad) == [[0.25] * 4]


@pytest.mark.parametrize("detach", [True, False])
def test_detach_anchor_also_holds_for_what_is_filled_in(detach):
    anchor = AdaptiveMixAnchor(detach_anchor=detach)
    latents = one_value_each([1, 2, 3, 4]).requires_grad_()
    anchor.fill_absent(latents, bools("0011"), 1).sum().backward()
    # two replaced modalities, each half t1 and half t2, besides the visible ones themselves
    assert values(latents.grad) == [[0, 0, 1, 1] if detach else [0, 0, 2, 2]]
    torch.testing.assert_close(anchor.theta.grad, torch.tensor([[0, 0, -0.5, 0.5]]))


def test_only_the_adaptive_anchor_learns():
    assert NormalAnchor().mixture_logits() is None
    assert NormalAnchor().weights_by_modality() == {}
    assert FixedMixAnchor().mixture_logits() is None
    assert not list(FixedMixAnchor().parameters())
    assert list(FixedMixAnchor().state_dict()) == ["anchor_weights"]
    assert list(AdaptiveMixAnchor().state_dict()) == ["theta"]


# --- the authors' fragment ---


def published_fragment(features, theta, mask, training):
    """The published formula, transcribed: https://github.com/T-Y-Liu/MedMAP at 76413fc.

    Features are in the order flair, t1ce, t1, t2; only sample 0 of the mask is read.
    """
    weight = torch.softmax(theta, dim=0)
    seen = [bool(mask[0, i]) for i in range(4)]
    if training:
        mix = sum(weight[i] * features[i] for i in range(4))
        loss = sum(torch.mean((feature - mix) ** 2) for feature in features) / 8
        return [features[i] if seen[i] else mix for i in range(4)], loss
    total = sum(weight[i] for i in range(4) if seen[i])
    mix = sum(weight[i] / total * features[i] for i in range(4) if seen[i])
    return [weight[i] * (features[i] if seen[i] else mix) for i in range(4)], torch.tensor(0.0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [("1111", "1111"), ("0110", "1111"), ("1000", "0111")])
def test_faithful_equals_the_published_fragment(training, rows):
    anchor, latents, mask = ANCHORS["adaptive"](faithful=True).train(training), random_latents(), bools(*rows)
    expected, _ = published_fragment(list(latents.unbind(1)), anchor.theta[0], mask, training)
    torch.testing.assert_close(anchor.fill_absent(latents, mask, 1), torch.stack(expected, 1))


def test_faithful_mixes_all_four_whatever_exists():
    anchor, latents = ANCHORS["adaptive"](faithful=True), random_latents()
    mix = torch.einsum("m,bm...->b...", anchor.theta[0].softmax(0), latents)
    torch.testing.assert_close(anchor.align(latents, bools("0110", "1111"), 1).anchor, mix)


def test_where_we_differ_the_mask_is_read_per_sample():
    latents, mask = one_value_each([1, 2, 3, 4], [1, 2, 3, 4]), bools("1111", "0001")
    assert values(AdaptiveMixAnchor().fill_absent(latents, mask, 1)) == [[1, 2, 3, 4], [4, 4, 4, 4]]
    assert values(AdaptiveMixAnchor(faithful=True).fill_absent(latents, mask, 1)) == [[1, 2, 3, 4], [1, 2, 3, 4]]


def test_where_we_differ_hidden_modalities_stay_out_of_the_mix():
    latents, mask = one_value_each([1, 2, 3, 4]), bools("0011")
    assert values(AdaptiveMixAnchor().fill_absent(latents, mask, 1)) == [[3.5, 3.5, 3, 4]]
    assert values(AdaptiveMixAnchor(faithful=True).fill_absent(latents, mask, 1)) == [[2.5, 2.5, 3, 4]]


def test_where_we_differ_nothing_is_scaled_at_inference():
    latents, mask = one_value_each([1, 2, 3, 4]), bools("0011")
    assert values(AdaptiveMixAnchor().eval().fill_absent(latents, mask, 1)) == [[3.5, 3.5, 3, 4]]
    faithful = AdaptiveMixAnchor(faithful=True).eval()
    assert values(faithful.fill_absent(latents, mask, 1)) == [[0.875, 0.875, 0.75, 1]]


# --- bad arguments ---


@pytest.mark.parametrize("levels", [(), (1, 1), (0,), (1.5,), "1"])
def test_bad_levels_are_named(levels):
    with pytest.raises(ValueError, match="levels must be distinct whole numbers"):
        AdaptiveMixAnchor(levels=levels)


def test_one_level_may_be_given_as_a_number():
    anchor = AdaptiveMixAnchor(levels=2)
    assert anchor.aligns(2)
    assert not anchor.aligns(1)


def test_unknown_fill_is_named():
    with pytest.raises(ValueError, match=r"fill must be one of .*got 'ones'"):
        NormalAnchor(fill="ones")


@pytest.mark.parametrize("weights", [[1, 1, 0, 0], [0.5, 0.5], [1.5, -0.5, 0, 0], [math.nan, 1, 0, 0]])
def test_weights_off_the_simplex_are_named(weights):
    with pytest.raises(ValueError, match=r"anchor_weights must be 4 numbers .*got \["):
        FixedMixAnchor(anchor_weights=weights)


@pytest.mark.parametrize("keywords", [{"fill": "zeros"}, {"detach_anchor": True}])
def test_faithful_refuses_what_it_would_ignore(keywords):
    with pytest.raises(ValueError, match="faithful=True needs"):
        AdaptiveMixAnchor(faithful=True, **keywords)


@pytest.mark.parametrize("name", ANCHORS)
def test_wrong_levels_and_shapes_are_named(name):
    anchor, latents = ANCHORS[name](), random_latents(2)
    with pytest.raises(ValueError, match="level 2 is not aligned"):
        anchor.align(latents, ALL.expand(2, 4), 2)
    with pytest.raises(ValueError, match="level 2 is not aligned"):
        anchor.fill_absent(latents, ALL.expand(2, 4), 2)
    with pytest.raises(ValueError, match=r"mask must be .*got torch.bool of \(1, 4\)"):
        anchor.fill_absent(latents, ALL, 1)
    with pytest.raises(ValueError, match=r"exists must be .*got torch.float32"):
        anchor.align(latents, ALL.expand(2, 4).float(), 1)
    with pytest.raises(ValueError, match=r"latents must have the shape .*got \(2, 3, 3"):
        anchor.align(latents[:, :3], ALL.expand(2, 4), 1)
