"""Every family can learn two phantom cases by heart, with its own trainer and losses.

A network or a loss that is wired wrongly rarely gets there. The slow test trains until the whole tumour is found in
both cases with all modalities (Dice above 0.9); the fast one takes a few steps and sees the loss fall.

To add a backbone, write a function that trains a narrow one for some epochs and gives the network that inference would
use and the loss of each epoch, and add it to ``BACKBONES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.handlers import LrScheduleHandler
from torch import Tensor, nn

from medmap_components.data.phantom import make_phantom_case
from medmap_components.engines import DistillationTrainer, MissingModalityTrainer, TeacherStage
from medmap_components.losses import DistillationLoss, MissingModalityLoss
from medmap_components.metrics import region_dice
from medmap_components.modalities import MODALITIES
from medmap_components.networks import AdaptiveMixAnchor, KDNet, UNet

Batches = Sequence[dict[str, Tensor]]
SEEDS = (1, 3)
"""Two phantom cases whose tumours are large enough for the coarse grid: 861 and 428 voxels."""


@pytest.fixture(scope="module")
def batches() -> Batches:
    """One batch with both cases, 32 x 32 x 32 voxels of 6 mm, every modality normalised over the brain."""
    images, labels = [], []
    for seed in SEEDS:
        case = make_phantom_case(seed, (32, 32, 32), spacing=6.0)
        image = np.stack([case.images[name] for name in MODALITIES]).astype(np.float32)
        brain = image > 0
        for channel, inside in zip(image, brain, strict=True):
            channel[inside] = (channel[inside] - channel[inside].mean()) / channel[inside].std()
        images.append(torch.from_numpy(image))
        labels.append(torch.from_numpy(np.where(case.label == 4, 3, case.label)).unsqueeze(0))
    return [{"image": torch.stack(images), "label": torch.stack(labels)}]


def settings(network: nn.Module, batches: Batches, epochs: int, losses: list[float]) -> dict[str, Any]:
    """What all trainers have in common: Adam whose learning rate falls to 0; ``losses`` collects that of each epoch."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=epochs, power=0.9)

    class Losses:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: losses.append(e.state.metrics["loss"]))

    return {
        "device": "cpu",
        "max_epochs": epochs,
        "train_data_loader": batches,
        "network": network,
        "optimizer": optimizer,
        "loss_function": MissingModalityLoss(alignment_weight=0.1),
        "train_handlers": [LrScheduleHandler(schedule, print_lr=False), Losses()],
    }


Trained = tuple[nn.Module, list[float]]


def train_unet(batches: Batches, epochs: int, folder: str) -> Trained:
    network = UNet(stem_channels=4, filters=(8, 16, 32), anchor=AdaptiveMixAnchor())
    losses: list[float] = []
    MissingModalityTrainer(**settings(network, batches, epochs, losses)).run()
    return network, losses


def train_kdnet(batches: Batches, epochs: int, folder: str) -> Trained:
    teacher, student = (KDNet(stem_channels=4, filters=(8, 16, 32), anchor=AdaptiveMixAnchor()) for _ in range(2))
    losses: list[float] = []
    first = MissingModalityTrainer(**settings(teacher, batches, epochs, []))
    TeacherStage(first, teacher, f"{folder}/teacher.pt", f"{folder}/last.pt").run()
    second = settings(student, batches, epochs, losses)
    DistillationTrainer(teacher=teacher, distillation_loss=DistillationLoss(), **second).run()
    return student, losses


BACKBONES: dict[str, Callable[[Batches, int, str], Trained]] = {"unet": train_unet, "kdnet": train_kdnet}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_two_phantom_cases_are_learned_by_heart(backbone, batches, tmp_path):
    torch.manual_seed(0)
    network, _ = BACKBONES[backbone](batches, 120, str(tmp_path))
    with torch.inference_mode():
        logits = network.eval()(batches[0]["image"])
    dice = [region_dice(*pair) for pair in zip(logits, batches[0]["label"], strict=True)]
    assert all(case["WT"] > 0.9 for case in dice), dice


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_falls_to_half_in_a_few_steps(backbone, batches, tmp_path):
    torch.manual_seed(0)
    _, losses = BACKBONES[backbone](batches, 15, str(tmp_path))
    assert len(losses) == 15
    assert losses[-1] < losses[0] / 2
