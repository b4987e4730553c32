"""Turns weights of the published RFNet into those of :class:`~medmap_components.networks.rfnet.RFNet`.

The published network is that of https://github.com/dyh127/RFNet at commit 1e475fa.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medmap_components.modalities import MODALITIES
from medmap_components.networks.published_weights import ignored_keys, load_converted, rename_and_stack

__all__ = ["convert_published_state", "load_published_state", "published_key_map"]

ENCODER_UNITS = {"c1": "down", "c2": "conv_1", "c3": "conv_2"}
DECODER_UNITS = {"c1": "up", "c2": "merge", "out": "out"}
FUSION_UNITS = {0: "reduce", 1: "mix", 2: "out"}
STACKS = {
    "prm_generator{}.embedding_layer": "maps.{}.embed",
    "RFM{}.region_fusion.fusion_layer": "fusion.{}.by_region",
    "RFM{}.short_cut": "fusion.{}.short_cut",
}
WEIGHT_LAYERS = {0: "hidden", 2: "out"}
REGIONS = range(4)
LEVELS = range(1, 5)


def published_key_map() -> dict[str, tuple[str, ...]]:
    """For every key of our state dict the published keys whose tensors it holds.

    Returns:
        A dict from our key to one published key, or to four, one for each of ``MODALITIES`` or each class, whose
        tensors follow each other on the first axis.
    """
    units: dict[str, tuple[str, ...]] = {
        f"fused_decoder.maps.{level}.hidden": (f"decoder_fuse.prm_generator{level}.prm_layer.0",) for level in LEVELS
    }
    for level in LEVELS:
        for theirs, ours in ENCODER_UNITS.items():
            units[f"encoder.levels.{level}.{ours}"] = tuple(f"{name}_encoder.e{level}_{theirs}" for name in MODALITIES)
        for their_stack, our_stack in STACKS.items():
            for number, ours in FUSION_UNITS.items():
                units[f"fused_decoder.{our_stack.format(level)}.{ours}"] = (
                    f"decoder_fuse.{their_stack.format(level)}.{number}",
                )
    for ours_decoder, their_decoder in (("fused_decoder", "decoder_fuse"), ("modality_decoder", "decoder_sep")):
        for level in LEVELS[:-1]:
            for theirs, ours in DECODER_UNITS.items():
                units[f"{ours_decoder}.levels.{level}.{ours}"] = (f"{their_decoder}.d{level}_{theirs}",)
    keys = {f"{ours}.weight": tuple(f"{unit}.conv.weight" for unit in theirs) for ours, theirs in units.items()}
    for kind in ("weight", "bias"):
        for level in LEVELS:
            keys[f"fused_decoder.maps.{level}.head.{kind}"] = (f"decoder_fuse.prm_generator{level}.prm_layer.1.{kind}",)
            for number, ours in WEIGHT_LAYERS.items():
                keys[f"fused_decoder.fusion.{level}.weights.{ours}.{kind}"] = tuple(
                    f"decoder_fuse.RFM{level}.modal_fusion.{region}.weight_layer.{number}.{kind}" for region in REGIONS
                )
        keys[f"fused_decoder.head.{kind}"] = (f"decoder_fuse.seg_layer.{kind}",)
        keys[f"modality_decoder.head.{kind}"] = (f"decoder_sep.seg_layer.{kind}",)
    return keys


UNUSED = tuple(
    key.removesuffix("weight") + "bias"
    for group in published_key_map().values()
    for key in group
    if key.endswith(".conv.weight")
)
"""Biases that the published network adds in front of an instance normalisation, which takes them away again."""


def convert_published_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the published network under our keys and in our shapes.

    Args:
        state: the published network's state dict; a leading ``"module."`` (DataParallel) is ignored.

    Returns:
        A state dict that ``RFNet`` without anchor loads strictly.

    Raises:
        ValueError: for keys that are missing, or that the published network does not have.
    """
    return rename_and_stack(state, published_key_map(), UNUSED, "RFNet")


def load_published_state(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Load the published network's weights into an ``RFNet``; those of an anchor, if there is one, are left alone.

    Args:
        network: an ``RFNet`` with the published sizes.
        state: the published network's state dict.

    Returns:
        The published keys that were left behind, because they change nothing.

    Raises:
        ValueError: for keys or shapes that do not fit, with what differs.
    """
    load_converted(network, convert_published_state(state), "num_classes=4 and base_channels=16")
    return ignored_keys(state, UNUSED)
