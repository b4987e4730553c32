"""All modality subsets of a study in one sliding-window pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from medmap_components.inferers.masked import MaskedSlidingWindowInferer
from medmap_components.modalities import MODALITIES, SUBSETS, Subset, modality_mask, subset_name
from medmap_components.transforms.masks import masks_of

__all__ = ["SubsetSlidingWindowInferer"]


class SubsetSlidingWindowInferer(MaskedSlidingWindowInferer):
    """Runs a network on several modality subsets of each study, encoding every window once.

    A network with ``encode(x, mask)`` and ``decode(latents, mask)`` encodes a window once and decodes it per subset;
    any other is called per subset. A subset is cut to what the study shows; subsets that then coincide are computed
    once. Where nothing is left of a subset, the study's logits for it are NaN: see :meth:`visible`.

    Args:
        roi_size: the window's size.
        subsets: the subsets, each a sequence of names out of ``MODALITIES``. None (the default): all 15 of
            ``SUBSETS``, in that order.
        subsets_per_pass: subsets that are stitched at a time. One pass holds ``subsets x classes`` volumes (15 x 4
            at 240 x 240 x 155 are 2.1 GB); fewer per pass need less memory, but encode again in each pass. None (the
            default): all in one pass.
        subsets_per_batch: subsets that are fused and decoded together, as one batch. Default 1. More may pay where a
            GPU would idle on small windows and memory allows; on a CPU they gain nothing (docs/benchmarks.md).
        kwargs: the other arguments of :class:`MaskedSlidingWindowInferer`.

    Raises:
        ValueError: for unknown modalities, no subset, ``subsets_per_pass`` or ``subsets_per_batch`` below 1.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        subsets: Sequence[Sequence[str]] | None = None,
        subsets_per_pass: int | None = None,
        subsets_per_batch: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(roi_size, **kwargs)
        if subsets is None:
            self.subsets = SUBSETS
        else:
            masks = [modality_mask(names) for names in subsets]
            self.subsets = tuple(Subset(subset_name(mask), mask) for mask in masks)
        if not self.subsets:
            raise ValueError(f"subsets is {subsets}; name at least one subset of {list(MODALITIES)}, or give None.")
        if subsets_per_pass is not None and subsets_per_pass < 1:
            raise ValueError(
                f"subsets_per_pass must be at least 1, or None for all in one pass, got {subsets_per_pass}."
            )
        if subsets_per_batch < 1:
            raise ValueError(f"subsets_per_batch must be at least 1, got {subsets_per_batch}.")
        self.subsets_per_batch = subsets_per_batch
        self.subsets_per_pass = subsets_per_pass or len(self.subsets)

    def visible(self, inputs: Tensor) -> Tensor:
        """What each sample shows in each subset, bool ``(B, S, M)``; a row of False means that nothing is left.

        Args:
            inputs: ``(B, M, D, H, W)``.
        """
        subsets = torch.tensor([subset.mask for subset in self.subsets], device=inputs.device)
        return masks_of(inputs)[0][:, None] & subsets

    def each(self, inputs: Tensor, network: Callable[..., Any]) -> Iterator[tuple[Subset, Tensor]]:
        """The subsets one after the other, so that not all logits need to be kept.

        Args:
            inputs: ``(B, M, D, H, W)``.
            network: as for :meth:`__call__`.

        Yields:
            The subset and its logits ``(B, K, D, H, W)``, with the meta data of the inputs.
        """
        visible = self.visible(inputs)
        for start in range(0, len(self.subsets), self.subsets_per_pass):
            group = self.subsets[start : start + self.subsets_per_pass]
            logits = self._one_pass(inputs, network, visible[:, start : start + len(group)])
            classes = logits.shape[1] // len(group)
            for index, subset in enumerate(group):
                yield subset, logits[:, index * classes : (index + 1) * classes]

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Runs all subsets.

        Args:
            inputs: ``(B, M, D, H, W)``.
            network: gives logits ``(n, K, ...)`` for windows and a mask, in one call or by ``encode`` and ``decode``.
            args: none are taken.
            kwargs: none are taken.

        Returns:
            Logits ``(B, S, K, D, H, W)``, S as in ``subsets``, with the meta data of the inputs.
        """
        if args or kwargs:
            raise ValueError(f"SubsetSlidingWindowInferer takes no further arguments, got {args} and {kwargs}.")
        return torch.stack([logits for _, logits in self.each(inputs, network)], dim=1)

    def _one_pass(self, inputs: Tensor, network: Callable[..., Any], visible: Tensor) -> Tensor:
        """Logits ``(B, S * K, D, H, W)`` of the subsets whose visible modalities ``(B, S, M)`` are given."""
        decoder_of = _decoder_per_window(network)
        shown = visible.any(dim=1)
        # A sample that shows nothing in any of these subsets runs with all it has, and its logits become NaN.
        fallback = torch.where(shown.any(dim=1, keepdim=True), shown, masks_of(inputs)[0])

        def run_windows(windows: Tensor, places: Sequence[Sequence[slice]]) -> Tensor:
            samples = [int(place[0].start) for place in places]
            rows, spare = visible.to(windows.device)[samples], fallback.to(windows.device)[samples]
            decode = decoder_of(windows, spare)

            def logits_of(subsets: Sequence[Tensor]) -> Sequence[Tensor]:
                some = torch.cat([subset.any(dim=1) for subset in subsets])
                masks = torch.cat([torch.where(subset.any(dim=1, keepdim=True), subset, spare) for subset in subsets])
                result: Tensor = self._before_blending(decode(masks))
                result = result.masked_fill(~some.view(-1, *[1] * (result.ndim - 1)), torch.nan)
                return result.chunk(len(subsets))

            different = {str(subset.tolist()): subset for subset in rows.unbind(dim=1)}
            wanted = [key for key, subset in different.items() if subset.any()] or list(different)[:1]
            logits: dict[str, Tensor] = {}
            for start in range(0, len(wanted), self.subsets_per_batch):
                keys = wanted[start : start + self.subsets_per_batch]
                logits |= zip(keys, logits_of([different[key] for key in keys]), strict=True)
            nothing = torch.full_like(next(iter(logits.values())), torch.nan)
            return torch.cat([logits.get(str(subset.tolist()), nothing) for subset in rows.unbind(dim=1)], dim=1)

        blended: Tensor = self._after_blending(SlidingWindowInferer.__call__(self, inputs, run_windows))
        return blended


def _decoder_per_window(network: Callable[..., Any]) -> Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]:
    """A function of ``n`` windows and of all that any subset shows of them: it gives a function from masks to logits.

    That takes ``(k n, M)``, the masks of all windows for one subset after the other.
    """
    module = network if hasattr(network, "encode") else getattr(network, "module", network)
    if hasattr(module, "encode") and hasattr(module, "decode"):

        def encode_once(windows: Tensor, shown: Tensor) -> Callable[[Tensor], Tensor]:
            latents = module.encode(windows, shown)
            return lambda mask: module.decode(_repeated(latents, len(mask) // len(windows)), mask)

        return encode_once
    return lambda windows, shown: lambda mask: network(_repeated(windows, len(mask) // len(windows)), mask)


def _repeated(latents: Any, times: int) -> Any:
    """Latents, a tensor or tuples of tensors ``(n, ...)`` or None, as those of ``times`` times as many windows."""
    if times == 1 or latents is None:
        return latents
    if isinstance(latents, Tensor):
        return latents.repeat(times, *[1] * (latents.ndim - 1))
    parts = [_repeated(part, times) for part in latents]
    return type(latents)(*parts) if hasattr(latents, "_fields") else type(latents)(parts)
