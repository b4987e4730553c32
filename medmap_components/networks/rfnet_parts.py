"""The parts of RFNet beside its encoders: probability maps, region-aware fusion and the fused decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmap_components.networks.blocks import NEGATIVE_SLOPE, ConvUnit, PointwiseConv
from medmap_components.networks.modality_parts import DecoderLevel, FusionInput, StackFusion

__all__ = ["FusedDecoder", "ProbabilityMaps", "RegionAwareFusion", "RegionWeights"]

MAP_WIDTH = 16
"""Channels in front of the last layer of the probability maps, at every level."""

WEIGHT_WIDTH = 128
"""Hidden units of the networks that weigh the modalities."""

EPS = 1e-7


class ProbabilityMaps(nn.Module):
    """A first segmentation at one level, from its modalities and the decoder's features, to tell the regions apart.

    Args:
        modalities: M.
        channels: C of one modality, divisible by 4.
        num_classes: K.
        deepest: True for the level below which there are no features.
    """

    def __init__(self, modalities: int, channels: int, num_classes: int, *, deepest: bool) -> None:
        super().__init__()
        self.embed = StackFusion(modalities, channels, channels // 4, channels, norm="post")
        self.hidden = ConvUnit(channels if deepest else 2 * channels, MAP_WIDTH, 1, norm="post")
        self.head = PointwiseConv(MAP_WIDTH, num_classes)

    def forward(self, latents: Tensor, present: Sequence[int] | None, risen: Tensor | None) -> Tensor:
        """Logits of the maps.

        Args:
            latents: ``(B, P, C, d, h, w)`` of the modalities in ``present``.
            present: indices of these modalities; None for all M.
            risen: the decoder's features ``(B, C, d, h, w)``; None at the deepest level.

        Returns:
            Tensor ``(B, K, d, h, w)``.
        """
        features = self.embed(latents, present)
        if risen is not None:
            features = torch.cat((risen, features), dim=1)
        logits: Tensor = self.head(self.hidden(features))
        return logits


class RegionWeights(nn.Module):
    """The weight of every modality in every region, from the mean of its features there; one network per region.

    Args:
        modalities: M.
        channels: C of one modality.
        regions: R.
    """

    def __init__(self, modalities: int, channels: int, regions: int) -> None:
        super().__init__()
        self.modalities = modalities
        self.hidden = nn.Conv3d(regions * (modalities * channels + 1), regions * WEIGHT_WIDTH, 1, groups=regions)
        self.out = nn.Conv3d(regions * WEIGHT_WIDTH, regions * modalities, 1, groups=regions)

    def forward(self, latents: Tensor, present: Sequence[int] | None, regions: Tensor) -> Tensor:
        """Weights in (0, 1), computed in float32 at least, under autocast too: the means run over all voxels.

        Args:
            latents: ``(B, P, C, d, h, w)`` of the modalities in ``present``; the features of the others count as zeros.
            present: indices of these modalities; None for all M.
            regions: the probability of each region ``(B, R, d, h, w)``.

        Returns:
            Tensor ``(B, R, P)``.
        """
        batch, shown, channels = latents.shape[:3]
        region_count = regions.shape[1]
        dtype = torch.promote_types(latents.dtype, torch.float32)
        with torch.autocast(latents.device.type, enabled=False):
            flat = regions.to(dtype).flatten(2)
            share = flat.mean(dim=2, keepdim=True) + EPS
            means = torch.matmul(flat, latents.to(dtype).flatten(3).flatten(1, 2).transpose(1, 2)) / flat.shape[2]
            means = (means / share).view(batch, region_count, shown, channels)
            if present is not None:
                everything = means.new_zeros(batch, region_count, self.modalities, channels)
                everything[:, :, list(present)] = means
                means = everything
            known = torch.cat((means.flatten(2), share), dim=2).view(batch, -1, 1, 1, 1)
            hidden = F.leaky_relu(self.hidden(known.to(self.hidden.weight.dtype)), NEGATIVE_SLOPE)
            weights: Tensor = self.out(hidden).sigmoid().view(batch, region_count, self.modalities)
        return weights if present is None else weights[:, :, list(present)]


class RegionAwareFusion(nn.Module):
    """Fuse the modalities of one level region by region, beside a plain fusion of all that is there.

    Args:
        modalities: M.
        channels: C of one modality, and of the result.
        regions: R.
    """

    def __init__(self, modalities: int, channels: int, regions: int) -> None:
        super().__init__()
        self.weights = RegionWeights(modalities, channels, regions)
        self.by_region = StackFusion(regions, channels, channels, channels // 2, norm="post")
        self.short_cut = StackFusion(modalities, channels, channels, channels // 2, norm="post")

    def forward(self, latents: Tensor, present: Sequence[int] | None, regions: Tensor) -> Tensor:
        """Fuse.

        A region's features are ``p_r * sum_m w_rm z_m``: weighing comes before the product with its probability, so
        that no map of every modality in every region is ever made.

        Args:
            latents: ``(B, P, C, d, h, w)`` of the modalities in ``present``.
            present: indices of these modalities; None for all M.
            regions: the probability of each region ``(B, R, d, h, w)``.

        Returns:
            Tensor ``(B, C, d, h, w)``.
        """
        weights = self.weights(latents, present, regions)
        mixed = torch.matmul(weights.to(latents.dtype), latents.flatten(2))
        mixed = mixed.view(*regions.shape[:2], *latents.shape[2:])
        mixed.mul_(regions.to(mixed.dtype).unsqueeze(2))
        return torch.cat((self.by_region(mixed), self.short_cut(latents, present)), dim=1)


class FusedDecoder(nn.Module):
    """Decode level by level: probability maps, region-aware fusion by them, then one step up.

    Args:
        modalities: M.
        channels: width of each level, finest first.
        num_classes: K, also the number of regions.
    """

    def __init__(self, modalities: int, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        depth = len(channels)
        self.maps = nn.ModuleDict(
            {
                str(level): ProbabilityMaps(modalities, width, num_classes, deepest=level == depth)
                for level, width in enumerate(channels, start=1)
            }
        )
        self.fusion = nn.ModuleDict(
            {
                str(level): RegionAwareFusion(modalities, width, num_classes)
                for level, width in enumerate(channels, start=1)
            }
        )
        self.levels = nn.ModuleDict(
            {
                str(level): DecoderLevel(channels[level - 1], norm="post", skip_first=True)
                for level in range(depth - 1, 0, -1)
            }
        )
        self.head = PointwiseConv(channels[0], num_classes)

    def forward(self, latents: Sequence[FusionInput]) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuse and decode.

        Args:
            latents: one per level, finest first.

        Returns:
            The logits ``(B, K, D, H, W)``, and the logits of the probability maps by name, finest first; in eval mode,
            where nobody asks for these, an empty dict.
        """
        deepest = len(latents)
        features, maps = self._fuse(deepest, latents[-1], None)
        deep = {f"deep_{2 ** (deepest - 1)}": maps}
        for level, module in self.levels.items():
            decoder = cast(DecoderLevel, module)
            risen = decoder.rise(features)
            fused, maps = self._fuse(int(level), latents[int(level) - 1], risen)
            features = decoder.join(risen, fused)
            deep[f"deep_{2 ** (int(level) - 1)}"] = maps
        return self.head(features), dict(reversed(deep.items())) if self.training else {}

    def _fuse(self, level: int, latents: FusionInput, risen: Tensor | None) -> tuple[Tensor, Tensor]:
        """The fused features of a level and the logits of its maps, which learn from their own loss alone."""
        visible = latents.visible()
        maps: Tensor = self.maps[str(level)](visible, latents.present, risen)
        return self.fusion[str(level)](visible, latents.present, maps.detach().softmax(dim=1)), maps
