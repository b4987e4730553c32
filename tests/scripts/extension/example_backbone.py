"""The smallest backbone there can be: an example of what one has to do, and the test of adding one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medmap_components.modalities import MODALITIES, check_mask
from medmap_components.networks import Anchor, TrainingOutput

__all__ = ["ExampleNet"]


class ExampleNet(nn.Module):
    """One convolution per modality, the sum of what is there, one convolution.

    Args:
        width: channels per modality.
        anchor: aligns level 1, the only one, and replaces absent modalities there; None puts zeros there.
    """

    def __init__(self, width: int = 4, anchor: Anchor | None = None) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv3d(1, width, 3, padding=1) for _ in MODALITIES)
        self.head = nn.Conv3d(width, 4, 1)
        self.anchor = anchor

    def forward(self, x: Tensor, mask: Tensor | None = None, exists: Tensor | None = None) -> Tensor | TrainingOutput:
        """Logits ``(B, 4, D, H, W)`` in eval mode; in training mode what the loss takes."""
        visible = check_mask(mask, x.shape[0], x.device)
        present = visible if exists is None else check_mask(exists, x.shape[0], x.device)
        x = x.masked_fill(~(present if self.training else visible)[:, :, None, None, None], 0.0)
        latents = torch.stack([stem(x[:, i : i + 1]) for i, stem in enumerate(self.stems)], dim=1).relu()
        if self.anchor is None:
            filled = latents * visible[:, :, None, None, None, None]
        else:
            filled = self.anchor.fill_absent(latents, visible, 1)
        logits: Tensor = self.head(filled.sum(1))
        if not self.training:
            return logits
        aligned = {} if self.anchor is None else {"level_1": self.anchor.align(latents, present, 1)}
        return TrainingOutput(logits, {}, {}, aligned, visible, present)
