"""Takes weights of published networks over into ours: renamed, stacked, checked.

A key map says for every key of our state dict which published keys hold its tensor: one, or several whose tensors
follow each other on the first axis, as those of the four encoders do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

__all__ = ["KeyMap", "ignored_keys", "load_converted", "rename_and_stack"]

KeyMap = Mapping[str, tuple[str, ...]]


def rename_and_stack(
    state: Mapping[str, Tensor], key_map: KeyMap, unused: Collection[str], name: str
) -> dict[str, Tensor]:
    """A published state dict under our keys.

    Args:
        state: the published network's state dict; a leading ``"module."`` (DataParallel) is ignored.
        key_map: for each of our keys the published ones.
        unused: published keys that may be there and change nothing.
        name: the published network, for the message.

    Raises:
        ValueError: for keys that are missing, or that the published network does not have.
    """
    plain = {_plain(key): value for key, value in state.items()}
    needed = {theirs for group in key_map.values() for theirs in group}
    missing, unknown = sorted(needed - plain.keys()), sorted(plain.keys() - needed - set(unused))
    if missing or unknown:
        raise ValueError(
            f"state is not one of the published {name}: {len(missing)} keys are missing (such as {missing[:3]}), "
            f"{len(unknown)} are unknown (such as {unknown[:3]})."
        )
    return {
        ours: torch.cat([plain[key] for key in theirs]) if len(theirs) > 1 else plain[theirs[0]]
        for ours, theirs in key_map.items()
    }


def ignored_keys(state: Mapping[str, Tensor], unused: Collection[str]) -> list[str]:
    """The keys in a published state dict that change nothing and are left behind, in its order."""
    return [key for key in map(_plain, state) if key in unused]


def load_converted(network: nn.Module, converted: Mapping[str, Tensor], sizes: str) -> None:
    """Load a state dict under our keys; the weights of an anchor, if there is one, are left alone.

    Args:
        network: the network that takes the weights.
        converted: one tensor for each of its keys, those of the anchor excepted.
        sizes: the arguments that the published weights belong to, for the message.

    Raises:
        ValueError: for shapes that do not fit, with what differs.
    """
    own = {key: value for key, value in network.state_dict().items() if not key.startswith("anchor.")}
    shapes = [
        f"{key}: {tuple(converted[key].shape)} for {tuple(value.shape)}"
        for key, value in own.items()
        if converted[key].shape != value.shape
    ]
    if shapes:
        raise ValueError(
            f"state does not fit this network in {len(shapes)} tensors, such as {shapes[:3]}; the published weights "
            f"belong to {sizes}."
        )
    network.load_state_dict(converted, strict=False)


def _plain(key: str) -> str:
    return key.removeprefix("module.")
