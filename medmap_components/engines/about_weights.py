"""What belongs to a file of weights and is not in it, in a small file beside it: ``model.json`` beside ``model.pt``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["copy_description", "describe_weights", "spacing_of_weights"]

SPACING = "spacing_mm"


def describe_weights(weights: str | os.PathLike[str], about: Mapping[str, Any] | None) -> None:
    """Writes ``<name>.json`` beside a file of weights; without anything to say, an older one goes away.

    Args:
        weights: the file of weights.
        about: what is known of them, such as ``{"spacing_mm": 3.0}``; None, as a whole or as a value, is not known.
    """
    beside = Path(weights).with_suffix(".json")
    known = {key: value for key, value in (about or {}).items() if value is not None}
    if not known:
        beside.unlink(missing_ok=True)
        return
    partial = beside.with_name(f".{beside.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, beside)


def copy_description(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Writes what is said of one file of weights beside a copy of it.

    Args:
        source: the file of weights, with or without a description beside it.
        target: the copy; what was said of weights that were there before goes away.
    """
    beside = Path(source).with_suffix(".json")
    describe_weights(target, json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else None)


def spacing_of_weights(weights: str | None, default: float | None = 1.0) -> float | None:
    """The voxel size of the images that weights were trained with.

    Args:
        weights: the file of weights; ``<name>.json`` beside it may hold ``spacing_mm``. None: there are none.
        default: what is assumed where that file is absent or says nothing. Default 1.0, the voxel size of BraTS; None
            leaves images as they are.

    Returns:
        Voxel size, mm, or ``default``.

    Raises:
        ValueError: for a file beside the weights that cannot be read, or a voxel size that is not a positive number.
    """
    if weights is None or not Path(weights).with_suffix(".json").is_file():
        return default
    beside = Path(weights).with_suffix(".json")
    try:
        spacing = json.loads(beside.read_text(encoding="utf-8")).get(SPACING, default)
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{beside} describes the weights beside it and cannot be read ({error}); correct or remove it."
        ) from None
    if isinstance(spacing, bool) or not isinstance(spacing, (int, float)) or not spacing > 0:
        raise ValueError(f"{SPACING} in {beside} must be a positive number of millimetres, got {spacing!r}.")
    return float(spacing)
