"""What drives a learned anchor: its weights, and their gradient from each of the two losses."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from medmap_components.engines.processes import mean_over_processes
from medmap_components.engines.trainer import MissingModalityTrainer
from medmap_components.modalities import MODALITIES
from medmap_components.networks import Anchor

__all__ = ["AnchorMonitor"]


class AnchorMonitor:
    """Logs the mixture weights of an anchor and the gradient that the alignment and the segmentation loss give them.

    The alignment loss alone drives the weights of ``P*_mix`` towards equality; what else they learn comes from the
    segmentation loss, through the modalities that the anchor stands in for. Entries in the trainer's output, per
    aligned level and modality: ``anchor_weight/level_1/flair``, ``anchor_gradient_alignment/level_1/flair`` (of the
    alignment loss as it is weighted in the total) and ``anchor_gradient_segmentation/level_1/flair``, both with respect
    to the logits of the weights. A network without a learned anchor adds nothing.

    Args:
        network: the network in training, possibly inside DistributedDataParallel.
        loss: the loss, for its attribute ``alignment_weight``, which may change while it is watched.
    """

    def __init__(self, network: nn.Module, loss: nn.Module) -> None:
        self.anchor = next((module for module in network.modules() if isinstance(module, Anchor)), None)
        self.loss = loss
        self._from_alignment: Tensor | None = None
        self._before: Tensor | None = None

    def attach(self, engine: Engine) -> None:
        """Hooks in after the loss and after the backward pass, if there is something learned to watch."""
        if self.anchor is not None and self.anchor.mixture_logits() is not None:
            engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._after_loss)
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._after_backward)

    def _after_loss(self, engine: MissingModalityTrainer) -> None:
        logits = self._logits()
        alignment = engine.terms.get("alignment")
        weight = float(getattr(self.loss, "alignment_weight", 0.0))
        self._before = torch.zeros_like(logits) if logits.grad is None else logits.grad.clone()
        self._from_alignment = torch.zeros_like(logits)
        if alignment is not None and alignment.requires_grad and weight:
            (gradient,) = torch.autograd.grad(alignment, logits, retain_graph=True, allow_unused=True)
            if gradient is not None:
                self._from_alignment = weight * gradient.detach()
        # distributed training averages the total, which this is subtracted from
        self._from_alignment = mean_over_processes(self._from_alignment)

    def _after_backward(self, engine: MissingModalityTrainer) -> None:
        logits = self._logits()
        if logits.grad is None or self._from_alignment is None or self._before is None or self.anchor is None:
            return
        scale = engine.scaler.get_scale() if engine.scaler is not None else 1.0
        steps = getattr(engine, "accumulation_steps", 1)  # MONAI has it from 1.6 on
        total = (logits.grad - self._before) * steps / scale
        for level, weights in self.anchor.weights_by_modality().items():
            engine.state.output.update({f"anchor_weight/{level}/{name}": value for name, value in weights.items()})
        self._write(engine, "alignment", self._from_alignment)
        self._write(engine, "segmentation", total - self._from_alignment)

    def _write(self, engine: MissingModalityTrainer, source: str, gradient: Tensor) -> None:
        levels = self.anchor.levels if self.anchor is not None else ()
        for level, row in zip(levels, gradient.reshape(len(levels), -1).tolist(), strict=True):
            for name, value in zip(MODALITIES, row, strict=True):
                engine.state.output[f"anchor_gradient_{source}/level_{level}/{name}"] = value

    def _logits(self) -> nn.Parameter:
        logits = self.anchor.mixture_logits() if self.anchor is not None else None
        if logits is None:
            raise ValueError("the network has no learned anchor; AnchorMonitor has nothing to watch.")
        return logits
