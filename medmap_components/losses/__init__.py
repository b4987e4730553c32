"""Losses for segmentation with missing modalities."""

from __future__ import annotations

from medmap_components.losses.alignment import (
    AlignmentLoss,
    feature_variance,
    gaussian_divergence,
    isotropic_divergence,
)
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
    "DistillationLoss",
    "MissingModalityLoss",
    "TargetStatistics",
    "channel_divergence",
    "feature_variance",
    "gaussian_divergence",
    "isotropic_divergence",
    "soft_dice_loss",
    "upsampled_softmax",
    "weighted_cross_entropy",
]
