"""Turns weights of the published mmFormer into those of :class:`~medmap_components.networks.mmformer.MMFormer`.

The published network is that of https://github.com/YaoZhang93/mmFormer at commit b18663a.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medmap_components.modalities import MODALITIES
from medmap_components.networks.published_weights import ignored_keys, load_converted, rename_and_stack

__all__ = ["convert_published_state", "load_published_state", "published_key_map"]

ENCODER_UNITS = {"c1": "down", "c2": "conv_1", "c3": "conv_2"}
DECODER_UNITS = {"c1": "up", "c2": "merge", "out": "out"}
FUSION_UNITS = {"0": "reduce", "1": "mix", "2": "out"}
TRANSFORMER_PARTS = {
    "cross_attention_list.{}.fn.norm.weight": "attention_norm.weight",
    "cross_attention_list.{}.fn.norm.bias": "attention_norm.bias",
    "cross_attention_list.{}.fn.fn.qkv.weight": "attention.qkv.weight",
    "cross_attention_list.{}.fn.fn.proj.weight": "attention.project.weight",
    "cross_attention_list.{}.fn.fn.proj.bias": "attention.project.bias",
    "cross_ffn_list.{}.fn.norm.weight": "mlp_norm.weight",
    "cross_ffn_list.{}.fn.norm.bias": "mlp_norm.bias",
    "cross_ffn_list.{}.fn.fn.net.0.weight": "mlp.0.weight",
    "cross_ffn_list.{}.fn.fn.net.0.bias": "mlp.0.bias",
    "cross_ffn_list.{}.fn.fn.net.3.weight": "mlp.3.weight",
    "cross_ffn_list.{}.fn.fn.net.3.bias": "mlp.3.bias",
}
UNUSED = tuple(f"{name}_decode_conv.{kind}" for name in MODALITIES for kind in ("weight", "bias"))
"""Parameters of the published network that its forward pass never uses."""


def published_key_map(depth: int = 1) -> dict[str, tuple[str, ...]]:
    """For every key of our state dict the published keys whose tensors it holds.

    Args:
        depth: blocks per transformer. Default 1, as published.

    Returns:
        A dict from our key to one published key, or to four, one for each of ``MODALITIES``, whose tensors follow each
        other on the first axis.
    """
    keys: dict[str, tuple[str, ...]] = {}
    for kind in ("weight", "bias"):
        for level in range(1, 6):
            for theirs, ours in ENCODER_UNITS.items():
                # the first convolution has no normalisation in front, and so no unit around it
                inner = kind if (level, theirs) == (1, "c1") else f"conv.{kind}"
                keys[f"encoder.levels.{level}.{ours}.{kind}"] = tuple(
                    f"{name}_encoder.e{level}_{theirs}.{inner}" for name in MODALITIES
                )
            for theirs, ours in FUSION_UNITS.items():
                keys[f"fused_decoder.fusion.{level}.{ours}.{kind}"] = (
                    f"decoder_fuse.RFM{level}.fusion_layer.{theirs}.conv.{kind}",
                )
        for ours_decoder, their_decoder in (("fused_decoder", "decoder_fuse"), ("modality_decoder", "decoder_sep")):
            for level in range(1, 5):
                for theirs, ours in DECODER_UNITS.items():
                    keys[f"{ours_decoder}.levels.{level}.{ours}.{kind}"] = (
                        f"{their_decoder}.d{level}_{theirs}.conv.{kind}",
                    )
            keys[f"{ours_decoder}.head.{kind}"] = (f"{their_decoder}.seg_layer.{kind}",)
        for level in range(2, 6):
            keys[f"fused_decoder.deep_heads.{level}.{kind}"] = (f"decoder_fuse.seg_d{level - 1}.{kind}",)
        for name in MODALITIES:
            keys[f"modality_tokens.{name}.embed.{kind}"] = (f"{name}_encode_conv.{kind}",)
        keys[f"bottleneck.{kind}"] = (f"multimodal_decode_conv.{kind}",)
    for name in MODALITIES:
        keys[f"modality_tokens.{name}.position"] = (f"{name}_pos",)
    transformers = {f"modality_tokens.{name}.transformer": f"{name}_transformer" for name in MODALITIES}
    for ours, theirs in {**transformers, "fusion_transformer": "multimodal_transformer"}.items():
        for block in range(depth):
            for their_part, our_part in TRANSFORMER_PARTS.items():
                keys[f"{ours}.blocks.{block}.{our_part}"] = (f"{theirs}.{their_part.format(block)}",)
    return keys


def convert_published_state(state: Mapping[str, Tensor], depth: int = 1) -> dict[str, Tensor]:
    """A state dict of the published network under our keys and in our shapes.

    The position tables belong to 128^3 images, and the bottleneck to ``token_layout="published"``.

    Args:
        state: the published network's state dict; a leading ``"module."`` (DataParallel) is ignored.
        depth: blocks per transformer. Default 1, as published.

    Returns:
        A state dict that ``MMFormer`` without anchor loads strictly.

    Raises:
        ValueError: for keys that are missing, or that the published network does not have.
    """
    converted = rename_and_stack(state, published_key_map(depth), UNUSED, "mmFormer")
    # 1x1x1 convolutions on tokens are linear layers here
    linear = {key for key in converted if key.endswith("embed.weight") or key == "bottleneck.weight"}
    return {key: value.flatten(1) if key in linear else value for key, value in converted.items()}


def load_published_state(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Load the published network's weights into an ``MMFormer``; those of an anchor, if there is one, are left alone.

    Args:
        network: an ``MMFormer`` with the published sizes.
        state: the published network's state dict, see :func:`convert_published_state`.

    Returns:
        The published keys that were left behind, because the published network never uses them.

    Raises:
        ValueError: for keys or shapes that do not fit, with what differs.
    """
    blocks = [key for key in network.state_dict() if key.startswith("fusion_transformer.blocks.")]
    depth = 1 + max(int(key.split(".")[2]) for key in blocks)
    sizes = "img_size=128, base_channels=8, embed_dim=512 and mlp_dim=4096"
    load_converted(network, convert_published_state(state, depth), sizes)
    return ignored_keys(state, UNUSED)
