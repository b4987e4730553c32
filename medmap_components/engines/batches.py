"""What a training step takes out of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from medmap_components.transforms import masks_of

__all__ = ["PrepareStudyBatch"]


class PrepareStudyBatch:
    """Splits a batch into image, label and the two modality masks, on the training device.

    Given to a trainer as ``prepare_batch``: the masks reach the network as the keyword arguments ``mask`` (visible to
    the fusion) and ``exists`` (the file was there), both bool ``(B, M)``. They travel in the meta data of the image.

    Args:
        image_key: key of the images ``(B, M, D, H, W)``. Default: ``"image"``.
        label_key: key of the label maps ``(B, 1, D, H, W)``. Default: ``"label"``.
        hide: False shows the network all modalities that exist, whichever were hidden: the training of a teacher on
            the batches of its student. Default: True.
    """

    def __init__(self, image_key: str = "image", label_key: str = "label", *, hide: bool = True) -> None:
        self.image_key = image_key
        self.label_key = label_key
        self.hide = hide

    def __call__(
        self,
        batch: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **to_kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple[()], dict[str, Tensor]]:
        """Image ``(B, M, D, H, W)``, label ``(B, 1, D, H, W)``, no further arguments, and the two masks."""
        mask, exists = masks_of(batch[self.image_key])
        if not self.hide:
            mask = exists
        image = _plain(batch[self.image_key]).to(device, non_blocking=non_blocking, **to_kwargs)
        label = _plain(batch[self.label_key]).to(device, non_blocking=non_blocking, **to_kwargs)
        return image, label, (), {"mask": mask.to(device), "exists": exists.to(device)}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
