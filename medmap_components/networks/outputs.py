"""What every network hands to its loss in training mode."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

__all__ = ["AlignedLevel", "TrainingOutput"]


class AlignedLevel(NamedTuple):
    """The latents of one aligned encoder level and the anchor they are compared with.

    Attributes:
        latents: ``(B, M, C, D, H, W)``, all modalities, before masking and before any replacement.
        anchor: ``(B, C, D, H, W)``, mixed from the modalities that exist; zeros for the standard normal anchor.
        weights: ``(B, M)``, the weights of that mixture: 0 where a modality does not exist, rows sum to 1. None for
            the standard normal anchor.
        detached: whether the anchor passes no gradient to the latents it was mixed from. The weights always get theirs.
    """

    latents: Tensor
    anchor: Tensor
    weights: Tensor | None
    detached: bool = False


class TrainingOutput(NamedTuple):
    """The training-mode output of a network for missing modalities; ``K`` is the number of classes.

    Attributes:
        logits: fused logits ``(B, K, D, H, W)``.
        deep: deep-supervision logits at their own scale: ``"deep_1"`` at full size, ``"deep_2"`` at half of it,
            ``"deep_4"`` at a quarter, and so on. Empty where a network has none.
        modality: logits of each modality alone ``(B, K, D, H, W)``, by its name in ``MODALITIES``. May be empty.
        aligned: the aligned encoder levels, ``"level_1"`` and so on. Empty without an anchor.
        mask: bool ``(B, M)``, the modalities that the fusion saw.
        exists: bool ``(B, M)``, the modalities whose images were there; every True in ``mask`` is True here.
        features: inner features ``(B, C, d, h, w)`` that a family's loss compares between networks, by name. Empty
            where no loss asks for any.
    """

    logits: Tensor
    deep: dict[str, Tensor]
    modality: dict[str, Tensor]
    aligned: dict[str, AlignedLevel]
    mask: Tensor
    exists: Tensor
    features: Mapping[str, Tensor] = MappingProxyType({})
