"""What every network checks and works out about its image and its two modality masks."""

from __future__ import annotations

from torch import Tensor

from medmap_components.modalities import MODALITIES, check_mask
from medmap_components.networks.blocks import mask_latents
from medmap_components.tracing import is_exporting

__all__ = ["check_channels", "check_masks", "check_stride", "hide_absent", "present_anywhere", "what_to_hide"]


def check_channels(x: Tensor) -> None:
    """Refuses an image that does not have one channel for each of ``MODALITIES``.

    Raises:
        ValueError: for another shape than ``(B, M, D, H, W)``.
    """
    if x.dim() != 5 or x.shape[1] != len(MODALITIES):
        raise ValueError(
            f"x must have the shape (B, {len(MODALITIES)}, D, H, W), one channel for each of {list(MODALITIES)}, "
            f"got {tuple(x.shape)}."
        )


def check_stride(x: Tensor, stride: int) -> None:
    """Refuses an image whose sides a network cannot halve often enough.

    Args:
        x: ``(B, M, D, H, W)``.
        stride: how much smaller the deepest level is; it must keep at least two voxels along each side, because one
            voxel alone cannot be normalised.

    Raises:
        ValueError: for sides that are no multiples of ``stride``, or too short.
    """
    size = tuple(x.shape[2:])
    if any(side % stride or side < 2 * stride for side in size):
        nearest = [max(2 * stride, round(side / stride) * stride) for side in size]
        raise ValueError(
            f"x has the size {size}, but every side must be a multiple of {stride} and at least {2 * stride}; "
            f"the nearest that works is {nearest}."
        )


def check_masks(mask: Tensor | None, exists: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both masks of a training step as bool tensors, with bad ones refused.

    Args:
        mask: bool ``(B, M)``, the modalities visible to the fusion. None: those that exist.
        exists: bool ``(B, M)``, the modalities whose images are there. None: those in ``mask``.
        x: the image ``(B, M, D, H, W)``.

    Returns:
        ``mask`` and ``exists``, both bool ``(B, M)``.

    Raises:
        ValueError: for a wrong shape, a sample without any modality, or one that is visible but does not exist.
    """
    if mask is None and exists is not None:
        mask = exists
    mask = check_mask(mask, x.shape[0], x.device)
    exists = mask if exists is None else check_mask(exists, x.shape[0], x.device, name="exists")
    if bool((mask & ~exists).any()):
        raise ValueError(
            f"mask shows modalities that exists denies: mask {mask.tolist()}, exists {exists.tolist()}; a modality "
            "can only be visible where its image exists."
        )
    return mask, exists


def hide_absent(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The image with zeros in its absent channels, whatever stood there, and the mask as a checked bool tensor.

    Args:
        x: ``(B, M, D, H, W)``.
        mask: bool ``(B, M)``; None when nothing is absent.

    Raises:
        ValueError: for a mask of a wrong shape, or a sample without any modality.
    """
    if mask is None:
        return x, None
    mask = check_mask(mask, x.shape[0], x.device)
    return mask_latents(x, mask), mask


def present_anywhere(mask: Tensor) -> list[int] | None:
    """Indices of the modalities that any sample has; None for all of them, and for a graph."""
    if is_exporting():
        return None
    indices = mask.any(dim=0).nonzero().flatten().tolist()
    return None if len(indices) == mask.shape[1] else indices


def what_to_hide(mask: Tensor) -> tuple[Tensor | None, list[int] | None]:
    """The modalities of the batch to fuse, and the mask to apply to these if the samples differ.

    Args:
        mask: bool ``(B, M)``, at least one True per sample.

    Returns:
        The mask of the modalities that are left, bool ``(B, P)``, or None where nothing is to be hidden among them;
        and the indices of these P modalities, or None for all.
    """
    present = present_anywhere(mask)
    chosen = mask if present is None else mask[:, present]
    if not is_exporting() and bool(chosen.all()):
        return None, present
    return chosen, present
