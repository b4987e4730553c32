"""The two files that a training run keeps: its best weights, and all that is needed to go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer, Workflow
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medmap_components.engines.about_weights import describe_weights
from medmap_components.engines.processes import is_first_process
from medmap_components.engines.weights import describe_mismatch, save_atomically, set_aside

__all__ = ["BestWeights", "FinalWeights", "ResumableState", "without_wrapper"]

logger = logging.getLogger(__name__)


class BestWeights:
    """Keeps the network's weights of the epoch with the best key metric as a bare state dict.

    Belongs to the handlers of a MONAI evaluator that has a key metric.

    Args:
        path: the file, such as ``<output_dir>/model.pt``; it loads strictly and with ``weights_only=True``.
        network: whose weights are kept; a DistributedDataParallel wrapper is looked through.
        about: what belongs to the weights and is not in them, such as the voxel size of the images that they learnt
            from; written beside them, see :func:`describe_weights`. None (default): nothing.
    """

    def __init__(self, path: str, network: nn.Module, about: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.network = network
        self.about = about

    def attach(self, engine: Engine) -> None:
        """Hooks into the end of the evaluator's epoch, after its metrics were compared."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Saves if the epoch that was just evaluated is the best one."""
        if engine.state.best_metric_epoch == engine.state.epoch and is_first_process():
            describe_weights(self.path, self.about)
            save_atomically(without_wrapper(self.network).state_dict(), self.path)
            logger.info("Best %s so far, %.4f: weights saved to %s", *_score(engine), self.path)


