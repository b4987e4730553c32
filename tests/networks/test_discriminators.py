from __future__ import annotations

import pytest
import torch
from torch import nn

from medmap_components.networks import EntropyDiscriminator, FeatureDiscriminator
from medmap_components.networks.discriminators import self_information


def test_self_information_is_that_of_the_softmax_over_the_classes():
    """Published bug 4: softmax of sigmoids. A sure voxel would then look unsure: 0.27 and three times 0.24."""
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [60.0, 0.0, 0.0, 0.0], [1.0, 1.0, -60.0, -60.0]])
    expected = torch.tensor([[0.25] * 4, [0.0] * 4, [0.25, 0.25, 0.0, 0.0]])
    maps = self_information(logits.reshape(3, 4, 1, 1, 1).expand(3, 4, 2, 3, 4))
    torch.testing.assert_close(maps, expected.reshape(3, 4, 1, 1, 1).expand_as(maps), atol=1e-6, rtol=0)


def test_self_information_of_unequal_classes_by_hand():
    """p = 1/2, 1/4, 1/8, 1/8: -p log4(p) = 1/4, 1/4, 3/16, 3/16."""
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log().reshape(1, 4, 1, 1, 1)
    assert self_information(logits).flatten().tolist() == pytest.approx([0.25, 0.25, 0.1875, 0.1875])


def test_self_information_of_sure_voxels_has_a_finite_gradient():
    logits = torch.tensor([200.0, 0.0, -200.0, 0.0]).reshape(1, 4, 1, 1, 1).requires_grad_()
    self_information(logits).sum().backward()
    assert logits.grad.isfinite().all()


def test_entropy_discriminator_has_the_published_layers():
    network = EntropyDiscriminator()
    convolutions = [part for part in network.layers if isinstance(part, nn.Conv3d)]
    assert [part.out_channels for part in convolutions] == [64, 128, 256, 512, 1]
    assert {(part.kernel_size[0], part.stride[0], part.padding[0]) for part in convolutions} == {(4, 2, 1)}
    assert [part.negative_slope for part in network.layers if isinstance(part, nn.LeakyReLU)] == [0.2] * 4
    assert isinstance(network.layers[-1], nn.Conv3d)


def test_feature_discriminator_has_the_published_layers():
    network = FeatureDiscriminator(128)
    convolutions = [part for part in network.layers if isinstance(part, nn.Conv3d)]
    assert [(part.in_channels, part.out_channels) for part in convolutions] == [(128, 256), (256, 512), (512, 1)]
    assert [(part.kernel_size[0], part.stride[0]) for part in convolutions] == [(3, 1), (3, 1), (3, 2)]


@pytest.mark.parametrize(("side", "patches"), [(32, 1), (48, 1), (64, 2)])
@torch.inference_mode()
def test_entropy_discriminator_takes_small_crops(side, patches):
    assert EntropyDiscriminator(width=2)(torch.zeros(2, 4, side, 32, 32)).shape == (2, 1, patches, 1, 1)


def test_crop_that_is_too_small_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"5 times.*32 voxels.*\(24, 32, 32\).*crop_size"):
        EntropyDiscriminator(width=2)(torch.zeros(1, 4, 24, 32, 32))
    assert EntropyDiscriminator(width=2, layers=4)(torch.zeros(1, 4, 24, 32, 32)).shape == (1, 1, 1, 2, 2)
    with pytest.raises(ValueError, match="got 1"):
        EntropyDiscriminator(layers=1)


@torch.inference_mode()
def test_entropy_discriminator_sees_the_uncertainty_and_not_the_classes():
    """Certain of one class or of another, it is the same map of zeros."""
    network = EntropyDiscriminator(width=2)
    first, second = torch.zeros(2, 1, 4, 32, 32, 32)
    first[:, 0] = second[:, 3] = 100
    assert torch.equal(network(first), network(second))
    assert not torch.equal(network(first), network(torch.zeros(1, 4, 32, 32, 32)))


@torch.inference_mode()
def test_feature_discriminator_takes_the_bottleneck_of_the_smallest_crop():
    assert FeatureDiscriminator(8, width=2)(torch.zeros(2, 8, 4, 5, 2)).shape == (2, 1, 2, 3, 1)
