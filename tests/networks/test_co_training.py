from __future__ import annotations

import pytest
import torch
from torch import nn

from medmap_components.networks import ACN, AdaptiveMixAnchor, CoTrainedPair
from medmap_components.networks.co_training import InformationHead
from tests.networks.contract import MIXED

EXISTS = torch.tensor([(True, True, True, False), (True, True, True, True)])


def tiny(**kwargs) -> ACN:
    return ACN(**{"stem_channels": 2, "base_channels": 4, "groups": 2, "dropout_rate": 0.0, **kwargs})


@pytest.fixture
def pair() -> CoTrainedPair:
    torch.manual_seed(0)
    return CoTrainedPair(tiny(anchor=AdaptiveMixAnchor()), tiny(anchor=AdaptiveMixAnchor()))


def image() -> torch.Tensor:
    return torch.randn(2, 4, 16, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_full_path_sees_all_that_exists_and_the_missing_path_what_is_left(pair):
    output = pair(image(), MIXED, EXISTS)
    assert torch.equal(output.full.mask, EXISTS)
    assert torch.equal(output.missing.mask, MIXED)
    assert torch.equal(output.full.logits, pair.full(image(), EXISTS, EXISTS).logits)
    assert torch.equal(output.missing.logits, pair.missing(image(), MIXED, EXISTS).logits)
    assert torch.equal(output.logits, output.missing.logits)


@torch.no_grad()
def test_hidden_modality_changes_the_full_path_alone(pair):
    changed = image()
    changed[0, 1] += 1
    before, after = pair(image(), MIXED, EXISTS), pair(changed, MIXED, EXISTS)
    assert torch.equal(before.missing.logits, after.missing.logits)
    assert not torch.equal(before.full.logits, after.full.logits)


@torch.no_grad()
def test_both_paths_align_all_that_exists(pair):
    output = pair(image(), MIXED, EXISTS)
    for path in (output.full, output.missing):
        assert torch.equal(path.exists, EXISTS)
        assert torch.equal(path.aligned["level_1"].weights > 0, EXISTS)


@torch.no_grad()
def test_no_masks_mean_that_both_paths_see_all(pair):
    output = pair(image())
    assert output.full.mask.all()
    assert output.missing.mask.all()


@torch.no_grad()
def test_prediction_starts_at_the_missing_paths_bottleneck(pair):
    output = pair(image(), MIXED, EXISTS)
    bottleneck = output.missing.features["bottleneck"]
    centred = bottleneck - bottleneck.mean((2, 3, 4), keepdim=True)
    standard = centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(output.mean, pair.head.regressor(standard))
    assert output.mean.shape == output.full.features["bottleneck"].shape
    torch.testing.assert_close(output.variance, torch.full((32,), 5.0))


def test_head_is_made_of_three_pointwise_convolutions_without_bias():
    head = InformationHead(8, 6)
    convolutions = [part for part in head.regressor if isinstance(part, nn.Conv3d)]
    assert [tuple(part.weight.shape[:2]) for part in convolutions] == [(6, 8), (6, 6), (6, 6)]
    assert all(part.bias is None and part.kernel_size == (1, 1, 1) for part in convolutions)


def test_a_pair_switches_both_paths_between_the_modes(pair):
    """Published bug 3: only one of the two was switched."""
    parts = [module for path in (pair.full, pair.missing) for module in path.modules()]
    assert all(part.training for part in parts)
    assert not any(part.training for part in parts if pair.eval())


def test_a_pair_does_not_segment(pair):
    with pytest.raises(ValueError, match="missing path"):
        pair.eval()(image())


def test_one_network_is_no_pair():
    network = tiny()
    with pytest.raises(ValueError, match="same network"):
        CoTrainedPair(network, network)
