"""The U-Net keeps the contract with every anchor, and is MONAI's DynUNet behind stems."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DynUNet
from torch.nn import functional as F

from medmap_components.networks import AdaptiveMixAnchor, FixedMixAnchor, NormalAnchor, UNet
from tests.networks.contract import AnchorContract, NetworkContract


def tiny(**kwargs) -> UNet:
    return UNet(**{"stem_channels": 2, "filters": (4, 6, 8, 8), **kwargs})


def image(batch: int = 1, size: int = 16) -> torch.Tensor:
    return torch.randn(batch, 4, size, size, size, generator=torch.Generator().manual_seed(0))


class TestPlain(NetworkContract):
    size = (16, 16, 16)

    def build(self):
        return tiny()


class TestThreeStagesInABox(NetworkContract):
    size = (16, 24, 8)

    def build(self):
        return tiny(filters=(4, 6, 8), deep_maps=1, num_classes=3)

    num_classes = 3


class TestNormalAnchor(NetworkContract):
    size = (16, 16, 16)

    def build(self):
        return tiny(anchor=NormalAnchor())


class TestFixedMixAnchor(NetworkContract):
    size = (16, 16, 16)

    def build(self):
        return tiny(anchor=FixedMixAnchor())


class TestAdaptiveMixAnchor(NetworkContract):
    size = (16, 16, 16)

    def build(self):
        return tiny(anchor=AdaptiveMixAnchor())


class TestAnchors(AnchorContract):
    size = (16, 16, 16)

    def build(self, anchor):
        return tiny(anchor=anchor)


def dyn_unet_like(network: UNet, filters: tuple[int, ...], deep_maps: int) -> DynUNet:
    """MONAI's network with the weights of ours."""
    stages = len(filters)
    reference = DynUNet(
        spatial_dims=3,
        in_channels=8,
        out_channels=4,
        kernel_size=[3] * stages,
        strides=[1] + [2] * (stages - 1),
        upsample_kernel_size=[2] * (stages - 1),
        filters=filters,
        deep_supervision=True,
        deep_supr_num=deep_maps,
        trans_bias=True,
    )
    ours = network.state_dict()
    last = stages - 1
    renamed = {"downs.0.": "input_block.", f"downs.{last}.": "bottleneck.", "ups.": "upsamples."}
    renamed |= {f"downs.{stage}.": f"downsamples.{stage - 1}." for stage in range(1, last)}
    renamed |= {"output.": "output_block.conv.conv."}
    renamed |= {
        f"deep_outputs.deep_{2 ** (n + 1)}.": f"deep_supervision_heads.{n}.conv.conv." for n in range(deep_maps)
    }
    state = {
        theirs + key.removeprefix(start): value
        for start, theirs in renamed.items()
        for key, value in ours.items()
        if key.startswith(start)
    }
    missing, unknown = reference.load_state_dict(state, strict=False)
    assert unknown == []
    assert all(key.startswith("skip_layers.") for key in missing)  # the same weights, listed twice
    return reference


def test_body_computes_what_dyn_unet_computes():
    torch.manual_seed(0)
    filters = (4, 6, 8, 8, 10)
    network = tiny(filters=filters).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    reference = dyn_unet_like(network, filters, deep_maps=2).double()
    with torch.no_grad():
        latents = network.stems(image(2, size=32).double()).flatten(1, 2)
        output = network.train()(image(2, size=32).double())
        maps = [output.logits, *(F.interpolate(deep, output.logits.shape[2:]) for deep in output.deep.values())]
        torch.testing.assert_close(torch.stack(maps, dim=1), reference.train()(latents))
        torch.testing.assert_close(network.eval()(image(2, size=32).double()), reference.eval()(latents))


def test_default_body_has_the_published_size_and_maps_at_all_scales_but_the_coarsest():
    """nnU-Net's plan for BraTS has 31 197 204 parameters with one input channel, a bias of each convolution included.

    4 640 of these are biases of 3x3x3 convolutions that DynUNet leaves out because a norm follows, but for the 800 of
    the transposed convolutions; 3 088 are deep-supervision outputs at all four coarser scales.
    """
    network = UNet()
    stems = 4 * 8 * 27
    wider_input = 27 * (4 * 8 - 1) * 32
    deep = sum(4 * width + 4 for width in (64, 128, 256))
    assert sum(p.numel() for p in network.parameters()) == 31_197_204 - 4_640 + 800 - 3_088 + stems + wider_input + deep
    assert list(network.deep_outputs) == ["deep_2", "deep_4", "deep_8"]


def test_deep_maps_come_finest_first():
    with torch.no_grad():
        output = tiny(deep_maps=2)(image())
    assert {name: deep.shape[-1] for name, deep in output.deep.items()} == {"deep_2": 8, "deep_4": 4}
    assert list(output.deep) == ["deep_2", "deep_4"]


@torch.inference_mode()
def test_parts_for_training_rest_in_eval():
    network = tiny(deep_maps=2).eval()

    def refuse(*_):
        raise AssertionError

    for head in network.deep_outputs.values():
        head.register_forward_hook(refuse)
    network(image())


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"filters": (8, 16)}, r"filters.*\(8, 16\)"),
        ({"filters": (8, 0, 16)}, r"filters.*\(8, 0, 16\)"),
        ({"deep_maps": 3}, "deep_maps.*0 and 2.*3"),
        ({"deep_maps": -1}, "deep_maps.*-1"),
        ({"anchor": NormalAnchor(levels=(1, 2))}, r"\(1, 2\).*levels=\[1\]"),
    ],
)
def test_wrong_settings_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        tiny(**wrong)


def test_size_that_cannot_be_halved_often_enough_names_one_that_works():
    with pytest.raises(ValueError, match=r"\(8, 8, 8\).*multiple of 8.*\[16, 16, 16\]"):
        tiny().eval()(image(size=8))
