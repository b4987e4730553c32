"""The two discriminators of ACN, which judge from which of two networks a segmentation or its features come.

Wang et al., MICCAI 2021; sizes from the authors' code, https://github.com/Wangyixinxin/ACN at 0643c57. Both judge
patches: one logit per patch, positive for the network that sees all modalities.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["EntropyDiscriminator", "FeatureDiscriminator", "self_information"]

NEGATIVE_SLOPE = 0.2


def self_information(logits: Tensor) -> Tensor:
    """How much each class adds to the entropy of a voxel: ``-p log_K(p)`` with ``p`` the softmax over the K classes.

    The map is 0 where the network is certain; its sum over the classes is at most 1. In float32 at least.

    Args:
        logits: ``(B, K, D, H, W)``, before any softmax or sigmoid.

    Returns:
        Tensor of the same shape.
    """
    log_probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities) / math.log(logits.shape[1])


class EntropyDiscriminator(nn.Module):
    """Judges a segmentation by how uncertain it is where: strided convolutions over its :func:`self_information`.

    Convolutions of 4x4x4 voxels with stride 2, LeakyReLU(0.2) between them, widths 64, 128, 256, 512 and 1 as
    published.

    Args:
        num_classes: K. Default 4.
        width: channels of the first convolution, doubled by each further one but the last. Default 64.
        layers: number of convolutions, each of which halves the map. Default 5.

    Raises:
        ValueError: for fewer than 2 layers.
    """

    def __init__(self, num_classes: int = 4, width: int = 64, layers: int = 5) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(f"layers must be at least 2, got {layers}.")
        widths = [num_classes, *(width * 2**layer for layer in range(layers - 1)), 1]
        self.layers = nn.Sequential()
        for fine, coarse in pairwise(widths):
            self.layers.append(nn.Conv3d(fine, coarse, kernel_size=4, stride=2, padding=1))
            self.layers.append(nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))
        del self.layers[-1]
        self.smallest = 2**layers

    def forward(self, logits: Tensor) -> Tensor:
        """Segmentation logits ``(B, K, D, H, W)`` to one logit per patch ``(B, 1, d, h, w)``.

        Raises:
            ValueError: for sides that are too short to be halved by every layer.
        """
        if min(logits.shape[2:]) < self.smallest:
            raise ValueError(
                f"the entropy discriminator halves the segmentation {self.smallest.bit_length() - 1} times and needs "
                f"{self.smallest} voxels along every side, got {tuple(logits.shape[2:])}; use a larger crop_size, or "
                "give the discriminator fewer layers."
            )
        judged: Tensor = self.layers(self_information(logits))
        return judged


class FeatureDiscriminator(nn.Module):
    """Judges bottleneck features: two 3x3x3 convolutions and a strided one, LeakyReLU(0.2) between them.

    Args:
        in_channels: width of the features.
        width: channels of the first convolution; the second has twice as many. Default 256, as published.
    """

    def __init__(self, in_channels: int, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(in_channels, width, kernel_size=3, padding=1),
            nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
            nn.Conv3d(width, 2 * width, kernel_size=3, padding=1),
            nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
            nn.Conv3d(2 * width, 1, kernel_size=3, stride=2, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, C, d, h, w)`` to one logit per patch ``(B, 1, d / 2, h / 2, w / 2)``, rounded up."""
        judged: Tensor = self.layers(features)
        return judged
