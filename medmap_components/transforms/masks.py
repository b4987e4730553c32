"""Where the modality masks of an image are kept: in the meta data of its MetaTensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data import MetaTensor
from torch import Tensor

from medmap_components.modalities import MODALITIES

__all__ = ["EXISTS_KEY", "MASK_KEY", "masks_of", "with_mask"]

EXISTS_KEY = "modality_exists"
"""Key in ``MetaTensor.meta``: the modalities that were read, bool ``(M,)``, or ``(B, M)`` after collation."""

MASK_KEY = "modality_mask"
"""Key in ``MetaTensor.meta``: the modalities that the network may see; never more than exist."""


def masks_of(image: Tensor) -> tuple[Tensor, Tensor]:
    """The two modality masks of an image or a batch of images.

    A plain tensor, or a MetaTensor that says nothing about modalities, has them all.

    Args:
        image: ``(M, X, Y, Z)``, or a batch ``(B, M, X, Y, Z)``. In a batch, masks that were not collated (one sample
            with a batch axis put in front) hold for every sample.

    Returns:
        ``mask`` (visible to the network) and ``exists`` (was read), bool, on the image's device; ``(M,)`` for one
        image and ``(B, M)`` for a batch.

    Raises:
        ValueError: for an image with another number of axes, masks that don't fit it, or a visible modality that
            does not exist.
    """
    if image.ndim not in (4, 5):
        raise ValueError(f"image must be (M, X, Y, Z) or (B, M, X, Y, Z), got the shape {tuple(image.shape)}.")
    meta = image.meta if isinstance(image, MetaTensor) else {}
    shape = (*image.shape[:-4], len(MODALITIES))
    everything = torch.ones(shape, dtype=torch.bool, device=image.device)
    exists = _expanded(meta[EXISTS_KEY], everything, EXISTS_KEY) if EXISTS_KEY in meta else everything
    mask = _expanded(meta[MASK_KEY], everything, MASK_KEY) if MASK_KEY in meta else exists
    if bool((mask & ~exists).any()):
        raise ValueError(
            f"{MASK_KEY} {mask.tolist()} shows modalities that {EXISTS_KEY} {exists.tolist()} lacks; "
            "set it with RandModalityDropoutd or SelectModalitiesd, which keep it inside."
        )
    return mask, exists


def _expanded(value: Tensor | Sequence[bool], like: Tensor, key: str) -> Tensor:
    mask = torch.as_tensor(value, device=like.device).bool()
    if mask.shape not in (like.shape, like.shape[-1:]):
        raise ValueError(f"meta[{key!r}] must have the shape {tuple(like.shape)}, got {tuple(mask.shape)}: {mask}.")
    return mask.expand_as(like)


def with_mask(image: Tensor, mask: Tensor) -> MetaTensor:
    """The same image with another ``modality_mask``; voxels are shared, the given image and its meta stay as they are.

    Args:
        image: ``(M, X, Y, Z)``; a plain tensor becomes a MetaTensor all of whose modalities exist.
        mask: bool ``(M,)``, inside what exists.
    """
    _, exists = masks_of(image)
    source = image if isinstance(image, MetaTensor) else MetaTensor(image)
    marked = MetaTensor(
        source.as_tensor(),
        meta={**source.meta, MASK_KEY: mask.clone().cpu(), EXISTS_KEY: exists.clone().cpu()},
        applied_operations=list(source.applied_operations),
    )
    for operation in source.pending_operations:
        marked.push_pending_operation(operation)
    return marked
