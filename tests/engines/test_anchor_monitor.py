from __future__ import annotations

import copy

import pytest
import torch
from ignite.engine import Events
from torch import Tensor

from medmap_components.engines import AnchorMonitor
from medmap_components.losses import MissingModalityLoss
from medmap_components.modalities import MODALITIES
from medmap_components.networks import FixedMixAnchor
from tests.engines.conftest import needs_accumulation


def row(output: dict, what: str) -> Tensor:
    return torch.tensor([float(output[f"{what}/level_1/{name}"]) for name in MODALITIES])


def by_hand(network, data, weight: float) -> dict[str, Tensor]:
    """Gradients of the logits of the mixture weights, by autograd."""
    network = copy.deepcopy(network).train()
    meta = data["image"].meta
    output = network(data["image"].as_tensor(), meta["modality_mask"], meta["modality_exists"])
    terms = MissingModalityLoss(alignment_weight=weight)(output, data["label"])
    theta = network.anchor.theta
    (total,) = torch.autograd.grad(terms["loss"], theta, retain_graph=True)
    (alignment,) = torch.autograd.grad(weight * terms["alignment"], theta)
    return {"total": total[0], "alignment": alignment[0]}


def run(trainer, network, batches, weight=0.5, **kwargs):
    outputs = []
    monitor = AnchorMonitor(network, MissingModalityLoss(alignment_weight=weight))
    engine = trainer(batches, learning_rate=0.0, alignment_weight=weight, train_handlers=[monitor], **kwargs)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: outputs.append(dict(e.state.output)))
    engine.run()
    return outputs


def test_the_two_gradients_are_those_of_autograd_and_sum_to_the_total(trainer, network, batch):
    data = batch(0, [[1, 0, 1, 1], [0, 1, 1, 1]])
    expected = by_hand(network, data, 0.5)
    (output,) = run(trainer, network, [data])
    alignment, segmentation = row(output, "anchor_gradient_alignment"), row(output, "anchor_gradient_segmentation")
    torch.testing.assert_close(alignment, expected["alignment"], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(alignment + segmentation, expected["total"], rtol=1e-4, atol=1e-7)
    # both are there to be told apart
    assert alignment.abs().max() > 1e-4
    assert segmentation.abs().max() > 1e-4
    torch.testing.assert_close(network.anchor.theta.grad[0], expected["total"], rtol=1e-4, atol=1e-7)


def test_the_weights_are_the_softmax_of_their_logits(trainer, network, batch):
    (output,) = run(trainer, network, [batch(0, [[1, 1, 1, 1]])])
    torch.testing.assert_close(row(output, "anchor_weight"), network.anchor.theta.detach()[0].softmax(0))


@needs_accumulation
def test_each_step_of_an_accumulation_is_told_by_itself(trainer, network, batch):
    batches = [batch(seed, [[1, 0, 1, 1]]) for seed in range(3)]
    outputs = run(trainer, network, batches, accumulation_steps=3)
    for data, output in zip(batches, outputs, strict=True):
        expected = by_hand(network, data, 0.5)
        total = row(output, "anchor_gradient_alignment") + row(output, "anchor_gradient_segmentation")
        torch.testing.assert_close(total, expected["total"], rtol=1e-3, atol=1e-6)


def test_without_alignment_all_of_the_gradient_is_the_segmentations(trainer, network, batch):
    data = batch(0, [[1, 0, 1, 1]])
    (output,) = run(trainer, network, [data], weight=0.0)
    assert row(output, "anchor_gradient_alignment").tolist() == [0.0] * 4
    network.train()
    expected = torch.autograd.grad(
        MissingModalityLoss(alignment_weight=0.0)(
            network(data["image"].as_tensor(), data["image"].meta["modality_mask"], torch.ones(1, 4).bool()),
            data["label"],
        )["loss"],
        network.anchor.theta,
    )[0]
    torch.testing.assert_close(row(output, "anchor_gradient_segmentation"), expected[0], rtol=1e-4, atol=1e-7)


def test_an_anchor_without_learned_weights_adds_nothing(trainer, network, batch):
    network.anchor = FixedMixAnchor()
    (output,) = run(trainer, network, [batch(0, [[1, 0, 1, 1]])])
    assert not [name for name in output if name.startswith("anchor_")]


def test_a_network_without_anchor_adds_nothing(trainer, network, batch):
    monitor = AnchorMonitor(torch.nn.Conv3d(1, 1, 1), MissingModalityLoss())
    engine = trainer([batch(0, [[1, 1, 1, 1]])], train_handlers=[monitor])
    engine.run()
    assert not [name for name in engine.state.output if name.startswith("anchor_")]
    with pytest.raises(ValueError, match="no learned anchor"):
        monitor._logits()
