"""What a file of weights tells about the network that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["read_off_weights"]

Told = TypeVar("Told")


def read_off_weights(path: str | None, read: Callable[[Mapping[str, Tensor]], Told], default: Told) -> Told:
    """What the weights in a file tell, or a default where there is no file or it tells nothing.

    Args:
        path: file with a bare state dict. None: there is none.
        read: gets the state dict; whatever it raises means that the weights tell nothing.
        default: what is assumed then.
    """
    if path is None or not Path(path).is_file():
        return default
    try:
        return read(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except Exception:  # whatever is wrong with the file is reported where its weights are loaded
        return default
