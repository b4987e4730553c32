"""The segmentation network of ACN, adversarial co-training, behind stems per modality."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from medmap_components.modalities import MODALITIES
from medmap_components.networks.anchors import Anchor
from medmap_components.networks.blocks import PointwiseConv
from medmap_components.networks.early_fusion import BodyOutput, EarlyFusionNetwork
from medmap_components.networks.same_conv import SameConv3d

__all__ = ["ACN", "GroupNormBlock"]

BLOCKS = (1, 2, 2, 4)
"""Residual blocks of each encoder level, from full size to an eighth of it; the decoder has one per level."""


class GroupNormBlock(nn.Module):
    """A residual block that keeps width and size: twice group norm, ReLU, 3x3x3 convolution with bias.

    MONAI's ``ResBlock`` is the same without the biases, which group norm does not take out.

    Args:
        channels: C.
        groups: groups of each normalisation; must divide C.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = SameConv3d(channels, channels)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.conv2 = SameConv3d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` to the same shape."""
        branch: Tensor = self.conv1(F.relu(self.norm1(x), inplace=True))
        branch = self.conv2(F.relu(self.norm2(branch), inplace=True))
        return x + branch


class UpsamplingStep(nn.Module):
    """One step of the decoder: a 1x1x1 convolution, twice the size by repetition, plus the skip, then a block.

    Args:
        in_channels: C.
        out_channels: K, the width of the skip.
        groups: see :class:`GroupNormBlock`.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.reduce = PointwiseConv(in_channels, out_channels)
        self.block = GroupNormBlock(out_channels, groups)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """``(B, C, d, h, w)`` and a skip ``(B, K, 2d, 2h, 2w)`` to the shape of the skip."""
        x = F.interpolate(self.reduce(x), scale_factor=2.0, mode="nearest")
        refined: Tensor = self.block(x + skip)
        return refined


class ACN(EarlyFusionNetwork):
    """The network that ACN trains twice: one copy sees all modalities, the other those that are left.

    Wang et al., "ACN: Adversarial Co-training Network for Brain Tumor Segmentation with Missing Modalities", MICCAI
    2021; facts of the architecture from the authors' code, https://github.com/Wangyixinxin/ACN at 0643c57. A U-Net of
    residual blocks with group norm (1, 2, 2 and 4 at its four levels), strided convolutions down, repetition and
    addition up, and dropout on the bottleneck. This class is either path; it is the missing path whose weights a bundle
    holds, and which segments by itself. Both together are a
    :class:`~medmap_components.networks.CoTrainedPair`.

    Differences from the published code:

    - One network serves all 15 subsets; theirs has one input channel and is trained anew for every subset. So the
      images enter through stems per modality, whose latents an anchor aligns.
    - Four classes with softmax outside; theirs gives sigmoid maps and applies softmax to these for its discriminator.
    - The branch of a variational autoencoder is left out: in theirs it is computed, but no loss ever trains it.
    - The head for the transfer of mutual information belongs to the pair, not to the network.

    In training mode ``TrainingOutput.features["bottleneck"]`` holds the deepest features before dropout,
    ``(B, 8 * base_channels, D / 8, H / 8, W / 8)``.

    Args:
        stem_channels: width of each modality's stem. Default 4.
        base_channels: width at full size, doubled at each of three further levels. Default 16, as published.
        groups: groups of each normalisation; must divide ``base_channels``. Default 8, as published.
        dropout_rate: share of the bottleneck's features that training drops. Default 0.2, as published.
        num_classes: classes of the logits. Default 4.
        anchor: aligns the stems and replaces absent modalities there. None: no alignment, zeros.

    Raises:
        ValueError: for ``groups`` that do not divide ``base_channels``, a ``dropout_rate`` outside [0, 1), or an anchor
            that aligns another level than 1.
    """

    def __init__(
        self,
        stem_channels: int = 4,
        base_channels: int = 16,
        groups: int = 8,
        dropout_rate: float = 0.2,
        num_classes: int = 4,
        anchor: Anchor | None = None,
    ) -> None:
        if groups < 1 or base_channels < 1 or base_channels % groups:
            raise ValueError(
                f"groups must divide base_channels, got groups={groups} and base_channels={base_channels}; "
                "narrow networks need fewer groups."
            )
        if not 0 <= dropout_rate < 1:
            raise ValueError(f"dropout_rate must be at least 0 and below 1, got {dropout_rate}.")
        super().__init__(stem_channels, 2 ** (len(BLOCKS) - 1), anchor)
        widths = [base_channels * 2**level for level in range(len(BLOCKS))]
        self.first = SameConv3d(len(MODALITIES) * stem_channels, base_channels)
        self.encoder = nn.ModuleList(
            nn.Sequential(*(GroupNormBlock(width, groups) for _ in range(number)))
            for width, number in zip(widths, BLOCKS, strict=True)
        )
        self.down = nn.ModuleList(
            nn.Conv3d(fine, coarse, kernel_size=3, stride=2, padding=1) for fine, coarse in pairwise(widths)
        )
        self.dropout = nn.Dropout(dropout_rate)
        self.up = nn.ModuleList(UpsamplingStep(coarse, fine, groups) for fine, coarse in pairwise(widths))
        self.head = PointwiseConv(base_channels, num_classes)
        self.bottleneck_channels = widths[-1]

    def body(self, fused: Tensor) -> BodyOutput:
        """See :meth:`EarlyFusionNetwork.body`; the feature is called ``"bottleneck"``."""
        x = self.encoder[0](self.first(fused))
        skips = []
        for down, blocks in zip(self.down, self.encoder[1:], strict=True):
            skips.append(x)
            x = blocks(down(x))
        features = {"bottleneck": x} if self.training else {}
        x = self.dropout(x)
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = up(x, skip)
        return BodyOutput(self.head(x), {}, features)
