"""What a student learns from its teacher: the teacher's softened class probabilities and its bottleneck.

KD-Net (Hu et al., "Knowledge distillation from multi-modal to mono-modal segmentation networks", MICCAI 2020,
https://arxiv.org/abs/2106.09564) distils a teacher that sees all modalities into a student that sees one, by the
softened class probabilities of Hinton et al. (https://arxiv.org/abs/1503.02531) and by a Kullback-Leibler divergence
between the bottlenecks, beside the segmentation loss. Its code is not public. Reading a bottleneck as one distribution
over the channels at each position, and the default weights, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DistillationLoss", "channel_divergence"]


def channel_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over positions of ``T^2 KL(softmax(teacher / T) || softmax(student / T))``, each softmax over the channels.

    The factor ``T^2`` keeps the size of the gradient from falling with the temperature. Computed in float32 at least,
    under autocast too. The teacher gets no gradient.

    Args:
        student: ``(B, C, ...)``, logits or features.
        teacher: of the same shape.
        temperature: T; the higher, the softer. Default 1.

    Returns:
        A scalar, at least 0 but for rounding.

    Raises:
        ValueError: if the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher must have one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}; "
            "they must be built with the same filters and num_classes."
        )
    with torch.autocast(student.device.type, enabled=False):
        soft_student, soft_teacher = (
            (each.to(torch.promote_types(each.dtype, torch.float32)) / temperature).log_softmax(dim=1)
            for each in (student, teacher.detach())
        )
        summed = F.kl_div(soft_student, soft_teacher, reduction="sum", log_target=True)
    positions = student.numel() / student.shape[1]
    return temperature**2 * summed / positions


class DistillationLoss(nn.Module):
    """``logit_weight * logits + bottleneck_weight * bottleneck``, both by :func:`channel_divergence`.

    It is added to the segmentation loss, whose weight is 1. The bottlenecks are compared at temperature 1. With weights
    of 1 the distillation outweighs the segmentation loss, and students that learn two cases by heart get there later or
    stay behind (``tests/families``); hence the small ones.

    Args:
        temperature: softens the class probabilities. Default 5.
        logit_weight: weight of the logits' term. Default 0.1.
        bottleneck_weight: weight of the bottlenecks' term. Default 0.1.

    Raises:
        ValueError: for a temperature that is not positive, or a weight that is negative or not finite.
    """

    def __init__(self, temperature: float = 5.0, logit_weight: float = 0.1, bottleneck_weight: float = 0.1) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature must be a finite number above 0, got {temperature}.")
        for name, value in (("logit_weight", logit_weight), ("bottleneck_weight", bottleneck_weight)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number, at least 0, got {value}.")
        self.temperature = temperature
        self.logit_weight = logit_weight
        self.bottleneck_weight = bottleneck_weight

    def forward(
        self,
        student_logits: Tensor,
        student_features: Mapping[str, Tensor],
        teacher_logits: Tensor,
        teacher_features: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The loss and its terms.

        Args:
            student_logits: ``(B, K, D, H, W)``.
            student_features: the student's, with the entry ``"bottleneck"``.
            teacher_logits: ``(B, K, D, H, W)``.
            teacher_features: the teacher's, with the same entry.

        Returns:
            Scalars by name: ``distillation``, the weighted sum with its gradient, and before weighting, without
            gradient, ``distillation_logits`` and ``distillation_bottleneck``.

        Raises:
            ValueError: if student and teacher have different shapes.
        """
        logits = channel_divergence(student_logits, teacher_logits, self.temperature)
        bottleneck = channel_divergence(student_features["bottleneck"], teacher_features["bottleneck"])
        return {
            "distillation": self.logit_weight * logits + self.bottleneck_weight * bottleneck,
            "distillation_logits": logits.detach(),
            "distillation_bottleneck": bottleneck.detach(),
        }
