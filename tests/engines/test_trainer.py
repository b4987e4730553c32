from __future__ import annotations

import copy

import pytest
import torch
from ignite.engine import Events

from medmap_components.losses import MissingModalityLoss
from tests.engines.conftest import needs_accumulation

TERMS = {
    "fused_ce",
    "fused_dice",
    "modality_flair",
    "modality_t1ce",
    "modality_t1",
    "modality_t2",
    "deep_2",
    "alignment",
    "alignment_level_1",
}


def test_every_term_stands_by_name_in_the_output_and_its_mean_in_the_metrics(trainer, batch):
    engine = trainer([batch(0, [[1, 1, 0, 1]]), batch(1, [[0, 1, 1, 1]])])
    outputs = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: outputs.append(dict(e.state.output)))
    engine.run()
    assert len(outputs) == 2
    for name in TERMS | {"loss"}:
        values = [float(output[name]) for output in outputs]
        assert values[0] != values[1]
        assert engine.state.metrics[name] == pytest.approx(sum(values) / 2)


def test_the_terms_are_those_of_the_loss(trainer, batch, network):
    data = batch(0, [[1, 1, 0, 1], [0, 0, 1, 0]], [[1, 1, 1, 1], [0, 1, 1, 1]])
    before = copy.deepcopy(network).train()
    engine = trainer([data])
    engine.run()
    meta = data["image"].meta
    output = before(data["image"].as_tensor(), meta["modality_mask"], meta["modality_exists"])
    expected = MissingModalityLoss(alignment_weight=0.5)(output, data["label"])
    for name, value in expected.items():
        assert float(engine.state.output[name]) == pytest.approx(float(value), rel=1e-5), name


def test_the_prediction_is_the_fused_logits(trainer, batch):
    engine = trainer([batch(0, [[1, 1, 0, 1]])])
    engine.run()
    assert engine.state.output["pred"].shape == (1, 4, 4, 4, 4)
    assert not engine.state.output["pred"].requires_grad


def test_handlers_see_the_means_of_their_own_epoch(trainer, batch):
    seen = []

    class Reader:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(e.state.metrics["loss"]))

    engine = trainer([batch(0, [[1, 1, 1, 1]])], learning_rate=0.0, train_handlers=[Reader()], max_epochs=2)
    engine.run()
    assert seen == [pytest.approx(float(engine.state.output["loss"].detach()))] * 2


@needs_accumulation
def test_accumulated_gradients_equal_one_step_on_their_mean(trainer, batch, network):
    batches = [batch(0, [[1, 1, 0, 1]]), batch(1, [[0, 1, 1, 1]])]
    expected = copy.deepcopy(network).train()
    loss = MissingModalityLoss(alignment_weight=0.5)
    for data in batches:
        output = expected(data["image"].as_tensor(), data["image"].meta["modality_mask"], torch.ones(1, 4).bool())
        (loss(output, data["label"])["loss"] / 2).backward()
    torch.optim.SGD(expected.parameters(), lr=0.1).step()
    trainer(batches, accumulation_steps=2).run()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_mixed_precision_on_the_cpu_is_a_step_in_bfloat16(trainer, batch, network):
    data = batch(0, [[1, 1, 0, 1]])
    expected = copy.deepcopy(network).train()
    meta = data["image"].meta
    with torch.autocast("cpu", torch.bfloat16):
        output = expected(data["image"].as_tensor(), meta["modality_mask"], meta["modality_exists"])
        loss = MissingModalityLoss(alignment_weight=0.5)(output, data["label"])["loss"]
    assert output.logits.dtype == torch.bfloat16
    loss.backward()
    torch.optim.SGD(expected.parameters(), lr=0.1).step()
    trainer([data], amp=True).run()
    for name, value in expected.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(network.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_what_is_hidden_cannot_change_the_fused_output_of_a_step(trainer, batch):
    losses = []
    for noise in (0.0, 1.0):
        data = batch(0, [[1, 0, 1, 1]])
        data["image"][:, 1] += noise
        engine = trainer([data], learning_rate=0.0)
        engine.run()
        losses.append({name: float(engine.state.output[name]) for name in ("fused_ce", "modality_t1ce", "alignment")})
    assert losses[0]["fused_ce"] == losses[1]["fused_ce"]
    # but it exists, so it is learned from
    assert losses[0]["modality_t1ce"] != losses[1]["modality_t1ce"]
    assert losses[0]["alignment"] != losses[1]["alignment"]
