"""Randomness that depends on the epoch alone, so that a resumed run draws what an uninterrupted one draws."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.utils import set_determinism

from medmap_components.engines.processes import process_rank

__all__ = ["EpochSeed"]

SEEDS_PER_PROCESS = 1_000_003
"""Epochs after which the seeds of one process would meet those of the next."""


class EpochSeed:
    """Seeds torch, numpy, Python and the random transforms of a data set at the start of every epoch.

    Epoch ``e`` is seeded with ``seed + e``: order of the cases, crops, augmentation, modality dropout and the
    network's dropout of that epoch are the same whether or not the run was stopped and resumed before it. Loader
    worker processes derive their seeds from torch's, so they follow. In distributed training every process draws from
    seeds of its own, far from those of the others.

    Args:
        seed: the seed of the run, from 0 to 2**31.
        dataset: the training data set, whose random transforms are seeded as well.

    Raises:
        ValueError: if ``seed`` is negative.
    """

    def __init__(self, seed: int, dataset: Any) -> None:
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}.")
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Hooks into the start of each epoch, before the loader makes its iterator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seeds everything for the epoch that the engine has just begun."""
        epoch_seed = self.seed + engine.state.epoch + SEEDS_PER_PROCESS * process_rank()
        set_determinism(seed=epoch_seed)
        set_rnd(self.dataset, seed=epoch_seed)
