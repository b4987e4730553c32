"""The three overlapping tumour regions that BraTS scores: whole tumour, tumour core, enhancing tumour."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.metrics import compute_dice
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from medmap_components.modalities import CLASS_NAMES, REGIONS

__all__ = ["RegionsFromClasses", "RegionsFromClassesd", "region_dice", "regions_from_classes"]


def regions_from_classes(classes: Tensor, channel_dim: int = 0) -> Tensor:
    """Region masks of a label map, or of scores per class.

    Args:
        classes: one channel of classes 0 to 3, or four channels of logits or probabilities (the largest wins). For
            one image ``(1, D, H, W)`` or ``(4, D, H, W)``; with a batch axis before it, give ``channel_dim=1``.
        channel_dim: the axis of the channels. Default 0.

    Returns:
        Float32 of 0 and 1 with three channels, in the order of ``REGIONS``: WT, TC, ET.

    Raises:
        ValueError: for another number of channels, or a label map with other values.
    """
    channels = classes.shape[channel_dim]
    if channels == len(CLASS_NAMES):
        classes = classes.argmax(dim=channel_dim, keepdim=True)
    elif channels != 1:
        raise ValueError(
            f"classes must have 1 channel (a label map) or {len(CLASS_NAMES)} (scores per class) on axis "
            f"{channel_dim}, got the shape {tuple(classes.shape)}."
        )
    known = torch.arange(len(CLASS_NAMES), device=classes.device)
    if not bool(torch.isin(classes, known).all()):
        raise ValueError(
            f"classes must hold 0 to {len(CLASS_NAMES) - 1} only, got {torch.unique(classes).tolist()[:8]}; "
            "convert labels with BratsLabelsd first."
        )
    masks = [torch.isin(classes, known[list(members)]) for members in REGIONS.values()]
    return torch.cat(masks, dim=channel_dim).float()


def region_dice(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Dice of each region of one study, ``2 |P and T| / (|P| + |T|)``.

    1 where a region is empty in both, 0 where it is empty in one of them.

    Args:
        prediction: label map ``(1, D, H, W)`` of classes 0 to 3, or scores ``(4, D, H, W)``.
        target: label map ``(1, D, H, W)`` of classes 0 to 3.

    Returns:
        One number per region: ``{"WT": ..., "TC": ..., "ET": ...}``.

    Raises:
        ValueError: when the spatial sizes differ, see also :func:`regions_from_classes`.
    """
    if prediction.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"prediction and target must be of one size, got {tuple(prediction.shape)} and {tuple(target.shape)}."
        )
    pair = [regions_from_classes(image.as_subclass(Tensor)).unsqueeze(0) for image in (prediction, target)]
    dice = compute_dice(pair[0], pair[1].to(pair[0].device), ignore_empty=False)
    return dict(zip(REGIONS, dice[0].tolist(), strict=True))


class RegionsFromClasses(Transform):
    """Turns a label map or scores per class into the three region masks, for MONAI's metrics.

    ``(1, D, H, W)`` or ``(4, D, H, W)`` becomes float32 ``(3, D, H, W)``: WT, TC, ET. See
    :func:`regions_from_classes`.
    """

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Applies the transform to one image; the type and the meta data of the input are kept.

        Raises:
            ValueError: for other numbers of channels or other values.
        """
        regions = regions_from_classes(convert_to_tensor(img, track_meta=False))
        return convert_to_dst_type(regions, dst=img, dtype=torch.float32)[0]


class RegionsFromClassesd(MapTransform):
    """Dictionary version of :class:`RegionsFromClasses`.

    Args:
        keys: the entries to transform, usually ``["pred", "label"]``.
        allow_missing_keys: True skips keys that an item lacks. Default False.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = RegionsFromClasses()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Applies the transform to each entry of a data item.

        Raises:
            ValueError: for other numbers of channels or other values.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result
