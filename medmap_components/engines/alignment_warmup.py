"""Lets the weight of the alignment grow over the first epochs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ignite.engine import Engine, Events
from torch import nn

__all__ = ["AlignmentWarmup"]


@runtime_checkable
class _Weighted(Protocol):
    """A loss, or a part of one, that weighs the alignment."""

    alignment_weight: float


class AlignmentWarmup:
    """Raises the weight of the alignment from 0 to its own value, so that features form before they are aligned.

    In epoch ``e``, counted from 1, the weight is ``min(1, (e - 1) / epochs)`` of the one that the loss was made with:
    0 in the first epoch, all of it from epoch ``epochs + 1`` on. The alignment is measured and logged all the while.
    The weight follows from the number of the epoch alone: a resumed run takes up where it was. What we know of MedMAP
    mentions no warm-up; this is an option of ours, off by default.

    Args:
        loss: the loss whose ``alignment_weight`` is set, also that of its parts; the values that they have now are the
            ones that are reached.
        epochs: number of epochs until the weight is all there. 0 switches the warm-up off.

    Raises:
        ValueError: for a negative number of epochs, or a loss without an ``alignment_weight``.
    """

    def __init__(self, loss: nn.Module, epochs: int) -> None:
        if epochs < 0:
            raise ValueError(f"epochs must not be negative, got {epochs}; 0 switches the warm-up off.")
        self.epochs = epochs
        self.weights = [(part, part.alignment_weight) for part in loss.modules() if isinstance(part, _Weighted)]
        if not self.weights:
            raise ValueError(f"loss must have an alignment_weight, {type(loss).__name__} and its parts have none.")

    def attach(self, engine: Engine) -> None:
        """Hooks into the start of each epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Sets the weight for the epoch that the engine has just begun."""
        share = min(1.0, (engine.state.epoch - 1) / self.epochs) if self.epochs else 1.0
        for part, weight in self.weights:
            part.alignment_weight = share * weight
