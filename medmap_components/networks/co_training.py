"""Two networks that are trained side by side: one sees all modalities, the other learns to do without some."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medmap_components.networks.acn import ACN
from medmap_components.networks.blocks import instance_norm
from medmap_components.networks.outputs import TrainingOutput

__all__ = ["CoTrainedPair", "CoTrainingOutput", "InformationHead"]

INITIAL_VARIANCE = 5.0
VARIANCE_FLOOR = 1e-5


class CoTrainingOutput(NamedTuple):
    """What a :class:`CoTrainedPair` hands to its loss.

    Attributes:
        full: of the path that sees every modality that exists.
        missing: of the path that sees what modality dropout left.
        mean: the full path's bottleneck, standardised, as predicted from the missing path's, ``(B, C, d, h, w)``.
        variance: of that prediction, ``(C,)``.
    """

    full: TrainingOutput
    missing: TrainingOutput
    mean: Tensor
    variance: Tensor

    @property
    def logits(self) -> Tensor:
        """The logits of the missing path, which is the one that segments in the end."""
        return self.missing.logits


class InformationHead(nn.Module):
    """Predicts the features of one network from those of another, as Gaussians with one variance per channel.

    Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019: three 1x1x1 convolutions
    without bias, ReLU between them, give the mean; the variance is ``softplus(log_scale) + 1e-5``, 5 at first. The
    better the prediction, the larger a lower bound of the mutual information of the two.

    It predicts from and to features that are standardised per sample and channel, which leaves their mutual information
    as it is. ACN's bottleneck is a sum of residuals that nothing bounds; as it stands, it makes the loss a hundred
    times larger than the rest together within a few epochs.

    Args:
        in_channels: width of the features to predict from.
        out_channels: C, width of the features to predict.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv3d(in_channels, out_channels, kernel_size=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv3d(out_channels, out_channels, kernel_size=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv3d(out_channels, out_channels, kernel_size=1, bias=False),
        )
        initial = math.log(math.expm1(INITIAL_VARIANCE - VARIANCE_FLOOR))
        self.log_scale = nn.Parameter(torch.full((out_channels,), initial))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(B, in_channels, d, h, w)`` to the mean ``(B, C, d, h, w)`` and the variance ``(C,)``."""
        return self.regressor(instance_norm(features)), nn.functional.softplus(self.log_scale) + VARIANCE_FLOOR


class CoTrainedPair(nn.Module):
    """ACN's full path, its missing path, and the head through which the first teaches the second.

    One module, so that one optimiser and one DistributedDataParallel wrapper serve all that is trained together; every
    parameter takes part in every step. Only the missing path is needed afterwards.

    Args:
        full: sees every modality that exists.
        missing: sees the modalities that modality dropout left. A network of its own, never the same object.

    Raises:
        ValueError: if both are one object.
    """

    def __init__(self, full: ACN, missing: ACN) -> None:
        super().__init__()
        if full is missing:
            raise ValueError("full and missing are the same network; co-training needs two with weights of their own.")
        self.full = full
        self.missing = missing
        self.head = InformationHead(missing.bottleneck_channels, full.bottleneck_channels)

    def forward(self, x: Tensor, mask: Tensor | None = None, exists: Tensor | None = None) -> CoTrainingOutput:
        """Runs both paths; for training mode alone.

        Args:
            x: ``(B, M, D, H, W)`` in the order of ``MODALITIES``.
            mask: bool ``(B, M)``, the modalities that the missing path sees. None: those that exist.
            exists: bool ``(B, M)``, the modalities that the full path sees. None: those in ``mask``, and all of them
                when that is None too.

        Raises:
            ValueError: in eval mode; and as the networks do.
        """
        if not self.training:
            raise ValueError(
                "a CoTrainedPair is for training only; to segment, use its missing path, a network by itself."
            )
        missing = self.missing(x, mask, exists)
        full = self.full(x, missing.exists, missing.exists)
        return CoTrainingOutput(full, missing, *self.head(missing.features["bottleneck"]))
