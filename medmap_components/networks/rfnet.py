"""RFNet: one encoder per modality, and a decoder that weighs the modalities anew in every tumour region."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from medmap_components.modalities import MODALITIES
from medmap_components.networks.anchors import Anchor
from medmap_components.networks.blocks import kaiming_init
from medmap_components.networks.modality_parts import FusionInput, ModalityDecoder, ModalityEncoder
from medmap_components.networks.multi_encoder import MultiEncoderNetwork
from medmap_components.networks.rfnet_parts import FusedDecoder
from medmap_components.networks.visibility import check_stride

__all__ = ["RFNet", "RFNetLatents"]

LEVELS = 4
STRIDE = 2 ** (LEVELS - 1)


class RFNetLatents(NamedTuple):
    """What the encoders of RFNet know about an image; enough to decode any subset of its modalities.

    Attributes:
        levels: latents ``(B, M, C, d, h, w)`` of the four encoder levels, finest first. Zeros for modalities that were
            not encoded.
    """

    levels: tuple[Tensor, ...]


class RFNet(MultiEncoderNetwork[RFNetLatents]):
    """RFNet with an optional anchor that aligns the latents of its encoders.

    Each modality has a convolutional encoder of four levels. At every level the decoder first predicts probability maps
    of the classes, which tell it where which region of the tumour lies. In each region it weighs the modalities by
    themselves, from their mean features there. In training, the probability maps are supervised, and a decoder that all
    modalities share also segments from each modality alone.

    Ding et al., "RFNet: Region-aware Fusion Network for Incomplete Multi-modal Brain Tumor Segmentation", ICCV 2021.
    With the authors' weights (:func:`medmap_components.networks.rfnet_weights.load_published_state`) it computes what
    their code at https://github.com/dyh127/RFNet, commit 1e475fa, computes. It differs on purpose in these points:

    - logits come out, not probabilities, and those of the probability maps (``deep_1`` to ``deep_8``) at their own
      scale;
    - convolutions in front of an instance normalisation have no bias, which it would take away;
    - absent modalities are not encoded when nobody in the batch has them, what is only used in training is only
      computed in training, and no map of every modality in every region is made.

    The probability maps pass no gradient through the fusion that they steer, as published.

    Args:
        num_classes: K, number of output classes, and of regions in the fusion. Default 4.
        base_channels: width of the finest level, divisible by 4; it doubles with each of the three coarser ones.
            Default 16, as published.
        anchor: aligns the levels that it names and replaces absent modalities there; other levels get zeros. None
            (default) is the network as published.

    Images may have any size whose sides are divisible by 8 and at least 16; the results depend on it through the
    instance normalisation, so windows at inference should have the size of the crops in training (published: 80^3).

    Raises:
        ValueError: for a ``base_channels`` that is not divisible by 4, or an anchor for a level beyond the fourth.
    """

    def __init__(self, *, num_classes: int = 4, base_channels: int = 16, anchor: Anchor | None = None) -> None:
        super().__init__()
        if base_channels < 4 or base_channels % 4:
            raise ValueError(
                "base_channels must be a positive multiple of 4, because the probability maps are made from a quarter "
                f"of them, got {base_channels}; published is 16."
            )
        channels = [base_channels * 2**level for level in range(LEVELS)]
        self.encoder = ModalityEncoder(len(MODALITIES), channels, norm="post")
        self.fused_decoder = FusedDecoder(len(MODALITIES), channels, num_classes)
        self.modality_decoder = ModalityDecoder(channels, num_classes, norm="post")
        kaiming_init(self)
        self._add_anchor(anchor)

    def encode(self, x: Tensor, mask: Tensor | None = None) -> RFNetLatents:
        """See :meth:`MissingModalityNetwork.encode`."""
        return RFNetLatents(self._encode_levels(x, mask)[0])

    def _decode_fused(
        self, latents: RFNetLatents, inputs: list[FusionInput], mask: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        fused: tuple[Tensor, dict[str, Tensor]] = self.fused_decoder(inputs)
        return fused

    def _check_size(self, x: Tensor) -> None:
        check_stride(x, STRIDE)
