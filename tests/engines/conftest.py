"""A network with an anchor that is small enough to check by hand, and batches for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from medmap_components.engines import MissingModalityTrainer
from medmap_components.losses import MissingModalityLoss
from medmap_components.modalities import MODALITIES
from medmap_components.networks import AdaptiveMixAnchor, Anchor, TrainingOutput


class TinyNetwork(nn.Module):
    """One convolution as encoder of all modalities, one as decoder of the fusion, one as decoder of each modality."""

    def __init__(self, anchor: Anchor) -> None:
        super().__init__()
        self.anchor = anchor
        self.encoder = nn.Conv3d(1, 3, 1)
        self.decoder = nn.Conv3d(12, 4, 1)
        self.modality_decoder = nn.Conv3d(3, 4, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None, exists: Tensor | None = None) -> Tensor | TrainingOutput:
        mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        exists = mask if exists is None else exists
        latents = self.encoder(x.flatten(0, 1).unsqueeze(1)).unflatten(0, x.shape[:2])
        logits = self.decoder(self.anchor.fill_absent(latents, mask, 1).flatten(1, 2))
        if not self.training:
            return logits
        alone = {name: self.modality_decoder(latents[:, index]) for index, name in enumerate(MODALITIES)}
        aligned = {"level_1": self.anchor.align(latents, exists, 1)}
        return TrainingOutput(logits, {"deep_2": logits[..., ::2, ::2, ::2]}, alone, aligned, mask, exists)


ACCUMULATES = "accumulation_steps" in inspect.signature(SupervisedTrainer).parameters
needs_accumulation = pytest.mark.skipif(not ACCUMULATES, reason="MONAI accumulates gradients from 1.6 on")


def make_batch(
    seed: int, mask: list[list[int]], exists: list[list[int]] | None = None, side: int = 4
) -> dict[str, Tensor]:
    """Noise and random labels of 4 x 4 x 4 voxels, with masks in the meta data as after collation."""
    random = torch.Generator().manual_seed(seed)
    meta = {
        "modality_mask": torch.tensor(mask).bool(),
        "modality_exists": torch.tensor(exists or [[1] * 4] * len(mask)).bool(),
    }
    image = MetaTensor(torch.randn(len(mask), 4, side, side, side, generator=random), meta=meta)
    return {"image": image, "label": torch.randint(0, 4, (len(mask), 1, side, side, side), generator=random)}


@pytest.fixture
def batch() -> Callable[..., dict[str, Tensor]]:
    return make_batch


@pytest.fixture
def network() -> TinyNetwork:
    torch.manual_seed(0)
    network = TinyNetwork(AdaptiveMixAnchor())
    with torch.no_grad():
        network.anchor.theta.copy_(torch.tensor([[0.5, -0.2, 0.1, 0.3]]))
    return network


@pytest.fixture
def trainer(network: TinyNetwork) -> Callable[..., MissingModalityTrainer]:
    """Makes a trainer over a list of batches."""

    def make(batches, learning_rate: float = 0.1, alignment_weight: float = 0.5, **kwargs) -> MissingModalityTrainer:
        return MissingModalityTrainer(
            **{
                "device": "cpu",
                "max_epochs": 1,
                "train_data_loader": batches,
                "epoch_length": len(batches),
                "network": network,
                "optimizer": torch.optim.SGD(network.parameters(), lr=learning_rate),
                "loss_function": MissingModalityLoss(alignment_weight=alignment_weight),
                **kwargs,
            }
        )

    return make
