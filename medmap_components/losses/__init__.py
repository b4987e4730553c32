"""Losses for segmentation with missing modalities."""

from __future__ import annotations

from medmap_components.losses.adversarial import discrimination_accuracy, discrimination_loss, fooling_loss
from medmap_components.losses.alignment import (
    AlignmentLoss,
    feature_variance,
    gaussian_divergence,
    isotropic_divergence,
    normalised_divergence,
)
from medmap_components.losses.co_training import CoTrainingLoss, consistency_loss, information_loss, ramp_up
from medmap_components.losses.distillation import DistillationLoss, channel_divergence
from medmap_components.losses.missing_modality import MissingModalityLoss
from medmap_components.losses.segmentation import (
    TargetStatistics,
    soft_dice_loss,
    upsampled_softmax,
    weighted_cross_entropy,
)

__all__ = [
    "AlignmentLoss",
    "CoTrainingLoss",
    "DistillationLoss",
    "MissingModalityLoss",
    "TargetStatistics",
    "channel_divergence",
    "consistency_loss",
    "discrimination_accuracy",
    "discrimination_loss",
    "feature_variance",
    "fooling_loss",
    "gaussian_divergence",
    "information_loss",
    "isotropic_divergence",
    "normalised_divergence",
    "ramp_up",
    "soft_dice_loss",
    "upsampled_softmax",
    "weighted_cross_entropy",
]
