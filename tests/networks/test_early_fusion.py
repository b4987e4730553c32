"""What all networks that fuse the modalities at their input have in common."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medmap_components.networks import AdaptiveMixAnchor, Anchor, FixedMixAnchor, NormalAnchor
from medmap_components.networks.early_fusion import BodyOutput, EarlyFusionNetwork, ModalityStems
from tests.networks.contract import MIXED, T1CE_ONLY

ALL = torch.ones(1, 4, dtype=torch.bool)


class Recorder(EarlyFusionNetwork):
    """A body that keeps what it was given."""

    def __init__(self, anchor: Anchor | None = None) -> None:
        super().__init__(stem_channels=3, stride=2, anchor=anchor)
        self.head = nn.Conv3d(12, 4, 1)
        self.seen: list[Tensor] = []

    def body(self, fused: Tensor) -> BodyOutput:
        self.seen.append(fused)
        return BodyOutput(self.head(fused), {}, {})

    def fused(self, mask: Tensor, exists: Tensor | None = None) -> Tensor:
        """What the body saw, with one axis per modality."""
        with torch.no_grad():
            self(image(len(mask)), mask, exists)
        return self.seen[-1].unflatten(1, (4, 3))


def image(batch: int = 1) -> Tensor:
    return torch.randn(batch, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))


def made(anchor: Anchor | None = None) -> Recorder:
    torch.manual_seed(0)
    return Recorder(anchor)


@torch.no_grad()
def test_stem_of_a_modality_sees_that_modality_alone():
    stems = ModalityStems(3)
    before = stems(image())
    assert before.shape == (1, 4, 3, 8, 8, 8)
    changed = image()
    changed[:, 2] += torch.randn(8, 8, 8)
    moved = (stems(changed) - before).abs().sum(dim=(2, 3, 4, 5))[0] > 0
    assert moved.tolist() == [False, False, True, False]


@torch.no_grad()
def test_stems_are_a_convolution_an_instance_norm_and_a_leaky_relu():
    stems = ModalityStems(3).double()
    x = image(2).double()
    expected = nn.functional.pad(x[:, 1:2], (1,) * 6, mode="reflect")
    expected = nn.functional.conv3d(expected, stems.conv.weight[3:6])
    expected = nn.functional.leaky_relu(nn.functional.instance_norm(expected), 0.2)
    torch.testing.assert_close(stems(x)[:, 1], expected)


@torch.no_grad()
def test_channel_of_zeros_gives_latents_of_exactly_zero():
    stems = ModalityStems(3)
    x = image()
    x[:, 1] = 0
    latents = stems(x)
    assert not latents[:, 1].any()
    assert latents[:, 0].any()


@torch.no_grad()
def test_stems_of_absent_modalities_are_left_out_and_their_latents_are_zeros():
    stems = ModalityStems(3)
    some = stems(image(), [0, 3])
    torch.testing.assert_close(some[:, [0, 3]], stems(image())[:, [0, 3]])
    assert not some[:, [1, 2]].any()


@torch.inference_mode()
def test_absent_modalities_are_not_encoded_in_eval():
    network = made().eval()
    encoded = []
    network.stems.register_forward_hook(lambda module, args, latents: encoded.append(args[1]))
    network(image(2), torch.tensor([(False, True, False, True), (False, True, False, False)]))
    assert encoded == [[1, 3]]


@pytest.mark.parametrize("training", [True, False])
def test_body_sees_zeros_in_place_of_hidden_modalities_of_each_sample(training):
    network = made().train(training)
    latents = network.stems(image(2)).detach()
    fused = network.fused(MIXED)
    for sample in range(2):
        for modality in range(4):
            expected = latents[sample, modality] * MIXED[sample, modality]
            torch.testing.assert_close(fused[sample, modality], expected)


@pytest.mark.parametrize("training", [True, False])
def test_learned_anchor_puts_the_mean_of_the_visible_modalities_in_place_of_hidden_ones(training):
    network = made(AdaptiveMixAnchor()).train(training)
    latents = network.stems(image(2)).detach()
    fused = network.fused(MIXED)
    torch.testing.assert_close(fused[0, 1], (latents[0, 0] + latents[0, 2]) / 2)
    torch.testing.assert_close(fused[1, 3], latents[1, 1])
    torch.testing.assert_close(fused[0, 0], latents[0, 0])


def test_alignment_runs_over_what_exists_although_the_body_does_not_see_it():
    network = made(AdaptiveMixAnchor())
    exists = torch.tensor([(True, True, False, True)])
    with torch.no_grad():
        output = network(image(), torch.tensor([T1CE_ONLY]), exists)
    (level,) = output.aligned.values()
    latents = network.stems(image())
    torch.testing.assert_close(level.anchor, latents[:, [0, 1, 3]].mean(1))
    torch.testing.assert_close(level.weights, torch.tensor([[1 / 3, 1 / 3, 0, 1 / 3]]))
    assert torch.equal(output.exists, exists)


@pytest.mark.parametrize("anchor", [NormalAnchor, FixedMixAnchor, AdaptiveMixAnchor])
@pytest.mark.parametrize("levels", [(2,), (1, 2)])
def test_anchor_of_another_level_is_refused(anchor, levels):
    with pytest.raises(ValueError, match=r"Recorder.*use levels=\[1\]") as error:
        made(anchor(levels=levels))
    assert str(levels) in str(error.value)


@torch.inference_mode()
def test_one_encoding_serves_a_smaller_subset_than_it_was_made_for():
    network = made(FixedMixAnchor()).eval()
    mask = torch.tensor([T1CE_ONLY])
    torch.testing.assert_close(network.decode(network.encode(image(), ALL), mask), network(image(), mask))