class FinalWeights:
    """Keeps the weights of the last epoch where a whole run had no validation that could have chosen better ones.

    Belongs to the handlers of the trainer. A run that is shorter than the interval between validations, or has no
    validation data, would otherwise leave no weights behind.

    Args:
        path: the file that :class:`BestWeights` writes; left alone if it is there.
        network: whose weights are kept; a DistributedDataParallel wrapper is looked through.
        about: see :class:`BestWeights`.
    """

    def __init__(self, path: str, network: nn.Module, about: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.network = network
        self.about = about

    def attach(self, engine: Engine) -> None:
        """Hooks into the end of the run."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Saves if nothing was saved before."""
        if is_first_process() and not self.path.exists():
            describe_weights(self.path, self.about)
            save_atomically(without_wrapper(self.network).state_dict(), self.path)
            logger.warning(
                "No validation took place: the weights of the last epoch were saved to %s. Choose a val_interval of at "
                "most %d epochs to keep the best ones instead.",
                self.path,
                engine.state.max_epochs,
            )


class ResumableState:
    """Saves the whole state of a training run after every epoch, and goes on from it when asked.

    Saved are the network, the optimiser, the learning-rate schedule, the gradient scaler, the epoch, and the best
    metric with its epoch. Random numbers need no saving: :class:`EpochSeed` draws them from the epoch. It
    saves after all other handlers of the epoch's end, wherever it stands among them, so that the epoch's validation and
    schedule step are part of what it saves.

    In distributed training the first process saves, and all of them go on from what it saved.

    A run that does not resume keeps what an earlier run left in the same folder: those files are renamed.

    Args:
        path: the file, such as ``<output_dir>/last.pt``.
        resume: whether to go on from ``path``. Default: False.
        network: the network in training.
        optimizer: its optimiser.
        lr_scheduler: its learning-rate schedule.
        evaluator: the evaluator whose best metric belongs to the run; None where there is none.
        keep: further files of an earlier run to rename when a new run begins, such as the best weights.
        also: what else belongs to the run, by name: objects with ``state_dict`` and ``load_state_dict``, such as the
            discriminators of adversarial training and their optimisers.
        epochs_knob: the setting with the number of epochs, for messages. Default ``"epochs"``.

    Raises:
        FileNotFoundError: at the start of the run, if ``resume`` is set and there is nothing to resume.
        ValueError: at the start of the run, if the file is not one of this class, belongs to another network, or to a
            run of another number of epochs.
    """

    def __init__(
        self,
        path: str,
        network: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        evaluator: Workflow | None = None,
        resume: bool = False,
        keep: list[str] | None = None,
        also: Mapping[str, Any] | None = None,
        epochs_knob: str = "epochs",
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.evaluator = evaluator
        self.resume = resume
        self.keep = [Path(name) for name in keep or []]
        self.also = dict(also or {})
        self.epochs_knob = epochs_knob

    def attach(self, engine: Engine) -> None:
        """Hooks into the start of the run and, from there, the end of each epoch: after all that is attached before."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, trainer: SupervisedTrainer) -> None:
        """Resumes, or keeps what an earlier run left."""
        if not trainer.has_event_handler(self.save, Events.EPOCH_COMPLETED):
            trainer.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        if self.resume:
            self._load(trainer)
        elif is_first_process():
            for path in (self.path, *self.keep):
                set_aside(path)

    def save(self, trainer: SupervisedTrainer) -> None:
        """Saves the state after an epoch."""
        if not is_first_process():
            return
        state = {
            "epoch": trainer.state.epoch,
            "max_epochs": trainer.state.max_epochs,
            "iteration": trainer.state.iteration,
            "network": without_wrapper(self.network).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
        }
        if self.also:
            state["also"] = {name: without_wrapper(part).state_dict() for name, part in self.also.items()}
        if trainer.scaler is not None:
            state["scaler"] = trainer.scaler.state_dict()
        if self.evaluator is not None:
            state["best"] = {
                "metric": float(self.evaluator.state.best_metric),
                "epoch": self.evaluator.state.best_metric_epoch,
            }
        save_atomically(state, self.path)

    def finish(self, trainer: SupervisedTrainer) -> None:
        """Says where everything lies."""
        logger.info("Training ended after epoch %d; everything is in %s", trainer.state.epoch, self.path.parent)

    def _load(self, trainer: SupervisedTrainer) -> None:
        state = self._read()
        mismatch = describe_mismatch(without_wrapper(self.network).state_dict(), state["network"])
        if mismatch:
            raise ValueError(
                f"{self.path} belongs to another network than this run's: {mismatch}; resume with the settings of the "
                "run that wrote it."
            )
        if self.also.keys() != state.get("also", {}).keys():
            raise ValueError(
                f"{self.path} belongs to another kind of run than this one: beside the network it holds "
                f"{sorted(state.get('also', {}))}, and this run needs {sorted(self.also)}."
            )
        if state["max_epochs"] != trainer.state.max_epochs:
            raise ValueError(
                f"{self.path} belongs to a run of {state['max_epochs']} epochs, over which its learning rate falls; "
                f"this run has {trainer.state.max_epochs}. Resume with --{self.epochs_knob} {state['max_epochs']}."
            )
        without_wrapper(self.network).load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        for name, part in self.also.items():
            without_wrapper(part).load_state_dict(state["also"][name])
        if "scaler" in state and trainer.scaler is not None:
            trainer.scaler.load_state_dict(state["scaler"])
        if "best" in state and self.evaluator is not None:
            self.evaluator.state.best_metric = state["best"]["metric"]
            self.evaluator.state.best_metric_epoch = state["best"]["epoch"]
        trainer.state.epoch = state["epoch"]
        trainer.state.iteration = state["iteration"]
        logger.info("Resumed after epoch %d of %d from %s", state["epoch"], trainer.state.max_epochs, self.path)

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            raise FileNotFoundError(
                f"resume is set but there is no {self.path}; give the --output_dir of the run to go on with, "
                "or leave --resume out to begin a new run."
            )
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        expected = {"epoch", "max_epochs", "iteration", "network", "optimizer", "lr_scheduler"}
        if not isinstance(state, dict) or not expected <= state.keys():
            raise ValueError(f"{self.path} is not the last.pt of a training run; it lacks {sorted(expected)}.")
        return state


def without_wrapper(part: Any) -> Any:
    """A network without the wrapper of distributed training; anything else as it is."""
    module = getattr(part, "module", part)
    return module if isinstance(module, nn.Module) else part


def _score(engine: Workflow) -> tuple[str, float]:
    return engine.state.key_metric_name, float(engine.state.best_metric)
