"""mmFormer: one encoder per modality, transformers within and across modalities, one decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from medmap_components.modalities import MODALITIES
from medmap_components.networks.anchors import Anchor
from medmap_components.networks.blocks import kaiming_init
from medmap_components.networks.mmformer_parts import FusedDecoder, ModalityTokens
from medmap_components.networks.modality_parts import FusionInput, ModalityDecoder, ModalityEncoder
from medmap_components.networks.multi_encoder import MultiEncoderNetwork
from medmap_components.networks.transformer import Transformer

__all__ = ["MMFormer", "MMFormerLatents"]

LEVELS = 5
STRIDE = 2 ** (LEVELS - 1)
TOKEN_LAYOUTS = ("spatial", "published")


class MMFormerLatents(NamedTuple):
    """What the encoders of mmFormer know about an image; enough to decode any subset of its modalities.

    Attributes:
        levels: latents ``(B, M, C, d, h, w)`` of the five encoder levels, finest first. Zeros for modalities that were
            not encoded.
        tokens: each modality's own tokens ``(B, M, N, E)``; None where an anchor replaces the deepest latents, because
            the tokens then depend on the mask.
    """

    levels: tuple[Tensor, ...]
    tokens: Tensor | None


class MMFormer(MultiEncoderNetwork[MMFormerLatents]):
    """mmFormer with an optional anchor that aligns the latents of its encoders.

    Each modality has a convolutional encoder of five levels and a transformer over the voxels of the deepest one. A
    second transformer looks at the tokens of all modalities together. The decoder fuses the modalities at each level.
    In training, a decoder that all modalities share also segments from each modality alone.

    Zhang et al., "mmFormer: Multimodal Medical Transformer for Incomplete Multimodal Learning of Brain Tumor
    Segmentation", MICCAI 2022, https://arxiv.org/abs/2206.02425. With ``token_layout="published"`` and the authors'
    weights (:func:`medmap_components.networks.mmformer_weights.load_published_state`) it computes what their code at
    https://github.com/YaoZhang93/mmFormer, commit b18663a, computes. It differs on purpose in these points:

    - logits come out, not probabilities, and deep-supervision logits at their own scale;
    - their bottleneck reads the tokens, which are ordered by modality, as if the four modalities of a voxel lay side by
      side. Every bottleneck voxel then gets four neighbouring tokens of one modality, from elsewhere in the image.
      ``token_layout="spatial"`` puts the tokens where they belong;
    - their four convolutions that nothing calls are left out;
    - absent modalities are not encoded when nobody in the batch has them, and what is only used in training is only
      computed in training.

    Args:
        num_classes: K, number of output classes. Default 4.
        img_size: the size of the images, and of the sliding window at inference: one number for a cube, or three. Every
            side is divisible by 16 and at least 32. The position tables, and with them the weights, belong to this
            size. Default 128, as published.
        base_channels: width of the finest level; it doubles with each of the four coarser ones. Default 8.
        embed_dim: E, width of the tokens, divisible by ``num_heads``. Default 512.
        mlp_dim: width of the transformers' hidden layers. Default 4096.
        num_heads: attention heads. Default 8.
        depth: blocks in each transformer. Default 1.
        dropout_rate: dropout in the transformers. Default 0.1.
        token_layout: ``"spatial"`` (default) keeps the modalities of one voxel together at the bottleneck,
            ``"published"`` reads the tokens as the authors' code does.
        anchor: aligns the levels that it names and replaces absent modalities there; other levels get zeros. None
            (default) is the network as published.

    Raises:
        ValueError: for sizes that do not fit, an unknown ``token_layout``, or an anchor for a level beyond the fifth.
    """

    def __init__(
        self,
        *,
        num_classes: int = 4,
        img_size: int | Sequence[int] = 128,
        base_channels: int = 8,
        embed_dim: int = 512,
        mlp_dim: int = 4096,
        num_heads: int = 8,
        depth: int = 1,
        dropout_rate: float = 0.1,
        token_layout: str = "spatial",
        anchor: Anchor | None = None,
    ) -> None:
        super().__init__()
        self.img_size = _checked_size(img_size)
        if token_layout not in TOKEN_LAYOUTS:
            raise ValueError(f"token_layout must be one of {list(TOKEN_LAYOUTS)}, got {token_layout!r}.")
        self.token_layout = token_layout
        self.grid = tuple(side // STRIDE for side in self.img_size)
        channels = [base_channels * 2**level for level in range(LEVELS)]
        modalities = len(MODALITIES)
        tokens = self.grid[0] * self.grid[1] * self.grid[2]

        def transformer() -> Transformer:
            return Transformer(embed_dim, mlp_dim, num_heads, depth, dropout_rate)

        self.encoder = ModalityEncoder(modalities, channels, norm="pre")
        self.modality_tokens = nn.ModuleDict(
            {name: ModalityTokens(channels[-1], tokens, embed_dim, transformer()) for name in MODALITIES}
        )
        self.fusion_transformer = transformer()
        self.bottleneck = nn.Linear(modalities * embed_dim, modalities * channels[-1])
        self.fused_decoder = FusedDecoder(modalities, channels, num_classes)
        self.modality_decoder = ModalityDecoder(channels, num_classes, norm="pre")
        kaiming_init(self)
        nn.init.kaiming_normal_(self.bottleneck.weight)
        self._add_anchor(anchor)

    def encode(self, x: Tensor, mask: Tensor | None = None) -> MMFormerLatents:
        """See :meth:`MissingModalityNetwork.encode`."""
        levels, present = self._encode_levels(x, mask)
        return MMFormerLatents(levels, None if self._fills(LEVELS) else self._tokens(levels[-1], present))

    def _decode_fused(
        self, latents: MMFormerLatents, inputs: list[FusionInput], mask: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = latents.tokens
        if tokens is None:
            tokens = self._tokens(inputs[-1].latents, None)
        elif mask is not None:
            tokens = tokens.masked_fill(~mask[:, :, None, None], 0.0)
        inputs[-1] = FusionInput(self._across_modalities(tokens))
        fused: tuple[Tensor, dict[str, Tensor]] = self.fused_decoder(inputs)
        return fused

    def _tokens(self, deepest: Tensor, present: Sequence[int] | None) -> Tensor:
        """Each modality's own tokens, ``(B, M, C, d, h, w)`` to ``(B, M, N, E)``; zeros if not in ``present``."""
        wanted = range(len(MODALITIES)) if present is None else present
        found = {index: self.modality_tokens[MODALITIES[index]](deepest[:, index]) for index in wanted}
        nothing = torch.zeros_like(next(iter(found.values())))
        return torch.stack([found.get(index, nothing) for index in range(len(MODALITIES))], dim=1)

    def _across_modalities(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, M, N, E)`` to the bottleneck ``(B, M, C, d, h, w)``, in which M no longer means modality."""
        modalities = tokens.shape[1]
        position = torch.cat([cast(ModalityTokens, self.modality_tokens[name]).position for name in MODALITIES], dim=1)
        mixed: Tensor = self.fusion_transformer(tokens.flatten(1, 2), position)
        if self.token_layout == "spatial":
            mixed = mixed.view(tokens.shape).transpose(1, 2).flatten(2)
        else:
            mixed = mixed.reshape(tokens.shape[0], -1, modalities * tokens.shape[3])
        features: Tensor = self.bottleneck(mixed).transpose(1, 2)
        return features.reshape(tokens.shape[0], modalities, -1, *self.grid)

    def _check_size(self, x: Tensor) -> None:
        size = tuple(x.shape[2:])
        if size == self.img_size:
            return
        advice = f"use images or windows of {self.img_size}"
        if all(side % STRIDE == 0 and side >= 2 * STRIDE for side in size):
            advice += f", or build the network with img_size={list(size)}"
        else:
            advice += f"; a network can be built for any img_size whose sides are multiples of {STRIDE} from 32 on"
        raise ValueError(f"x has the size {size}, but the position tables belong to {self.img_size}: {advice}.")


def _checked_size(img_size: int | Sequence[int]) -> tuple[int, int, int]:
    sides = (img_size,) * 3 if isinstance(img_size, int) else tuple(img_size)
    if len(sides) != 3 or any(side % STRIDE or side < 2 * STRIDE for side in sides):
        nearest = [max(2 * STRIDE, round(side / STRIDE) * STRIDE) for side in sides]
        raise ValueError(
            f"img_size must be one number or three, each divisible by {STRIDE} and at least {2 * STRIDE}, because the "
            f"deepest level is {STRIDE} times smaller and cannot be normalised over a single voxel; got {img_size!r}. "
            f"The nearest that works is {nearest if len(sides) == 3 else 128}."
        )
    return sides[0], sides[1], sides[2]
