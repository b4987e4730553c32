"""A handler with which a test sees what each process of a training run did."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from medmap_components.engines.processes import process_rank

__all__ = ["StepRecorder"]


class StepRecorder:
    """Writes one file per process and epoch: the studies and gradients of each step, the weights and the loss terms.

    Args:
        folder: where the files go; they are named ``<rank>_<epoch>.pt``.
        dies_in_epoch: the epoch in the middle of which this process kills itself, as a power cut would.
    """

    def __init__(self, folder: str, dies_in_epoch: int | None = None) -> None:
        self.folder = Path(folder)
        self.dies_in_epoch = dies_in_epoch
        self.steps: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.steps.clear)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.record)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def record(self, engine: Engine) -> None:
        if engine.state.epoch == self.dies_in_epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        files = engine.state.batch["image"].meta["filename_or_obj"]
        gradients = [None if p.grad is None else p.grad.clone() for p in engine.network.parameters()]
        self.steps.append({"files": [Path(file).name for file in files], "gradients": gradients})

    def write(self, engine: Engine) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{process_rank()}_{engine.state.epoch}.pt"
        metrics = {str(name): value for name, value in engine.state.metrics.items()}
        torch.save({"steps": self.steps, "metrics": metrics, "weights": engine.network.state_dict()}, path)
