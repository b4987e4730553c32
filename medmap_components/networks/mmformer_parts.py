"""The parts of mmFormer: encoders, modality tokens, fusion and decoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmap_components.networks.blocks import (
    ModalityPreNormConv,
    ModalityReduceConv,
    PointwiseConv,
    PreNormConv,
    mask_latents,
    per_modality,
    select_modalities,
    upsample,
)
from medmap_components.networks.transformer import Transformer

__all__ = ["FusedDecoder", "ModalityDecoder", "ModalityEncoder", "ModalityTokens"]


class EncoderLevel(nn.Module):
    """One level of all modality encoders: ``y = down(x)``, then ``y + conv_2(conv_1(y))``.

    Args:
        modalities: M.
        in_channels: channels of one modality that come in.
        out_channels: channels of one modality that go out.
        first: True for the level that sees the image: no normalisation before, and full size.
    """

    def __init__(self, modalities: int, in_channels: int, out_channels: int, *, first: bool) -> None:
        super().__init__()
        self.down = ModalityPreNormConv(
            modalities, in_channels, out_channels, stride=1 if first else 2, prenorm=not first
        )
        self.conv_1 = ModalityPreNormConv(modalities, out_channels, out_channels)
        self.conv_2 = ModalityPreNormConv(modalities, out_channels, out_channels)

    def forward(self, x: Tensor, present: Sequence[int] | None) -> Tensor:
        """``(B, P * C, D, H, W)`` to ``(B, P * K, d, h, w)`` for the P modalities in ``present``."""
        x = self.down(x, present)
        residual: Tensor = self.conv_2(self.conv_1(x, present), present)
        return x + residual


class ModalityEncoder(nn.Module):
    """One convolutional encoder per modality, all in grouped convolutions.

    Args:
        modalities: M.
        channels: width of each level, finest first; every level after the first halves the size.
    """

    def __init__(self, modalities: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.modalities = modalities
        before = (1, *channels[:-1])
        self.levels = nn.ModuleDict(
            {
                str(number): EncoderLevel(modalities, before[number - 1], width, first=number == 1)
                for number, width in enumerate(channels, start=1)
            }
        )

    def forward(self, x: Tensor, present: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """Encode an image.

        Args:
            x: ``(B, M, D, H, W)``.
            present: indices of the modalities to encode; the latents of the others are zeros. None: all.

        Returns:
            One latent ``(B, M, C, d, h, w)`` per level, finest first.
        """
        features = select_modalities(x, present)
        latents = []
        for level in self.levels.values():
            features = level(features, present)
            latents.append(per_modality(features, present, self.modalities))
        return tuple(latents)


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


class ModalityFusion(nn.Module):
    """Fuse the latents of one level: 1x1x1 over all modalities, 3x3x3 with zero padding, 1x1x1; all pre-norm.

    Args:
        modalities: M.
        channels: C of one modality, and of the result.
    """

    def __init__(self, modalities: int, channels: int) -> None:
        super().__init__()
        self.reduce = ModalityReduceConv(modalities, channels, channels)
        self.mix = PreNormConv(channels, channels, 3, padding_mode="zeros")
        self.out = PreNormConv(channels, channels, 1)

    def forward(self, latents: Tensor, mask: Tensor | None = None, present: Sequence[int] | None = None) -> Tensor:
        """Fuse latents; those of hidden modalities count as zeros.

        Args:
            latents: ``(B, M, C, d, h, w)``.
            mask: bool ``(B, M)``, False for hidden modalities; None when all are to be used as they are.
            present: indices of the modalities that at least one sample of the batch shows. The others are left out,
                which changes nothing: the instance norm of zeros is zero, and so is what the convolution adds for it.

        Returns:
            Tensor ``(B, C, d, h, w)``.
        """
        latents = select_modalities(latents, present)
        if mask is not None:
            latents = mask_latents(latents, mask)
        fused: Tensor = self.out(self.mix(self.reduce(latents, present)))
        return fused


class DecoderLevel(nn.Module):
    """One step up: upsample and halve the channels, join with the skip, 3x3x3, 1x1x1; all pre-norm.

    Args:
        channels: C of the level that is reached; the level below has 2 C.
        skip_first: whether the skip comes before the upsampled features in the concatenation, or after them.
    """

    def __init__(self, channels: int, *, skip_first: bool) -> None:
        super().__init__()
        self.skip_first = skip_first
        self.up = PreNormConv(2 * channels, channels)
        self.merge = PreNormConv(2 * channels, channels)
        self.out = PreNormConv(channels, channels, 1)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """``(B, 2 C, d, h, w)`` and the skip ``(B, C, 2d, 2h, 2w)`` to ``(B, C, 2d, 2h, 2w)``."""
        risen = self.up(upsample(below))
        joined = torch.cat((skip, risen) if self.skip_first else (risen, skip), dim=1)
        merged: Tensor = self.out(self.merge(joined))
        return merged


class ModalityDecoder(nn.Module):
    """Segment from one modality alone; its weights serve all modalities. Used in training only.

    Args:
        channels: width of each level, finest first.
        num_classes: K.
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.levels = nn.ModuleDict(
            {
                str(level): DecoderLevel(channels[level - 1], skip_first=False)
                for level in range(len(channels) - 1, 0, -1)
            }
        )
        self.head = PointwiseConv(channels[0], num_classes)

    def forward(self, latents: Sequence[Tensor]) -> Tensor:
        """Latents ``(B, C, d, h, w)`` of one modality, finest first, to logits ``(B, K, D, H, W)``."""
        features = latents[-1]
        for level, decoder in self.levels.items():
            features = decoder(features, latents[int(level) - 1])
        logits: Tensor = self.head(features)
        return logits


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
            {str(level): ModalityFusion(modalities, width) for level, width in enumerate(channels, start=1)}
        )
        self.levels = nn.ModuleDict(
            {str(level): DecoderLevel(channels[level - 1], skip_first=True) for level in range(depth - 1, 0, -1)}
        )
        self.deep_heads = nn.ModuleDict(
            {str(level): PointwiseConv(channels[level - 1], num_classes) for level in range(2, depth + 1)}
        )
        self.head = PointwiseConv(channels[0], num_classes)

    def forward(
        self, latents: Sequence[tuple[Tensor, Tensor | None, Sequence[int] | None]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Fuse and decode.

        Args:
            latents: for each level, finest first, what :class:`ModalityFusion` takes: latents, mask and indices.

        Returns:
            The logits ``(B, K, D, H, W)``, and the deep-supervision logits by name, finest first; in eval mode, where
            nobody asks for these, an empty dict.
        """
        fused = [fusion(*level) for fusion, level in zip(self.fusion.values(), latents, strict=True)]
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
