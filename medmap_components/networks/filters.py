"""The widths that weights belong to, read off the weights themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from medmap_components.networks.stored_weights import read_off_weights

__all__ = ["base_channels_of_weights", "filters_of_weights"]

FIRST_CONVOLUTION = "downs.{}.conv1.conv.weight"
RFNET_HEAD = "modality_decoder.head.weight"
ACN_FIRST = "first.weight"


def filters_of_weights(path: str | None, default: Sequence[int] = (32, 64, 128, 256, 320, 320)) -> list[int]:
    """The ``filters`` of a file of weights, so that inference builds the network that was trained.

    Args:
        path: file with a bare state dict of a :class:`~medmap_components.networks.UNet` or
            :class:`~medmap_components.networks.KDNet`.
        default: the widths to assume where the file is absent or tells nothing. Default: nnU-Net's for BraTS.

    Returns:
        The width of each stage, finest first.
    """
    return read_off_weights(path, _widths, list(default))


def base_channels_of_weights(path: str | None, default: int = 16) -> int:
    """The ``base_channels`` of a file of weights, so that inference builds the network that was trained.

    Args:
        path: file with a bare state dict of an :class:`~medmap_components.networks.RFNet` or an
            :class:`~medmap_components.networks.ACN`.
        default: the width to assume where the file is absent or tells nothing. Default 16, as both were published.
    """
    return read_off_weights(path, _base_channels, default)


def _widths(weights: Mapping[str, Tensor]) -> list[int]:
    widths: list[int] = []
    while (name := FIRST_CONVOLUTION.format(len(widths))) in weights:
        widths.append(weights[name].shape[0])
    if not widths:
        raise KeyError(FIRST_CONVOLUTION.format(0))
    return widths


def _base_channels(weights: Mapping[str, Tensor]) -> int:
    return int(weights[ACN_FIRST].shape[0] if ACN_FIRST in weights else weights[RFNET_HEAD].shape[1])
