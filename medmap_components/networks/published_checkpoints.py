"""Checkpoints as the authors of mmFormer and RFNet publish them, turned into weights of ours.

Their training writes ``{"epoch": ..., "state_dict": {"module....": ...}, "optim_dict": ...}``, with the prefix of
DataParallel. Files are read as tensors and plain values only: whatever else a pickle holds is code, and is refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medmap_components.modalities import CLASS_NAMES
from medmap_components.networks import mmformer_weights, rfnet_weights
from medmap_components.networks.mmformer import STRIDE, MMFormer
from medmap_components.networks.published_weights import KeyMap
from medmap_components.networks.rfnet import RFNet

__all__ = ["PUBLISHED_BACKBONES", "Checkpoint", "Conversion", "convert_checkpoint", "read_checkpoint", "recognised"]

NESTED_UNDER = ("state_dict", "model_state_dict", "model", "network")
WAY_OUT = (
    "If you trust its authors, open it where nothing is at stake, and keep the tensors alone: "
    'torch.save(torch.load(FILE, map_location="cpu", weights_only=False)["state_dict"], "tensors.pth"); '
    "then convert tensors.pth."
)


class Checkpoint(NamedTuple):
    """What a file holds.

    Attributes:
        state: parameter name to tensor, without the prefix of DataParallel.
        epoch: the number that was stored with it, or None.
        left: what else the file holds and nothing here needs, such as the state of the optimiser.
    """

    state: dict[str, Tensor]
    epoch: int | None
    left: tuple[str, ...]


class Conversion(NamedTuple):
    """A published checkpoint as weights of ours.

    Attributes:
        backbone: ``"mmformer"`` or ``"rfnet"``.
        weights: a state dict that the backbone without an anchor loads strictly, float32.
        arguments: those of the network that it belongs to.
        renamed: our key to the published keys whose tensors it holds.
        dropped: published keys that the published network never uses, or that change nothing.
    """

    backbone: str
    weights: dict[str, Tensor]
    arguments: dict[str, Any]
    renamed: dict[str, tuple[str, ...]]
    dropped: list[str]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The state dict in a file, bare or nested, with nothing but tensors and plain values unpickled.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it can't be read, needs more than tensors and plain values, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needs = sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))
        if not needs:
            raise ValueError(f"{path} is no checkpoint of torch: {_first_line(error)}") from error
        raise ValueError(
            f"{path} needs {', '.join(needs)} to be loaded, which is code and not a tensor; a pickle that runs code "
            f"can do anything, so it is refused. {WAY_OUT}"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint of torch: {_first_line(error)}") from error
    return _state_in(content, path)


def recognised(state: Mapping[str, Tensor]) -> str:
    """Which published network a state dict belongs to, by names that only this one has.

    Args:
        state: parameter names without the prefix of DataParallel.

    Raises:
        ValueError: if it is none of them.
    """
    for name, backbone in PUBLISHED_BACKBONES.items():
        if backbone.only_there in state:
            return name
    raise ValueError(
        f"the checkpoint is of no network that can be converted: it has neither "
        f"{' nor '.join(f'{backbone.only_there} ({name})' for name, backbone in PUBLISHED_BACKBONES.items())}, but "
        f"{len(state)} keys such as {list(state)[:3]}."
    )


def convert_checkpoint(checkpoint: Checkpoint, backbone: str | None = None) -> Conversion:
    """A published checkpoint under our keys and in our shapes, strictly: each of its tensors is used or accounted for.

    Args:
        checkpoint: what :func:`read_checkpoint` gave.
        backbone: ``"mmformer"`` or ``"rfnet"``. None (the default): recognised by the names of the parameters.

    Raises:
        ValueError: for another network, missing or unknown keys, shapes that don't fit together, another number of
            classes than 4, or values that are not finite.
    """
    if backbone is not None and backbone not in PUBLISHED_BACKBONES:
        raise ValueError(f"backbone must be one of {list(PUBLISHED_BACKBONES)}, got {backbone!r}.")
    name = backbone or recognised(checkpoint.state)
    published = PUBLISHED_BACKBONES[name]
    # what the weights are stored in is not what the network computes in
    state = {key: value.float() for key, value in checkpoint.state.items()}
    infinite = [key for key, value in state.items() if not bool(value.isfinite().all())]
    if infinite:
        raise ValueError(f"the checkpoint holds NaN or infinity in {len(infinite)} tensors, such as {infinite[:3]}.")
    depth = _depth(state)
    key_map = published.key_map(depth)
    arguments = published.arguments(published.convert(state, depth), depth)
    network = published.build(**arguments)
    dropped = published.load_state(network, state)
    return Conversion(name, dict(network.state_dict()), arguments, dict(key_map), dropped)


class PublishedBackbone(NamedTuple):
    """How one published network is read.

    Attributes:
        commit: where its code is.
        only_there: a parameter that no other network has.
        build: our network.
        key_map: our keys to the published ones, for a number of transformer blocks.
        convert: a published state dict under our keys, for a number of transformer blocks.
        load_state: loads a published state dict into our network and returns what it left behind.
        arguments: those of the network, from the converted weights and the number of transformer blocks.
    """

    commit: str
    only_there: str
    build: Callable[..., nn.Module]
    key_map: Callable[[int], KeyMap]
    convert: Callable[[Mapping[str, Tensor], int], dict[str, Tensor]]
    load_state: Callable[[nn.Module, Mapping[str, Tensor]], list[str]]
    arguments: Callable[[Mapping[str, Tensor], int], dict[str, Any]]


def _mmformer_arguments(weights: Mapping[str, Tensor], depth: int) -> dict[str, Any]:
    tokens, width = weights["modality_tokens.flair.position"].shape[1:]
    side = round(tokens ** (1 / 3))
    if side**3 != tokens:
        raise ValueError(f"the position tables have {tokens} rows, which is no cube of tokens; published are 512.")
    return {
        "num_classes": _classes(weights["fused_decoder.head.weight"]),
        "img_size": side * STRIDE,
        "base_channels": weights["encoder.levels.1.conv_1.weight"].shape[1],
        "embed_dim": width,
        "mlp_dim": weights["fusion_transformer.blocks.0.mlp.0.weight"].shape[0],
        "depth": depth,
        "token_layout": "published",
    }


def _rfnet_arguments(weights: Mapping[str, Tensor], depth: int) -> dict[str, Any]:
    head = weights["modality_decoder.head.weight"]
    return {"num_classes": _classes(head), "base_channels": head.shape[1]}


PUBLISHED_BACKBONES = {
    "mmformer": PublishedBackbone(
        "https://github.com/YaoZhang93/mmFormer at b18663a",
        "flair_pos",
        MMFormer,
        mmformer_weights.published_key_map,
        mmformer_weights.convert_published_state,
        mmformer_weights.load_published_state,
        _mmformer_arguments,
    ),
    "rfnet": PublishedBackbone(
        "https://github.com/dyh127/RFNet at 1e475fa",
        "decoder_fuse.prm_generator1.prm_layer.1.weight",
        RFNet,
        lambda depth: rfnet_weights.published_key_map(),
        lambda state, depth: rfnet_weights.convert_published_state(state),
        rfnet_weights.load_published_state,
        _rfnet_arguments,
    ),
}
"""The published networks whose checkpoints can be converted."""


def _state_in(content: Any, path: Path) -> Checkpoint:
    outer = content if isinstance(content, Mapping) else {}
    place = next((key for key in NESTED_UNDER if isinstance(outer.get(key), Mapping)), None)
    state = outer if place is None else outer[place]
    if not state or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise ValueError(
            f"{path} holds no state dict (parameter name to tensor), neither bare nor under one of "
            f"{list(NESTED_UNDER)}, but a {type(content).__name__} with the keys {[str(key) for key in outer][:6]}."
        )
    epoch = outer.get("epoch") if place else None
    left = tuple(str(key) for key in outer if key not in (place, "epoch")) if place else ()
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    return Checkpoint(plain, epoch if isinstance(epoch, int) else None, left)


def _depth(state: Mapping[str, Tensor]) -> int:
    """Blocks per transformer of a published mmFormer; 1 where it has no transformers."""
    numbers = re.findall(r"multimodal_transformer\.cross_ffn_list\.(\d+)\.", "\n".join(state))
    return 1 + max(map(int, numbers), default=0)


def _classes(head: Tensor) -> int:
    if head.shape[0] != len(CLASS_NAMES):
        raise ValueError(
            f"the checkpoint segments {head.shape[0]} classes, the bundles {len(CLASS_NAMES)}: {list(CLASS_NAMES)}. "
            "Checkpoints for BraTS 2015 have five and can't be converted."
        )
    return int(head.shape[0])


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
