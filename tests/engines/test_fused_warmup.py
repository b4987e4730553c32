from __future__ import annotations

import pytest
import torch
from ignite.engine import Events

from medmap_components.engines import FusedWarmup
from medmap_components.losses import MissingModalityLoss


def weights_by_epoch(trainer, batch, loss, epochs, warmup, resumed_after=0):
    """The weight of the fused map in each epoch that is run, and whether the loss holds the fused terms."""
    seen = {}
    engine = trainer(
        [batch(0, [[1, 0, 1, 1]])],
        max_epochs=epochs,
        loss_function=loss,
        train_handlers=[FusedWarmup(loss, warmup)],
    )

    def note(engine):
        terms = {name: float(term.detach()) for name, term in engine.terms.items()}
        rest = sum(term for name, term in terms.items() if name.startswith(("modality_", "deep_")))
        fused = terms["fused_ce"] + terms["fused_dice"]
        seen[engine.state.epoch] = (loss.fused_weight, round((terms["loss"] - rest) / fused, 4))

    engine.add_event_handler(Events.ITERATION_COMPLETED, note)
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", resumed_after))
    engine.run()
    return seen


def test_the_fused_map_counts_from_the_epoch_after_the_warmup(trainer, batch):
    loss = MissingModalityLoss(alignment_weight=0.0, fused_weight=0.5)
    seen = weights_by_epoch(trainer, batch, loss, epochs=4, warmup=2)
    assert seen == {1: (0.0, 0.0), 2: (0.0, 0.0), 3: (0.5, 0.5), 4: (0.5, 0.5)}


@pytest.mark.parametrize("resumed_after", [1, 2, 3])
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(trainer, batch, resumed_after):
    whole = weights_by_epoch(trainer, batch, MissingModalityLoss(alignment_weight=0.0), 4, warmup=2)
    part = weights_by_epoch(trainer, batch, MissingModalityLoss(alignment_weight=0.0), 4, 2, resumed_after)
    assert {epoch: weight for epoch, (weight, _) in part.items()} == {
        epoch: weight for epoch, (weight, _) in whole.items() if epoch > resumed_after
    }


def test_no_warmup_leaves_the_weight_alone(trainer, batch):
    seen = weights_by_epoch(trainer, batch, MissingModalityLoss(alignment_weight=0.0), epochs=2, warmup=0)
    assert seen == {1: (1.0, 1.0), 2: (1.0, 1.0)}


def test_every_parameter_has_a_gradient_during_the_warmup(trainer, network, batch):
    loss = MissingModalityLoss(alignment_weight=0.0, deep_weight=0.0)
    trainer([batch(0, [[1, 0, 1, 1]])], loss_function=loss, train_handlers=[FusedWarmup(loss, 1)]).run()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    # no other term reaches the mixture weights, which only serve the fused map
    assert torch.equal(network.anchor.theta.grad, torch.zeros_like(network.anchor.theta))


def test_negative_epochs_are_refused():
    with pytest.raises(ValueError, match="-3"):
        FusedWarmup(MissingModalityLoss(), -3)
