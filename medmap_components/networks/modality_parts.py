"""Parts that the networks with one encoder per modality share: encoders, fusion, and the decoder of one modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from medmap_components.networks.blocks import (
    ConvUnit,
    ModalityConvUnit,
    ModalityReduceConv,
    NormOrder,
    PointwiseConv,
    mask_latents,
    per_modality,
    select_modalities,
)
from medmap_components.networks.same_conv import is_large

__all__ = ["DecoderLevel", "FusionInput", "ModalityDecoder", "ModalityEncoder", "StackFusion"]


class FusionInput(NamedTuple):
    """The latents of one level on their way into the fusion, and which of them it may see.

    Attributes:
        latents: ``(B, M, C, d, h, w)``.
        mask: bool ``(B, P)``, False for the modalities in ``present`` that a sample hides; None when it hides none.
        present: indices of the P modalities that at least one sample shows; None for all.
    """

    latents: Tensor
    mask: Tensor | None = None
    present: Sequence[int] | None = None

    def visible(self) -> Tensor:
        """The latents ``(B, P, C, d, h, w)`` of the modalities in ``present``, zeros where a sample hides one."""
        latents = select_modalities(self.latents, self.present)
        return latents if self.mask is None else mask_latents(latents, self.mask)


class EncoderLevel(nn.Module):
    """One level of all modality encoders: ``y = down(x)``, then ``y + conv_2(conv_1(y))``.

    Args:
        modalities: M.
        in_channels: channels of one modality that come in.
        out_channels: channels of one modality that go out.
        norm: order of normalisation and convolution.
        first: True for the level that sees the image: full size, and never a normalisation of the image itself.
    """

    def __init__(self, modalities: int, in_channels: int, out_channels: int, *, norm: NormOrder, first: bool) -> None:
        super().__init__()
        self.down = ModalityConvUnit(
            modalities,
            in_channels,
            out_channels,
            norm=None if first and norm == "pre" else norm,
            stride=1 if first else 2,
        )
        self.conv_1 = ModalityConvUnit(modalities, out_channels, out_channels, norm=norm)
        self.conv_2 = ModalityConvUnit(modalities, out_channels, out_channels, norm=norm)

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
        norm: order of normalisation and convolution.
    """

    def __init__(self, modalities: int, channels: Sequence[int], *, norm: NormOrder) -> None:
        super().__init__()
        self.modalities = modalities
        before = (1, *channels[:-1])
        self.levels = nn.ModuleDict(
            {
                str(number): EncoderLevel(modalities, before[number - 1], width, norm=norm, first=number == 1)
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


class StackFusion(nn.Module):
    """Fuse a stack of maps, such as the latents of all modalities: 1x1x1 over all of them, 3x3x3, 1x1x1.

    Args:
        stack: M, the number of maps.
        channels: C of one map.
        hidden_channels: width between the convolutions.
        out_channels: K.
        norm: order of normalisation and convolution.
        padding_mode: padding of the 3x3x3 convolution, ``"reflect"`` (default) or ``"zeros"``.
    """

    def __init__(
        self,
        stack: int,
        channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        norm: NormOrder,
        padding_mode: Literal["reflect", "zeros"] = "reflect",
    ) -> None:
        super().__init__()
        self.reduce = ModalityReduceConv(stack, channels, hidden_channels, norm=norm)
        self.mix = ConvUnit(hidden_channels, hidden_channels, 3, norm=norm, padding_mode=padding_mode)
        self.out = ConvUnit(hidden_channels, out_channels, 1, norm=norm)

    def forward(self, maps: Tensor, present: Sequence[int] | None = None) -> Tensor:
        """``(B, P, C, D, H, W)``, of the P maps in ``present`` (None: of all), to ``(B, K, D, H, W)``."""
        fused: Tensor = self.out(self.mix(self.reduce(maps, present)))
        return fused


class DecoderLevel(nn.Module):
    """One step up: upsample and halve the channels, join with the skip, 3x3x3, 1x1x1.

    Args:
        channels: C of the level that is reached; the level below has 2 C.
        norm: order of normalisation and convolution.
        skip_first: whether the skip comes before the upsampled features in the concatenation, or after them.
    """

    def __init__(self, channels: int, *, norm: NormOrder, skip_first: bool) -> None:
        super().__init__()
        self.skip_first = skip_first
        self.up = ConvUnit(2 * channels, channels, norm=norm)
        self.merge = ConvUnit(2 * channels, channels, norm=norm)
        self.out = ConvUnit(channels, channels, 1, norm=norm)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """``(B, 2 C, d, h, w)`` and the skip ``(B, C, 2d, 2h, 2w)`` to ``(B, C, 2d, 2h, 2w)``."""
        return self.join(self.rise(below), skip)

    def rise(self, below: Tensor) -> Tensor:
        """``(B, 2 C, d, h, w)`` to ``(B, C, 2d, 2h, 2w)``."""
        return self.up.after_upsampling(below)

    def join(self, risen: Tensor, skip: Tensor) -> Tensor:
        """What :meth:`rise` gave and the skip, both ``(B, C, 2d, 2h, 2w)``, to the same shape."""
        merged = self.merge.after_joining(*((skip, risen) if self.skip_first else (risen, skip)))
        joined: Tensor = self.out(merged)
        return joined


class ModalityDecoder(nn.Module):
    """Segment from one modality alone; its weights serve all modalities. Used in training only.

    Args:
        channels: width of each level, finest first.
        num_classes: K.
        norm: order of normalisation and convolution.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, *, norm: NormOrder) -> None:
        super().__init__()
        self.levels = nn.ModuleDict(
            {
                str(level): DecoderLevel(channels[level - 1], norm=norm, skip_first=False)
                for level in range(len(channels) - 1, 0, -1)
            }
        )
        self.head = PointwiseConv(channels[0], num_classes)

    def forward(self, latents: Sequence[Tensor]) -> Tensor:
        """Latents ``(B, C, d, h, w)`` of one modality, finest first, to logits ``(B, K, D, H, W)``.

        Large samples are decoded one after the other on a CPU, which takes the same time and less memory: what the
        backward pass of a level computes in passing, several times the level's size, is then there for one sample only.
        """
        if is_large(latents[0].numel(), latents[0]):
            samples = range(latents[0].shape[0])
            return torch.cat([self._decode([level[index : index + 1] for level in latents]) for index in samples])
        return self._decode(latents)

    def _decode(self, latents: Sequence[Tensor]) -> Tensor:
        features = latents[-1]
        for level, decoder in self.levels.items():
            features = decoder(features, latents[int(level) - 1])
        logits: Tensor = self.head(features)
        return logits
