"""Weights on disk: written whole or not at all, read strictly, with messages that say what to do."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["WeightsLoader", "free_name", "load_strictly", "read_weights", "save_atomically", "set_aside"]

logger = logging.getLogger(__name__)


def save_atomically(content: Any, path: str | os.PathLike[str]) -> None:
    """Writes with ``torch.save`` so that a killed process leaves either the old file or the new one, never half a file.

    Args:
        content: what ``torch.save`` takes.
        path: the file; its folder is created when needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        torch.save(content, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def free_name(path: str | os.PathLike[str]) -> Path:
    """The first of ``<name>.1<suffix>``, ``<name>.2<suffix>``, ... beside a file that is not there yet."""
    path = Path(path)
    number = 1
    while (free := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return free


def set_aside(path: str | os.PathLike[str]) -> Path | None:
    """Renames an existing file to the first free ``<name>.1<suffix>``, ``<name>.2<suffix>``, ... so that it stays.

    Returns:
        Where it lies now, or None if there was no such file.
    """
    path = Path(path)
    if not path.exists():
        return None
    kept = free_name(path)
    path.rename(kept)
    logger.warning("%s of an earlier run was kept as %s.", path.name, kept)
    return kept


def read_weights(path: str | os.PathLike[str], knob: str = "checkpoint") -> dict[str, Tensor]:
    """A state dict from a file, tensors only.

    Args:
        path: a file with a bare state dict, as training writes it.
        knob: the setting that names the file, for messages. Default ``"checkpoint"``.

    Returns:
        Parameter name to tensor, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"There are no weights at {path}. Train the bundle first, or pass --{knob} with a file of weights, "
            "such as the model.pt in the output folder of a training run."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as a file of weights: {_first_line(error)}") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"{path} does not hold a bare state dict (parameter name to tensor) but a {type(content).__name__}"
            f"{_keys_of(content)}; pass the model.pt of a training run, not its last.pt."
        )
    return dict(content)


def load_strictly(path: str | os.PathLike[str], network: nn.Module, knob: str = "checkpoint") -> None:
    """Loads a file of weights into the network that they belong to.

    Args:
        path: the file of weights.
        network: where they go.
        knob: the setting that names the file, for messages. Default ``"checkpoint"``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds something else, or the weights of another network.
    """
    weights = read_weights(path, knob)
    mismatch = describe_mismatch(network.state_dict(), weights)
    if mismatch:
        raise ValueError(
            f"{path} holds the weights of another network than this bundle's: {mismatch}. Pass --{knob} with weights "
            "of this bundle, or the network's own settings with which they were trained."
        )
    network.load_state_dict(weights)


class WeightsLoader:
    """Loads weights strictly into a network before an engine's first batch.

    Args:
        path: the file of weights.
        network: where they go; may be wrapped for distributed training.
        knob: the setting that names the file, for messages. Default ``"checkpoint"``.

    Raises:
        FileNotFoundError: when the engine starts and there is no such file.
        ValueError: when the engine starts and the weights belong to another network.
    """

    def __init__(self, path: str, network: nn.Module, knob: str = "checkpoint") -> None:
        self.path = path
        self.network = network
        self.knob = knob

    def attach(self, engine: Engine) -> None:
        """Hooks into the start of the run."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Reads the file and loads it."""
        bare = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        load_strictly(self.path, bare, self.knob)
        logger.info("Weights: %s", self.path)


def describe_mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """How the weights in a file differ from those that a network expects, in names and shapes; empty where they fit."""
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    other_shape = [
        f"{name} is {tuple(found[name].shape)} there and {tuple(expected[name].shape)} here"
        for name in sorted(expected.keys() & found.keys())
        if found[name].shape != expected[name].shape
    ]
    parts = [
        f"{len(names)} {what} (first: {names[0]})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", other_shape))
        if names
    ]
    return "; ".join(parts)


def _keys_of(content: Any) -> str:
    return f" with the keys {sorted(map(str, content))[:6]}" if isinstance(content, Mapping) else ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
