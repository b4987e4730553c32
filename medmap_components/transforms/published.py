"""The preprocessing that the published weights of mmFormer and RFNet were trained with.

Both repositories prepare studies alike (https://github.com/YaoZhang93/mmFormer at b18663a and
https://github.com/dyh127/RFNet at 1e475fa): a box around the brain, then a z-score over one brain mask that all
modalities share, which the background goes through as well.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import CropForeground, CropForegroundd, MapTransform, Transform
from monai.utils import ensure_tuple_rep
from numpy.typing import NDArray
from torch import Tensor

from medmap_components.transforms.masks import masks_of

__all__ = [
    "PREPROCESSING_SCHEMES",
    "PublishedCrop",
    "PublishedCropd",
    "PublishedNormalize",
    "PublishedNormalized",
    "is_published_preprocessing",
]

PREPROCESSING_SCHEMES = ("standard", "published")
"""``"standard"``: crop to the brain, z-score of each modality over its own brain, background 0. ``"published"``: that
of mmFormer's and RFNet's authors, :class:`PublishedCrop` and :class:`PublishedNormalize`."""

PUBLISHED_SIDE = 128


def is_published_preprocessing(scheme: str) -> bool:
    """Whether a config asks for the published preprocessing.

    Args:
        scheme: one of ``PREPROCESSING_SCHEMES``.

    Raises:
        ValueError: for another name.
    """
    if scheme not in PREPROCESSING_SCHEMES:
        raise ValueError(f"preprocessing_scheme must be one of {list(PREPROCESSING_SCHEMES)}, got {scheme!r}.")
    return scheme == "published"


class PublishedCrop(CropForeground):
    """Crops to the box in which the published weights saw brains.

    Along each axis it goes from the first plane with a voxel that is not zero up to the last such plane, which is left
    out, as published. If that is less than 128 voxels, it grows to both sides, evenly, to 128 or 129; what would lie in
    front of the volume is added at its end instead.

    It differs from the published code where that fails: there a box may end behind the volume, is silently cut there,
    and windows of 128 then do not fit any more. Here a box that is cut shorter than the window moves back into the
    volume, and is padded with zeros at its end where the volume itself is too short. So it stands in front of the
    normalisation, which makes these zeros background.

    Args:
        window: sides of the sliding window, one for each axis or one for all; no box is smaller. Default 128.

    Raises:
        ValueError: when called with an image of nothing but zeros.
    """

    def __init__(self, window: Sequence[int] | int = PUBLISHED_SIDE) -> None:
        super().__init__()
        self.window = ensure_tuple_rep(window, 3)

    def compute_bounding_box(self, img: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First voxel, and the one behind the last, along each axis.

        Args:
            img: ``(M, X, Y, Z)``, background 0.
        """
        inside = torch.as_tensor(img).amax(dim=0) != 0
        if not bool(inside.any()):
            raise ValueError("image holds nothing but zeros, so there is no brain to crop to.")
        others = ((1, 2), (0, 2), (0, 1))
        edges = [
            _interval(inside.any(dim=axes[1]).any(dim=axes[0]).nonzero(), size, window)
            for axes, size, window in zip(others, inside.shape, self.window, strict=True)
        ]
        start, end = np.asarray(edges, dtype=np.int64).T
        return start, end


class PublishedCropd(CropForegroundd):
    """Dictionary version of :class:`PublishedCrop`, invertible.

    Args:
        keys: what is cropped.
        source_key: the image that tells where the brain is.
        window: as in :class:`PublishedCrop`, default 128.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(
        self,
        keys: KeysCollection,
        source_key: str = "image",
        window: Sequence[int] | int = PUBLISHED_SIDE,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, source_key, allow_missing_keys=allow_missing_keys)
        self.cropper = PublishedCrop(window)


class PublishedNormalize(Transform):
    """Z-score of each modality over one brain mask for all, applied to the whole volume.

    The brain is where the modalities add up to more than zero. Background, 0 before, becomes ``-mean / std``: another
    negative number in each modality. Modalities that do not exist take no part and stay zero; so where one is missing,
    the brain is that of the others, while published evaluations always had all four.

    Raises:
        ValueError: when called with an image that is nowhere positive.
    """

    def __call__(self, image: Tensor) -> Tensor:
        """Normalises an image ``(M, X, Y, Z)``, background 0."""
        voxels = image.as_tensor() if isinstance(image, MetaTensor) else image
        brain = voxels.sum(dim=0) > 0
        if not bool(brain.any()):
            raise ValueError("image is nowhere positive, so there is no brain to normalise over.")
        normalized = torch.zeros_like(voxels, dtype=torch.float32)
        for index in masks_of(image)[1].nonzero().flatten().tolist():
            values = voxels[index][brain].double()
            spread = values.std(unbiased=False)
            normalized[index] = (voxels[index] - values.mean()) / (spread if spread > 0 else 1.0)
        if not isinstance(image, MetaTensor):
            return normalized
        return cast(Tensor, MetaTensor(normalized, meta=image.meta, applied_operations=image.applied_operations))


class PublishedNormalized(MapTransform):
    """Dictionary version of :class:`PublishedNormalize`.

    Args:
        keys: where the images are.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalize = PublishedNormalize()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalises the images of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.normalize(item[key])
        return item


def _interval(planes: Tensor, size: int, window: int) -> tuple[int, int]:
    """Where the box lies along an axis, of which ``planes`` are not empty."""
    first, last = int(planes.min()), int(planes.max())
    if last - first < PUBLISHED_SIDE:
        each = (PUBLISHED_SIDE - (last - first)) // 2
        first, last = first - each, last + each + 1
    if first < 0:
        first, last = 0, last - first
    last = min(last, size)
    if last - first < window:
        first = max(0, last - window)
        last = first + window
    return first, last
