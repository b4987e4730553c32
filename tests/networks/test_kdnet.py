"""KD-Net's network keeps the contract, is the U-Net, and shows its bottleneck."""

from __future__ import annotations

import pytest
import torch

from medmap_components.networks import AdaptiveMixAnchor, KDNet, UNet
from tests.networks.contract import MIXED, AnchorContract, NetworkContract

TINY = {"stem_channels": 2, "filters": (4, 6, 8, 10)}


def image(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 4, 16, 16, 16, generator=torch.Generator().manual_seed(0))


class TestPlain(NetworkContract):
    size = (16, 16, 16)

    def build(self):
        return KDNet(**TINY)


class TestAnchors(AnchorContract):
    size = (16, 16, 16)

    def build(self, anchor):
        return KDNet(**TINY, anchor=anchor)


@pytest.fixture
def pair() -> tuple[KDNet, UNet]:
    torch.manual_seed(0)
    kdnet, unet = (kind(**TINY, anchor=AdaptiveMixAnchor()) for kind in (KDNet, UNet))
    unet.load_state_dict(kdnet.state_dict(), strict=True)
    return kdnet, unet


@torch.no_grad()
def test_it_computes_what_the_u_net_computes(pair):
    kdnet, unet = (network(image(2), MIXED, torch.ones(2, 4, dtype=torch.bool)) for network in pair)
    assert torch.equal(kdnet.logits, unet.logits)
    assert all(torch.equal(kdnet.deep[name], unet.deep[name]) for name in unet.deep)
    assert unet.features == {}


@torch.no_grad()
def test_its_feature_is_that_of_the_coarsest_stage(pair):
    kdnet, _ = pair
    seen = []
    kdnet.downs[-1].register_forward_hook(lambda module, args, features: seen.append(features))
    output = kdnet(image(2), MIXED)
    assert output.features.keys() == {"bottleneck"}
    assert torch.equal(output.features["bottleneck"], seen[0])
    assert output.features["bottleneck"].shape == (2, 10, 2, 2, 2)


@torch.no_grad()
def test_it_teaches_what_it_computes_itself(pair):
    kdnet, _ = pair
    output = kdnet.train()(image(2), MIXED)
    taught = kdnet.eval().teach(image(2), MIXED)
    torch.testing.assert_close(taught.logits, output.logits)
    torch.testing.assert_close(taught.features["bottleneck"], output.features["bottleneck"])
    assert taught.deep == {}
