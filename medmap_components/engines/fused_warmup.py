"""Leaves the fused map out of the loss in the first epochs."""

from __future__ import annotations

from ignite.engine import Engine, Events

from medmap_components.losses import MissingModalityLoss

__all__ = ["FusedWarmup"]


class FusedWarmup:
    """Gives the fused map the weight 0 in the first epochs, as RFNet is trained, and its own weight from then on.

    Until then the encoders and the probability maps learn from the maps of the single modalities and from deep
    supervision. The fused terms are measured and logged all the while. Every parameter keeps getting a gradient, if
    only of zeros, so that distributed training goes on as before. The weight follows from the number of the epoch
    alone: a resumed run takes up where it was.

    Args:
        loss: the loss whose ``fused_weight`` is set; the value that it has now is the one that comes back.
        epochs: number of epochs with the weight 0. 0 switches the warm-up off. RFNet was published with 20 of 300.

    Raises:
        ValueError: for a negative number of epochs.
    """

    def __init__(self, loss: MissingModalityLoss, epochs: int) -> None:
        if epochs < 0:
            raise ValueError(f"epochs must not be negative, got {epochs}; 0 switches the warm-up off.")
        self.loss = loss
        self.epochs = epochs
        self.fused_weight = loss.fused_weight

    def attach(self, engine: Engine) -> None:
        """Hooks into the start of each epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Sets the weight for the epoch that the engine has just begun; epochs count from 1."""
        self.loss.fused_weight = 0.0 if engine.state.epoch <= self.epochs else self.fused_weight
