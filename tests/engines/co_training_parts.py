"""A pair, its adversaries and a trainer that are small enough for a test."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medmap_components.engines import Adversary, CoTrainingTrainer
from medmap_components.losses import CoTrainingLoss
from medmap_components.networks import (
    ACN,
    AdaptiveMixAnchor,
    CoTrainedPair,
    EntropyDiscriminator,
    FeatureDiscriminator,
)

NARROW = {"stem_channels": 2, "base_channels": 4, "groups": 2, "dropout_rate": 0.0}


def make_pair(**kwargs) -> CoTrainedPair:
    return CoTrainedPair(*(ACN(**{**NARROW, "anchor": AdaptiveMixAnchor(), **kwargs}) for _ in range(2)))


def make_adversary(discriminator: nn.Module, learning_rate: float = 0.01) -> Adversary:
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    return Adversary(discriminator, optimizer)


def make_adversaries(pair: CoTrainedPair) -> dict[str, Adversary]:
    return {
        "entropy_adversary": make_adversary(EntropyDiscriminator(width=2, layers=3)),
        "feature_adversary": make_adversary(FeatureDiscriminator(pair.missing.bottleneck_channels, width=2)),
    }


def make_trainer(pair: CoTrainedPair, batches: list[dict[str, Tensor]], **kwargs) -> CoTrainingTrainer:
    return CoTrainingTrainer(
        **{
            "device": "cpu",
            "max_epochs": 1,
            "train_data_loader": batches,
            "epoch_length": len(batches),
            "network": pair,
            "optimizer": torch.optim.SGD(pair.parameters(), lr=0.01),
            "loss_function": CoTrainingLoss(alignment_weight=0.5),
            **make_adversaries(pair),
            **kwargs,
        }
    )
