"""MONAI's inferers, with the modality mask handed to the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.utils import convert_to_dst_type
from torch import Tensor

from medmap_components.transforms.masks import EXISTS_KEY, MASK_KEY, masks_of

__all__ = ["MaskedSimpleInferer", "MaskedSlidingWindowInferer"]

PUBLISHED = "published"
"""The blending of windows in the published predictors."""


def mask_for_network(inputs: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask of a batch: the one given, else the one in its meta data, else None, which networks read as all.

    Args:
        inputs: ``(B, M, D, H, W)``.
        mask: ``(B, M)``, or None to read it from ``inputs``.

    Returns:
        Bool ``(B, M)`` or None.
    """
    if mask is None and isinstance(inputs, MetaTensor) and (MASK_KEY in inputs.meta or EXISTS_KEY in inputs.meta):
        mask = masks_of(inputs)[0]
    return mask


class MaskedSimpleInferer(SimpleInferer):
    """Runs ``network(inputs, mask)`` on the whole image, with the mask from the image's meta data.

    A mask given as the keyword ``mask`` wins. The network receives a plain tensor, which is faster than a MetaTensor;
    a tensor that it gives back takes on the meta data of the inputs.
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs the network once.

        Args:
            inputs: ``(B, M, D, H, W)``.
            network: called as ``network(inputs, mask, *args, **kwargs)``.
            args: passed on to the network.
            kwargs: passed on to the network, but for ``mask``.
        """
        mask = mask_for_network(inputs, kwargs.pop("mask", None))
        if not isinstance(inputs, MetaTensor):
            return network(inputs, mask, *args, **kwargs)
        output = network(inputs.as_tensor(), mask, *args, **kwargs)
        return convert_to_dst_type(output, inputs, dtype=output.dtype)[0] if isinstance(output, Tensor) else output


class MaskedSlidingWindowInferer(SlidingWindowInferer):
    """MONAI's sliding window, with each window's modality mask handed to the network.

    The mask is that of the sample a window is cut from, taken from the image's meta data (``modality_mask``): an
    empty window does not make a modality absent. A plain tensor without meta data is run with the mask None. A mask
    given as the keyword ``mask`` wins.

    Args:
        roi_size: the window's size.
        sw_batch_size: windows per run of the network. Default 1.
        overlap: share of a window that overlaps the next one. Default 0.25.
        mode: how overlapping windows are blended: ``"constant"`` takes the mean of what the network gives and
            ``"gaussian"`` a mean with more weight at a window's centre; ``"published"`` is for networks that give
            logits: the mean of the class probabilities, as mmFormer's and RFNet's authors do it, and its logarithm
            comes out, from which softmax makes that mean again. Default ``"constant"``.
        kwargs: the other arguments of MONAI's SlidingWindowInferer, except ``with_coord``.

    Raises:
        ValueError: when ``with_coord`` is given: it is used here.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int = 1,
        overlap: Sequence[float] | float = 0.25,
        mode: str = "constant",
        **kwargs: Any,
    ) -> None:
        if "with_coord" in kwargs:
            raise ValueError(
                f"with_coord={kwargs['with_coord']} can't be chosen: coordinates tell which sample a window is from."
            )
        self.blending = mode
        weights = "constant" if mode == PUBLISHED else mode
        super().__init__(roi_size, sw_batch_size, overlap, weights, with_coord=True, **kwargs)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs the network over all windows and blends its outputs.

        Args:
            inputs: ``(B, M, D, H, W)``.
            network: called as ``network(windows, mask, *args, **kwargs)``.
            args: passed on to the network.
            kwargs: passed on to the network, but for ``mask`` and what MONAI's SlidingWindowInferer takes.

        Returns:
            What the network gives, in the size of the inputs; with their meta data if they have any.
        """
        mask = mask_for_network(inputs, kwargs.pop("mask", None))

        def run_windows(windows: Tensor, places: Sequence[Sequence[slice]], *more: Any, **named: Any) -> Any:
            rows = None if mask is None else mask.to(windows.device)[[int(place[0].start) for place in places]]
            return self._before_blending(network(windows, rows, *more, **named))

        return self._after_blending(super().__call__(inputs, run_windows, *args, **kwargs))

    def _before_blending(self, output: Any) -> Any:
        """What is blended of a window's output."""
        return output.softmax(dim=1) if self.blending == PUBLISHED else output

    def _after_blending(self, blended: Any) -> Any:
        """What the inferer gives, from what was blended."""
        if self.blending != PUBLISHED:
            return blended
        return blended.clamp_min(torch.finfo(blended.dtype).tiny).log()
