"""The two sides of a comparison: a network of the package, and a foreign one."""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medmap_components import networks
from medmap_components.losses import MissingModalityLoss, TargetStatistics, soft_dice_loss, weighted_cross_entropy
from medmap_components.networks import TrainingOutput

BACKBONES = {"mmformer": "MMFormer", "rfnet": "RFNet", "unet": "UNet", "kdnet": "KDNet", "acn": "ACN"}
ANCHORS = {"base": None, "pn": "NormalAnchor", "pkmix": "FixedMixAnchor", "pmix": "AdaptiveMixAnchor"}
LEARNING_RATE, WEIGHT_DECAY = 2e-4, 1e-4


@dataclass(frozen=True)
class Side:
    """What one side runs, and how.

    Attributes:
        label: its name in the table.
        network: a key of ``BACKBONES``, or ``MODULE:CLASS``.
        search_path: folder to import a foreign module from; None if it can be imported anyway.
        anchor: a key of ``ANCHORS``; without effect on a foreign network.
        size: side of the cube.
        batch: samples.
        threads: CPU threads.
        device: a torch device.
        amp: bfloat16 autocast.
        compiled: ``torch.compile``.
        tuned: whether the memory allocator is tuned.
    """

    label: str
    network: str
    search_path: str | None
    anchor: str
    size: int
    batch: int
    threads: int
    device: str
    amp: bool
    compiled: bool
    tuned: bool
    subsets_per_batch: int = 1

    @property
    def is_foreign(self) -> bool:
        """Whether the network comes from elsewhere."""
        return ":" in self.network


def available() -> list[str]:
    """The backbones that the package has."""
    return [name for name, attribute in BACKBONES.items() if hasattr(networks, attribute)]


def build(side: Side) -> nn.Module:
    """The network of a side, with random weights.

    Raises:
        ValueError: for a foreign network that is not there.
    """
    if side.is_foreign:
        return _foreign(side.network, side.search_path)
    made = getattr(networks, BACKBONES[side.network])
    anchor = ANCHORS[side.anchor]
    arguments: dict[str, Any] = {"anchor": getattr(networks, anchor)() if anchor else None}
    if "img_size" in inspect.signature(made).parameters:
        arguments["img_size"] = side.size
    network: nn.Module = made(**arguments)
    return network


def set_training(network: nn.Module, training: bool) -> None:
    """Switch a network, and the attribute ``is_training`` that some published ones have in addition."""
    network.train(training)
    if hasattr(network, "is_training"):
        network.is_training = training


def optimizer_of(network: nn.Module, foreign: bool) -> torch.optim.Optimizer:
    """Adam as the published backbones use it; ours in torch's fused form, as in the bundles."""
    return torch.optim.Adam(
        network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, amsgrad=True, fused=None if foreign else True
    )


def training_loss(output: Any, target: Tensor) -> Tensor:
    """The loss of what a network returned in training mode.

    A :class:`TrainingOutput` gets the package's loss. A foreign network's probability maps, in tuples however nested,
    get the published loss: weighted cross-entropy plus soft Dice, with what the loss needs of the label map computed
    anew for every one.
    """
    if isinstance(output, TrainingOutput):
        return MissingModalityLoss()(output, target)["loss"]
    costs = []
    for probabilities in _flat(output):
        statistics = TargetStatistics.from_labels(target, probabilities.shape[1])
        costs += [weighted_cross_entropy(probabilities.float(), statistics)]
        costs += [soft_dice_loss(probabilities.float(), statistics)]
    return torch.stack(costs).sum()


def _flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [found for part in output for found in _flat(part)]


def _foreign(name: str, search_path: str | None) -> nn.Module:
    if search_path is not None:
        sys.path.insert(0, search_path)
    module, _, attribute = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"--baseline {name} cannot be imported ({error}); give MODULE:CLASS, and the folder that holds the module "
            "by --baseline_path."
        ) from error
    network: nn.Module = made()
    return network
