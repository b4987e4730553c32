"""ACN keeps the contract with every anchor, and what is special about it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medmap_components.networks import ACN, AdaptiveMixAnchor, NormalAnchor
from medmap_components.networks.acn import GroupNormBlock
from tests.networks.contract import AnchorContract, NetworkContract


def tiny(**kwargs) -> ACN:
    settings = {"stem_channels": 2, "base_channels": 4, "groups": 2}
    return ACN(**{**settings, **kwargs})


def image(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 4, 16, 16, 16, generator=torch.Generator().manual_seed(0))


class TestPlain(NetworkContract):
    size = (16, 24, 16)

    def build(self):
        return tiny()


class TestAdaptiveMixAnchor(NetworkContract):
    size = (16, 16, 16)

    def build(self):
        return tiny(anchor=AdaptiveMixAnchor())


class TestAnchors(AnchorContract):
    size = (16, 16, 16)

    def build(self, anchor):
        return tiny(anchor=anchor)


def test_published_width_has_the_published_number_of_parameters():
    """Behind the first convolution; counted by hand from the published layers, with 4 classes in place of 3 regions."""
    block = {width: 2 * (27 * width**2 + width) + 2 * 2 * width for width in (16, 32, 64, 128)}
    encoder = block[16] + 2 * block[32] + 2 * block[64] + 4 * block[128]
    down = sum(27 * width * 2 * width + 2 * width for width in (16, 32, 64))
    decoder = sum(2 * width * width + width + block[width] for width in (16, 32, 64))
    head = 16 * 4 + 4
    parts = dict(ACN().named_children())
    behind = [p for name, part in parts.items() if name not in ("stems", "first") for p in part.parameters()]
    assert sum(p.numel() for p in behind) == encoder + down + decoder + head


@torch.no_grad()
def test_a_residual_block_follows_its_formula():
    torch.manual_seed(0)
    block = GroupNormBlock(4, groups=2)
    x = torch.randn(2, 4, 3, 4, 5)
    assert block.conv1.bias is not None

    def normalised(values):
        grouped = values.reshape(2, 2, -1)
        centred = grouped - grouped.mean(-1, keepdim=True)
        return (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).reshape(values.shape)

    expected = x
    for conv in (block.conv1, block.conv2):
        expected = nn.functional.conv3d(normalised(expected).relu(), conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(block(x), x + expected, atol=1e-5, rtol=1e-5)


def test_bottleneck_is_handed_out_before_dropout_and_in_training_only():
    torch.manual_seed(0)
    network = tiny(dropout_rate=0.9)
    dropped = []
    network.dropout.register_forward_hook(lambda module, args, out: dropped.append((args[0], out)))
    features = network(image()).features
    assert list(features) == ["bottleneck"]
    assert features["bottleneck"].shape == (1, network.bottleneck_channels, 2, 2, 2)
    assert features["bottleneck"] is dropped[0][0]
    assert not torch.equal(*dropped[0])
    assert network.eval().body(network.encode(image()).flatten(1, 2)).features == {}


@torch.inference_mode()
def test_dropout_rests_in_eval():
    network = tiny(dropout_rate=0.9).eval()
    assert torch.equal(network(image()), network(image()))


def test_each_upsampling_step_repeats_voxels_and_adds_the_skip():
    step = tiny().up[0]
    nn.init.zeros_(step.block.conv2.weight)
    nn.init.zeros_(step.block.conv2.bias)
    coarse, skip = torch.randn(1, 8, 2, 2, 2), torch.randn(1, 4, 4, 4, 4)
    repeated = step.reduce(coarse)
    for dim in (2, 3, 4):
        repeated = repeated.repeat_interleave(2, dim)
    torch.testing.assert_close(step(coarse, skip), repeated + skip)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"groups": 3}, "groups=3 and base_channels=4"),
        ({"groups": 8}, "groups=8 and base_channels=4"),
        ({"groups": 0}, "groups=0"),
        ({"dropout_rate": 1.0}, "1.0"),
        ({"anchor": NormalAnchor(levels=(1, 2))}, r"\(1, 2\)"),
    ],
)
def test_wrong_settings_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        tiny(**wrong)
