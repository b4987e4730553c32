"""RFNet keeps the contract with every anchor, and what is special about it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medmap_components.networks import AdaptiveMixAnchor, FixedMixAnchor, NormalAnchor, RFNet
from medmap_components.networks.rfnet_parts import RegionAwareFusion, RegionWeights
from tests.networks.contract import NetworkContract
from tests.networks.multi_encoder_contract import MultiEncoderContract


def tiny(**kwargs) -> RFNet:
    return RFNet(**{"base_channels": 4, **kwargs})


class TestPlain(NetworkContract):
    size = (16, 24, 16)

    def build(self):
        return tiny()


class TestTwoClasses(NetworkContract):
    size = (16, 16, 16)
    num_classes = 2

    def build(self):
        return tiny(num_classes=2)


class TestNormalAnchor(NetworkContract):
    size = (16, 16, 16)

    def build(self):
        return tiny(anchor=NormalAnchor(levels=(1, 4)))


class TestFixedMixAnchor(NetworkContract):
    size = (16, 16, 16)

    def build(self):
        return tiny(anchor=FixedMixAnchor(levels=(1, 4)))


class TestAdaptiveMixAnchor(NetworkContract):
    size = (16, 16, 16)

    def build(self):
        return tiny(anchor=AdaptiveMixAnchor(levels=(1, 2, 3, 4)))


class TestEncoders(MultiEncoderContract):
    size = (16, 16, 16)
    depth = 4
    levels = (1, 2, 4)

    def build(self, anchor=None):
        return tiny(anchor=anchor)

    def for_training_only(self, network):
        return [network.modality_decoder]


def region_fusion_by_definition(fusion: RegionAwareFusion, latents: torch.Tensor, regions: torch.Tensor):
    """Every modality times every region, one at a time; what the fusion does without making these maps."""
    batch, modalities, channels = latents.shape[:3]
    first, last = fusion.weights.hidden, fusion.weights.out
    fused = []
    for r in range(regions.shape[1]):
        share = regions[:, r].mean(dim=(1, 2, 3)) + 1e-7
        means = [
            (latents[:, m, c] * regions[:, r]).mean(dim=(1, 2, 3)) / share
            for m in range(modalities)
            for c in range(channels)
        ]
        known = torch.stack([*means, share], dim=1)
        rows = slice(128 * r, 128 * (r + 1))
        hidden = F.leaky_relu(F.linear(known, first.weight[rows].flatten(1), first.bias[rows]), 0.2)
        rows = slice(modalities * r, modalities * (r + 1))
        weights = torch.sigmoid(F.linear(hidden, last.weight[rows].flatten(1), last.bias[rows]))
        parts = [weights[:, m].view(batch, 1, 1, 1, 1) * latents[:, m] * regions[:, r, None] for m in range(modalities)]
        fused.append(sum(parts))
    return torch.cat((fusion.by_region(torch.stack(fused, 1)), fusion.short_cut(latents)), dim=1)


def fusion_and_inputs():
    torch.manual_seed(0)
    fusion = RegionAwareFusion(4, 6, 3).double()
    latents = torch.randn(2, 4, 6, 4, 5, 3, dtype=torch.float64)
    return fusion, latents, torch.randn(2, 3, 4, 5, 3, dtype=torch.float64).softmax(1)


def test_region_fusion_equals_its_definition_and_so_do_its_gradients():
    fusion, latents, regions = fusion_and_inputs()
    latents.requires_grad_()
    results = [fusion(latents, None, regions), region_fusion_by_definition(fusion, latents, regions)]
    assert results[0].shape == (2, 6, 4, 5, 3)
    torch.testing.assert_close(*results, atol=1e-10, rtol=0)
    push = torch.randn_like(results[0])
    wanted = [latents, fusion.weights.hidden.weight, fusion.weights.out.bias, fusion.by_region.reduce.weight]
    for ours, expected in zip(*(torch.autograd.grad(result, wanted, push) for result in results), strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(ours, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("present", [[1], [0, 3], [1, 2, 3]])
def test_region_fusion_without_absent_modalities_equals_zeros_in_their_place(present):
    fusion, latents, regions = fusion_and_inputs()
    zeroed = torch.zeros_like(latents)
    zeroed[:, present] = latents[:, present]
    expected = region_fusion_by_definition(fusion, zeroed, regions)
    torch.testing.assert_close(fusion(latents[:, present], present, regions), expected, atol=1e-10, rtol=0)


def test_modality_weights_lie_between_0_and_1_and_differ_between_regions():
    torch.manual_seed(0)
    weights = RegionWeights(4, 6, 3)(torch.randn(2, 4, 6, 3, 3, 3), None, torch.rand(2, 3, 3, 3, 3))
    assert weights.shape == (2, 3, 4)
    assert ((weights > 0) & (weights < 1)).all()
    assert weights.std(dim=1).min() > 1e-3


def test_a_region_that_is_nowhere_gives_finite_weights():
    fusion, latents, regions = fusion_and_inputs()
    regions[:, 1] = 0
    assert fusion(latents, None, regions).isfinite().all()


def test_probability_maps_learn_from_their_own_loss_alone():
    torch.manual_seed(0)
    network = tiny()
    image = torch.randn(1, 4, 16, 16, 16)
    network(image).logits.square().mean().backward()
    steering = [name for name, p in network.named_parameters() if name.startswith("fused_decoder.maps.")]
    grads = dict(network.named_parameters())
    assert len(steering) == 24
    assert [name for name in steering if grads[name].grad is not None] == []
    sum(logits.square().mean() for logits in network(image).deep.values()).backward()
    assert all(grads[name].grad.abs().sum() > 0 for name in steering)


@torch.inference_mode()
def test_probability_maps_steer_the_fusion_as_probabilities():
    network = tiny().eval()
    seen = []
    network.fused_decoder.fusion["1"].register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    network(torch.randn(1, 4, 16, 16, 16))
    torch.testing.assert_close(seen[0].sum(1), torch.ones(1, 16, 16, 16))


def test_deep_supervision_is_named_by_scale_finest_first():
    output = tiny()(torch.zeros(1, 4, 16, 16, 16))
    assert list(output.deep) == ["deep_1", "deep_2", "deep_4", "deep_8"]


def test_convolutions_have_a_bias_only_where_no_normalisation_takes_it_away():
    with_bias = {name for name in tiny().state_dict() if name.endswith("bias")}
    heads = {f"fused_decoder.maps.{level}.head.bias" for level in range(1, 5)}
    heads |= {"fused_decoder.head.bias", "modality_decoder.head.bias"}
    weights = {
        f"fused_decoder.fusion.{level}.weights.{part}.bias" for level in range(1, 5) for part in ("hidden", "out")
    }
    assert with_bias == heads | weights


def test_published_size_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in RFNet().parameters()) == pytest.approx(8.98e6, abs=5e3)


@pytest.mark.parametrize(
    ("size", "nearest"), [((8, 16, 16), "[16, 16, 16]"), ((16, 16, 30), "[16, 16, 32]"), ((82, 80, 80), "[80, 80, 80]")]
)
def test_impossible_size_names_one_that_works(size, nearest):
    with pytest.raises(ValueError, match="size") as error:
        tiny().eval()(torch.zeros(1, 4, *size))
    assert str(size) in str(error.value)
    assert nearest in str(error.value)


@pytest.mark.parametrize("base_channels", [0, 2, 6])
def test_width_that_has_no_quarter_is_refused(base_channels):
    with pytest.raises(ValueError, match=f"base_channels.*{base_channels}"):
        RFNet(base_channels=base_channels)
