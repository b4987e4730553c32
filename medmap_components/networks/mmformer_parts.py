"""The parts of mmFormer beside its encoders: modality tokens and the fused decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmap_components.networks.blocks import PointwiseConv
from medmap_components.networks.modality_parts import DecoderLevel, FusionInput, StackFusion
from medmap_components.networks.transformer import Transformer

__all__ = ["FusedDecoder", "ModalityTokens"]


class ModalityTokens(nn.Module):
    """One modality's tokens: a linear embedding, a learned position table and a transformer within the modality.

    Args:
        channels: C of the deepest latent.
        tokens: N, the number of its voxels.
        embed_dim: E.
        transformer: the transformer within the modality.
    """

    def __init__(self, channels: int, tokens: int, embed_dim: int, transformer: Transformer) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, embed_dim)
        nn.init.kaiming_normal_(self.embed.weight)
        self.position = nn.Parameter(torch.zeros(1, tokens, embed_dim))
        self.transformer = transformer

    def forward(self, latent: Tensor) -> Tensor:
        """``(B, C, d, h, w)`` to tokens ``(B, N, E)``, in raster order of the voxels."""
        tokens: Tensor = self.transformer(self.embed(latent.flatten(2).transpose(1, 2)), self.position)
        return tokens


class FusedDecoder(nn.Module):
    """Fuse the modalities at every level and decode them, with a deep-supervision head at each coarser level.

    Args:
        modalities: M.
        channels: width of each level, finest first.
        num_classes: K.
    """

    def __init__(self, modalities: int, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        depth = len(channels)
        self.fusion = nn.ModuleDict(
            {
                str(level): StackFusion(modalities, width, width, width, norm="pre", padding_mode="zeros")
                for level, width in enumerate(channels, start=1)
            }
        )
        self.levels = nn.ModuleDict(
            {
                str(level): DecoderLevel(channels[level - 1], norm="pre", skip_first=True)
                for level in range(depth - 1, 0, -1)
            }
        )
        self.deep_heads = nn.ModuleDict(
            {str(level): PointwiseConv(channels[level - 1], num_classes) for level in range(2, depth + 1)}
        )
        self.head = PointwiseConv(channels[0], num_classes)

    def forward(self, latents: Sequence[FusionInput]) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuse and decode.

        Args:
            latents: one per level, finest first.

        Returns:
            The logits ``(B, K, D, H, W)``, and the deep-supervision logits by name, finest first; in eval mode, where
            nobody asks for these, an empty dict.
        """
        fused = [
            fusion(level.visible(), level.present) for fusion, level in zip(self.fusion.values(), latents, strict=True)
        ]
        features = fused.pop()
        by_level = {len(latents): features}
        for level, decoder in self.levels.items():
            features = decoder(features, fused.pop())
            by_level[int(level)] = features
        deep: dict[str, Tensor] = {}
        if self.training:
            deep = {
                f"deep_{2 ** (int(level) - 1)}": head(by_level[int(level)]) for level, head in self.deep_heads.items()
            }
        return self.head(features), deep
