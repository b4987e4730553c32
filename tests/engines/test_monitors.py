from __future__ import annotations

import warnings

import pytest
import torch
from ignite.engine import Engine, Events

from medmap_components.engines import EngineProgressBar, EpochMeans, LossTerms


def engine_over(outputs) -> Engine:
    """An engine whose iterations give the outputs in turn."""
    engine = Engine(lambda _, output: output)
    EpochMeans().attach(engine)
    return engine


def test_loss_terms_are_the_scalars_as_floats():
    output = {
        "loss": torch.tensor(2.0, requires_grad=True),
        "term": 0.5,
        "count": 3,
        "pred": torch.zeros(1, 4),
        "name": "study",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LossTerms()(output) == {"loss": 2.0, "term": 0.5, "count": 3.0}
    assert LossTerms(prefix="iteration/")({"loss": 1.0}) == {"iteration/loss": 1.0}


def test_a_mean_is_over_the_batches_that_have_the_term():
    outputs = [{"loss": 1.0, "t1": torch.tensor(4.0)}, {"loss": torch.tensor(2.0)}, {"loss": 6.0, "t1": 8.0}]
    engine = engine_over(outputs)
    engine.run(outputs, max_epochs=1)
    assert engine.state.metrics == {"loss": 3.0, "t1": 6.0}


def test_each_epoch_begins_anew():
    values = iter([1.0, 3.0, 10.0, 20.0])
    engine = Engine(lambda *_: {"loss": next(values)})
    EpochMeans().attach(engine)
    seen = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(e.state.metrics["loss"]))
    engine.run([0, 1], max_epochs=2)
    assert seen == [2.0, 15.0]


def test_means_do_not_lose_precision_or_keep_the_graph():
    weight = torch.tensor(1.0, requires_grad=True)
    values = [{"loss": weight * (1 + 1e-7 * k)} for k in range(1000)]
    engine = engine_over(values)
    engine.run(values, max_epochs=1)
    expected = sum(float(value["loss"].detach()) for value in values) / 1000
    assert engine.state.metrics["loss"] == pytest.approx(expected, abs=1e-12)


def test_what_is_no_scalar_is_left_out():
    engine = engine_over(None)
    engine.run([{"pred": torch.zeros(1, 4), "loss": 1.0, "one": torch.zeros(1)}], max_epochs=1)
    assert engine.state.metrics == {"loss": 1.0}


@pytest.mark.parametrize(
    ("outputs", "shown"),
    [([{"loss": torch.tensor(2.5, requires_grad=True)}], "loss=2.5"), ([{"pred": 1}], None), ([[{"pred": 1}]], None)],
)
def test_the_bar_shows_the_loss_where_there_is_one(capsys, outputs, shown):
    engine = Engine(lambda _, output: output)
    EngineProgressBar(desc="word", persist=True).attach(engine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.run(outputs, max_epochs=1)
    text = capsys.readouterr().err
    assert "word" in text
    assert "1/1" in text
    assert (shown in text) if shown else ("loss" not in text)
