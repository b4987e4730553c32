"""What the networks with one encoder per modality have in common: masks, anchors, and the two ways to run."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, TypeVar

from torch import Tensor

from medmap_components.modalities import MODALITIES, check_mask
from medmap_components.networks.anchors import Anchor
from medmap_components.networks.missing_modality import MissingModalityNetwork
from medmap_components.networks.modality_parts import FusionInput, ModalityDecoder, ModalityEncoder
from medmap_components.networks.outputs import AlignedLevel, TrainingOutput
from medmap_components.networks.visibility import (
    hide_absent,
    present_anywhere,
    what_to_hide,
)

__all__ = ["MultiEncoderNetwork"]


class Latents(Protocol):
    """What ``encode`` gives."""

    @property
    def levels(self) -> tuple[Tensor, ...]:
        """Latents ``(B, M, C, d, h, w)`` of every encoder level, finest first; zeros where nothing was encoded."""


LatentsT = TypeVar("LatentsT", bound=Latents)


class MultiEncoderNetwork(MissingModalityNetwork[LatentsT]):
    """A network that encodes each modality by itself, fuses the visible ones and, in training, segments each alone.

    Subclasses build ``encoder``, ``modality_decoder`` and ``anchor``, and implement :meth:`encode`, ``_decode_fused``
    and ``_check_size``.
    """

    encoder: ModalityEncoder
    modality_decoder: ModalityDecoder
    anchor: Anchor | None

    def decode(self, latents: LatentsT, mask: Tensor | None = None) -> Tensor:
        """See :meth:`MissingModalityNetwork.decode`."""
        return self._fuse(latents, mask)[0]

    @abstractmethod
    def _decode_fused(
        self, latents: LatentsT, inputs: list[FusionInput], mask: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and, in training mode, deep-supervision logits of the fused path.

        Args:
            latents: what :meth:`encode` gave.
            inputs: its levels, with the anchor in place of absent modalities where it fills them.
            mask: bool ``(B, M)``, the visible modalities; None when nothing is hidden.
        """

    def _add_anchor(self, anchor: Anchor | None) -> None:
        """Takes the anchor in, as the last part, so that the order of the other parameters does not depend on it."""
        depth = len(self.encoder.levels)
        if anchor is not None and max(anchor.levels) > depth:
            raise ValueError(
                f"anchor aligns the levels {anchor.levels}, but {type(self).__name__} has the levels 1 to {depth}."
            )
        self.anchor = anchor

    def _encode_levels(self, x: Tensor, mask: Tensor | None) -> tuple[tuple[Tensor, ...], list[int] | None]:
        """The latents of all levels, and the modalities that were encoded; None for all of them."""
        self._check_image(x)
        x, mask = hide_absent(x, mask)
        present = None if mask is None or self.training else present_anywhere(mask)
        return self.encoder(x, present), present

    def _train_on(self, x: Tensor, mask: Tensor, exists: Tensor) -> TrainingOutput:
        latents = self.encode(x, exists)
        aligned: dict[str, AlignedLevel] = {}
        if self.anchor is not None:
            aligned = {
                f"level_{number}": self.anchor.align(level, exists, number)
                for number, level in enumerate(latents.levels, start=1)
                if self.anchor.aligns(number)
            }
        logits, deep = self._fuse(latents, mask)
        alone = self.modality_decoder([level.flatten(0, 1) for level in latents.levels])
        by_modality = alone.view(x.shape[0], len(MODALITIES), *alone.shape[1:]).unbind(1)
        return TrainingOutput(logits, deep, dict(zip(MODALITIES, by_modality, strict=True)), aligned, mask, exists)

    def _fuse(self, latents: LatentsT, mask: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and, in training mode, deep-supervision logits of the fused path."""
        finest = latents.levels[0]
        visible = check_mask(mask, finest.shape[0], finest.device)
        hiding, present = (None, None) if mask is None else what_to_hide(visible)
        inputs = []
        for number, level in enumerate(latents.levels, start=1):
            if self.anchor is not None and self._fills(number):
                inputs.append(FusionInput(self.anchor.fill_absent(level, visible, number)))
            else:
                inputs.append(FusionInput(level, hiding, present))
        return self._decode_fused(latents, inputs, None if mask is None else visible)

    def _fills(self, level: int) -> bool:
        return self.anchor is not None and self.anchor.aligns(level) and self.anchor.fills
