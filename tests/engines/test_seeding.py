from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset
from monai.transforms import Compose, RandShiftIntensity

from medmap_components.engines import EpochSeed


def draws(seed: int, epochs: range) -> list[tuple[float, ...]]:
    """What is drawn in each epoch, by torch, numpy, Python and a transform, when a run begins at the first of them."""
    dataset = Dataset([torch.zeros(1)] * 2, Compose([RandShiftIntensity(1.0, prob=1.0)]))
    seen: list[tuple[float, ...]] = []

    def step(_engine, _batch):
        seen.append((float(torch.rand(1)), float(np.random.rand()), random.random(), float(dataset[0])))

    engine = Engine(step)
    EpochSeed(seed, dataset).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", epochs.start - 1))
    engine.run([0], max_epochs=epochs.stop - 1, epoch_length=1)
    return seen


def test_an_epoch_draws_the_same_wherever_the_run_began():
    whole = draws(5, range(1, 5))
    assert draws(5, range(3, 5)) == whole[2:]


def test_epochs_and_seeds_draw_differently():
    whole = draws(5, range(1, 4))
    for kind in zip(*whole, strict=True):
        assert len(set(kind)) == len(whole)
    assert all(a != b for a, b in zip(whole[0], draws(900, range(1, 2))[0], strict=True))


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="-1"):
        EpochSeed(-1, None)


def test_the_processes_of_distributed_training_draw_differently(monkeypatch):
    first = draws(5, range(1, 3))
    monkeypatch.setattr("medmap_components.engines.seeding.process_rank", lambda: 1)
    second = draws(5, range(1, 3))
    assert all(a != b for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))
