"""The trainer of a student that learns from a frozen teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.utils.enums import CommonKeys
from torch import Tensor

from medmap_components.engines.trainer import MissingModalityTrainer
from medmap_components.losses import DistillationLoss
from medmap_components.networks import KDNet, TrainingOutput

__all__ = ["DistillationTrainer"]


class DistillationTrainer(MissingModalityTrainer):
    """Trains a student that sees the visible modalities with a teacher that sees all that exist.

    ``network`` is the student. To the loss of :class:`MissingModalityTrainer` the distillation from the teacher is
    added, on the same images; its terms stand by name beside the others. The teacher is frozen when the run starts: it
    is in eval mode, its parameters take no gradient, and it computes in the trainer's precision without recording.

    Args:
        teacher: trained before; not wrapped for distributed training, since nothing of it changes.
        distillation_loss: weighs the teacher's terms.
        **kwargs: everything of :class:`MissingModalityTrainer`.
    """

    def __init__(self, *, teacher: KDNet, distillation_loss: DistillationLoss, **kwargs: Any) -> None:
        self.teacher = teacher
        self.distillation_loss = distillation_loss
        super().__init__(**kwargs)

    def _register_handlers(self, handlers: Sequence[Any]) -> None:
        self.add_event_handler(Events.STARTED, self._freeze_teacher)
        super()._register_handlers(handlers)

    def _freeze_teacher(self) -> None:
        self.teacher.to(self.state.device).eval().requires_grad_(False)

    def _total_loss(self, output: TrainingOutput, target: Tensor) -> Tensor:
        alone = super()._total_loss(output, target)
        image: Tensor = self.state.output[CommonKeys.IMAGE]
        with torch.no_grad():
            taught = self.teacher.teach(image, output.exists)
        terms = self.distillation_loss(output.logits, output.features, taught.logits, taught.features)
        self.terms = {**self.terms, **terms, "loss": alone + terms["distillation"]}
        return self.terms["loss"]
