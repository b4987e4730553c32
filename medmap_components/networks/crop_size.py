"""The crop size that weights belong to, read off the weights themselves."""

from __future__ import annotations

from collections.abc import Sequence

from medmap_components.networks.mmformer import STRIDE
from medmap_components.networks.stored_weights import read_off_weights

__all__ = ["crop_size_of_weights"]

POSITION_TABLE = "modality_tokens.flair.position"


def crop_size_of_weights(path: str | None, default: Sequence[int] | int = (128, 128, 128)) -> list[int]:
    """The crop size of a file of weights, so that inference uses the windows that training used.

    mmFormer's position table has one row per token, and there is one token for each 16 x 16 x 16 voxels of the crop.

    Args:
        path: file with a bare state dict.
        default: the crop size to assume where the file is absent or tells nothing; a number stands for a cube.

    Returns:
        Three sides in voxels.

    Raises:
        ValueError: if the crop was no cube, which the number of tokens alone cannot tell apart.
    """
    fallback = [default] * 3 if isinstance(default, int) else [int(side) for side in default]
    tokens = read_off_weights(path, lambda weights: int(weights[POSITION_TABLE].shape[1]), None)
    if tokens is None:
        return fallback
    side = round(tokens ** (1 / 3))
    if side**3 != tokens:
        raise ValueError(
            f"{path} was trained with a crop of {tokens} tokens, which is no cube; pass --crop_size with the three "
            "sides that it was trained with."
        )
    return [side * STRIDE] * 3
