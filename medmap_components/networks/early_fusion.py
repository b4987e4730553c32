"""Networks that fuse the modalities at their input: stems per modality, an anchor over these, then one common body."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from medmap_components.modalities import MODALITIES, check_mask
from medmap_components.networks.anchors import Anchor
from medmap_components.networks.blocks import (
    ModalityConvUnit,
    mask_latents,
    per_modality,
    select_modalities,
)
from medmap_components.networks.missing_modality import MissingModalityNetwork
from medmap_components.networks.outputs import AlignedLevel, TrainingOutput
from medmap_components.networks.visibility import (
    check_stride,
    hide_absent,
    present_anywhere,
)

__all__ = ["BodyOutput", "EarlyFusionNetwork", "ModalityStems"]

LEVEL = 1
"""The only level at which an early-fusion network has latents of single modalities."""


class BodyOutput(NamedTuple):
    """What the common body of an early-fusion network computes.

    Attributes:
        logits: ``(B, K, D, H, W)``.
        deep: as in :class:`~medmap_components.networks.TrainingOutput`; empty in eval mode.
        features: as in :class:`~medmap_components.networks.TrainingOutput`; empty in eval mode.
    """

    logits: Tensor
    deep: dict[str, Tensor]
    features: dict[str, Tensor]


class ModalityStems(nn.Module):
    """One block per modality at full size: 3x3x3 convolution, instance norm, LeakyReLU(0.2); all in grouped form.

    A channel of zeros gives latents of zeros, exactly: the convolution has no bias, which the norm would only remove.

    Args:
        channels: C, width of each modality's latents.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ModalityConvUnit(len(MODALITIES), 1, channels, norm="post")

    def forward(self, x: Tensor, present: list[int] | None = None) -> Tensor:
        """Latents of single modalities.

        Args:
            x: ``(B, M, D, H, W)``.
            present: indices of the modalities worth encoding; the latents of the others are zeros. None: all.

        Returns:
            Tensor ``(B, M, C, D, H, W)``.
        """
        features = self.conv(select_modalities(x, present), present)
        return per_modality(features, present, len(MODALITIES))


class EarlyFusionNetwork(MissingModalityNetwork[Tensor]):
    """Stems per modality, and a body that sees the latents of all stems side by side.

    The latents of the stems are what an anchor aligns, as level 1; there are no deeper latents of single modalities. An
    absent modality enters the body as zeros, or as the anchor's replacement.

    Args:
        stem_channels: C, width of each modality's stem.
        stride: how much smaller the deepest level of the body is.
        anchor: aligns the stems and replaces absent modalities there. None: no alignment, zeros.

    Raises:
        ValueError: for an anchor that aligns another level than 1.
    """

    def __init__(self, stem_channels: int, stride: int, anchor: Anchor | None = None) -> None:
        super().__init__()
        if anchor is not None and tuple(anchor.levels) != (LEVEL,):
            raise ValueError(
                f"anchor aligns the levels {anchor.levels}, but {type(self).__name__} fuses the modalities at its "
                "input and has latents of single modalities at level 1 only; use levels=[1]."
            )
        self.stride = stride
        self.stems = ModalityStems(stem_channels)
        self.anchor = anchor

    @abstractmethod
    def body(self, fused: Tensor) -> BodyOutput:
        """Segment from the stems' latents, ``(B, M * C, D, H, W)``; what only training needs, only in training mode."""

    def _train_on(self, x: Tensor, mask: Tensor, exists: Tensor) -> TrainingOutput:
        latents = self.encode(x, exists)
        aligned: dict[str, AlignedLevel] = {}
        if self.anchor is not None:
            aligned = {f"level_{LEVEL}": self.anchor.align(latents, exists, LEVEL)}
        output = self.body(self._fuse(latents, mask))
        return TrainingOutput(output.logits, output.deep, {}, aligned, mask, exists, output.features)

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The stems' latents ``(B, M, C, D, H, W)``; see :meth:`MissingModalityNetwork.encode`."""
        self._check_image(x)
        x, mask = hide_absent(x, mask)
        latents: Tensor = self.stems(x, None if mask is None or self.training else present_anywhere(mask))
        return latents

    def decode(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :meth:`MissingModalityNetwork.decode`."""
        return self.body(self._fuse(latents, mask)).logits

    def _fuse(self, latents: Tensor, mask: Tensor | None) -> Tensor:
        """The body's input ``(B, M * C, D, H, W)``: absent modalities replaced by the anchor, or by zeros."""
        if mask is not None:
            mask = check_mask(mask, latents.shape[0], latents.device)
            fills = self.anchor is not None and self.anchor.fills
            if self.anchor is not None and fills:
                latents = self.anchor.fill_absent(latents, mask, LEVEL)
            else:
                latents = mask_latents(latents, mask)
        return latents.flatten(1, 2)

    def _check_size(self, x: Tensor) -> None:
        check_stride(x, self.stride)
