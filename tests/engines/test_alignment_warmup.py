from __future__ import annotations

import pytest
from ignite.engine import Events
from torch import nn

from medmap_components.engines import AlignmentWarmup, AnchorMonitor
from medmap_components.losses import CoTrainingLoss, MissingModalityLoss


def weights_by_epoch(trainer, batch, loss, epochs, warmup, resumed_after=0):
    """The weight of the alignment in each epoch that is run, and its share of the loss beside its own value."""
    seen = {}
    engine = trainer(
        [batch(0, [[1, 0, 1, 1]])],
        max_epochs=epochs,
        loss_function=loss,
        train_handlers=[AlignmentWarmup(loss, warmup)],
    )

    def note(engine):
        terms = {name: float(term.detach()) for name, term in engine.terms.items()}
        rest = sum(term for name, term in terms.items() if name.startswith(("fused_", "modality_", "deep_")))
        seen[engine.state.epoch] = (loss.alignment_weight, round((terms["loss"] - rest) / terms["alignment"], 3))

    engine.add_event_handler(Events.ITERATION_COMPLETED, note)
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", resumed_after))
    engine.run()
    return seen


def test_the_weight_grows_from_nothing_to_its_own_value(trainer, batch):
    seen = weights_by_epoch(trainer, batch, MissingModalityLoss(alignment_weight=4.0), epochs=5, warmup=2)
    assert seen == {1: (0.0, 0.0), 2: (2.0, 2.0), 3: (4.0, 4.0), 4: (4.0, 4.0), 5: (4.0, 4.0)}


@pytest.mark.parametrize("resumed_after", [1, 2, 3])
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(trainer, batch, resumed_after):
    seen = weights_by_epoch(trainer, batch, MissingModalityLoss(alignment_weight=4.0), 4, 3, resumed_after)
    whole = {1: 0.0, 2: 4 / 3, 3: 8 / 3, 4: 4.0}
    assert {epoch: weight for epoch, (weight, _) in seen.items()} == pytest.approx(
        {epoch: weight for epoch, weight in whole.items() if epoch > resumed_after}
    )


def test_no_warmup_leaves_the_weight_alone(trainer, batch):
    seen = weights_by_epoch(trainer, batch, MissingModalityLoss(alignment_weight=4.0), epochs=2, warmup=0)
    assert seen == {1: (4.0, 4.0), 2: (4.0, 4.0)}


def test_the_monitor_of_the_anchor_follows_the_weight(trainer, network, batch):
    gradients = []
    loss = MissingModalityLoss(alignment_weight=4.0)

    class Note:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

        def __call__(self, engine):
            gradients.append(abs(engine.state.output["anchor_gradient_alignment/level_1/flair"]))

    engine = trainer(
        [batch(0, [[1, 0, 1, 1]])],
        max_epochs=3,
        learning_rate=0.0,
        loss_function=loss,
        train_handlers=[AlignmentWarmup(loss, 2), AnchorMonitor(network, loss), Note()],
    )
    engine.run()
    first, second, third = gradients
    assert first == 0
    assert second > 1e-4
    assert third == pytest.approx(2 * second, rel=1e-3)


def test_every_part_of_a_loss_is_reached(trainer, batch):
    loss = CoTrainingLoss(alignment_weight=4.0)
    warmup = AlignmentWarmup(loss, 2)
    engine = trainer([batch(0, [[1, 0, 1, 1]])], train_handlers=[])
    engine.state.epoch = 2
    warmup(engine)
    weights = [part.alignment_weight for part in loss.modules() if hasattr(part, "alignment_weight")]
    assert len(weights) >= 2
    assert set(weights) == {2.0}


def test_negative_epochs_are_refused():
    with pytest.raises(ValueError, match="-3"):
        AlignmentWarmup(MissingModalityLoss(), -3)


def test_a_loss_without_alignment_is_refused():
    with pytest.raises(ValueError, match="MSELoss"):
        AlignmentWarmup(nn.MSELoss(), 1)
