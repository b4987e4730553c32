"""Hiding modalities: at random for training, or a fixed set."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform, Transform
from numpy.typing import NDArray
from torch import Tensor

from medmap_components.modalities import MODALITIES, SUBSETS, modality_mask, subset_name
from medmap_components.transforms.masks import masks_of, with_mask

__all__ = ["RandModalityDropout", "RandModalityDropoutd", "SelectModalities", "SelectModalitiesd"]


class RandModalityDropout(RandomizableTransform):
    """Draws one of the 15 modality subsets; what is not in it is hidden from the network.

    Only ``modality_mask`` in the image's meta data changes: the voxels stay, since losses of single modalities use
    them. Of a study that itself lacks modalities, the drawn subset shows what exists of it; subsets of which nothing
    exists are not drawn. With equal probabilities that makes all non-empty subsets of what exists equally likely.

    Args:
        prob: how often modalities are hidden at all; otherwise all that exist are shown. Default 1.0.
        subset_probabilities: one weight per entry of ``SUBSETS``, need not sum to 1. None (the default): all equal.
        modality_probabilities: instead, how often each modality is shown, independently of the others: one number
            between 0 and 1 for all of them, or one each in the order of ``MODALITIES``. A subset then weighs the
            product over what it shows and hides, and a draw that would show nothing is drawn again, so that modalities
            come a little more often than asked for: with 0.75 in 0.753 of the draws, with 0.5, where all subsets weigh
            the same, in 8 of 15. None (the default): see ``subset_probabilities``.

    Returns:
        When called with an image ``(M, X, Y, Z)``: a MetaTensor with the same voxels.

    Raises:
        ValueError: for ``prob`` outside 0 to 1, weights that are not 15 non-negative numbers with a positive sum,
            probabilities of modalities that are not one number or four between 0 and 1, or all 0, both of them given,
            or a study of which no subset with a positive weight shows anything.
    """

    def __init__(
        self,
        prob: float = 1.0,
        subset_probabilities: Sequence[float] | None = None,
        modality_probabilities: float | Sequence[float] | None = None,
    ) -> None:
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"prob must lie between 0 and 1, got {prob}.")
        super().__init__(prob)
        if subset_probabilities is not None and modality_probabilities is not None:
            raise ValueError(
                f"give subset_probabilities or modality_probabilities, not both: got {subset_probabilities} and "
                f"{modality_probabilities}."
            )
        if modality_probabilities is not None:
            weights = _subsets_of_independent_modalities(modality_probabilities)
        else:
            weights = _checked_weights(subset_probabilities)
        if prob == 0 or not weights[:-1].any():
            warnings.warn(
                f"RandModalityDropout hides nothing with prob={prob}, subset_probabilities={subset_probabilities}, "
                f"modality_probabilities={modality_probabilities}; leave it out, or hide something.",
                stacklevel=2,
            )
        self.weights = weights
        self.visible = torch.ones(len(MODALITIES), dtype=torch.bool)

    def randomize(self, data: Tensor) -> None:
        """Draws what is visible, ``self.visible``.

        Args:
            data: the modalities that exist, bool ``(M,)``.
        """
        super().randomize(None)
        exists = data.cpu()
        self.visible = exists
        if not self._do_transform:
            return
        shown = torch.tensor([subset.mask for subset in SUBSETS]) & exists
        weights = self.weights * shown.any(dim=1).numpy()
        if not weights.any():
            raise ValueError(
                f"none of the subsets with a positive weight, of {self.weights.tolist()}, shows "
                f"anything of a study that has only {subset_name(exists.tolist())}; leave that study out, or "
                "give other subsets some weight."
            )
        self.visible = shown[self.R.choice(len(SUBSETS), p=weights / weights.sum())]

    def __call__(self, image: Tensor, randomize: bool = True) -> MetaTensor:
        """Draws, unless told not to, and marks the image.

        Args:
            image: ``(M, X, Y, Z)``; of a plain tensor all modalities exist.
            randomize: draw anew; False uses the last draw.
        """
        _, exists = masks_of(image)
        if randomize:
            self.randomize(exists)
        return with_mask(image, self.visible)


def _checked_weights(subset_probabilities: Sequence[float] | None) -> NDArray[np.float64]:
    """The weights of ``SUBSETS`` as given, or all 1."""
    weights = np.ones(len(SUBSETS)) if subset_probabilities is None else np.asarray(subset_probabilities, float)
    if weights.shape != (len(SUBSETS),) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(
            f"subset_probabilities must be {len(SUBSETS)} non-negative numbers with a positive sum, in "
            f"the order of SUBSETS ({'; '.join(subset.name for subset in SUBSETS)}), got {subset_probabilities}."
        )
    return weights


def _subsets_of_independent_modalities(modality_probabilities: float | Sequence[float]) -> NDArray[np.float64]:
    """The weights of ``SUBSETS`` where each modality is shown with its probability, whatever the others are."""
    given = np.asarray(modality_probabilities, float)
    if given.shape not in ((), (len(MODALITIES),)) or not ((given >= 0) & (given <= 1)).all() or not given.any():
        raise ValueError(
            f"modality_probabilities must be one number between 0 and 1, or one each of {list(MODALITIES)}, and not "
            f"all 0, got {modality_probabilities}."
        )
    masks = np.array([subset.mask for subset in SUBSETS])
    weights: NDArray[np.float64] = np.where(masks, given, 1 - given).prod(axis=1)
    return weights


class RandModalityDropoutd(RandomizableTransform, MapTransform):
    """Dictionary version of :class:`RandModalityDropout`; each key has a draw of its own.

    Args:
        keys: where the images are.
        prob: as in :class:`RandModalityDropout`, default 1.0.
        subset_probabilities: as in :class:`RandModalityDropout`, default all equal.
        modality_probabilities: as in :class:`RandModalityDropout`, default None.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        prob: float = 1.0,
        subset_probabilities: Sequence[float] | None = None,
        modality_probabilities: float | Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.dropout = RandModalityDropout(prob, subset_probabilities, modality_probabilities)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandModalityDropoutd:
        """Seeds the draws, as in MONAI."""
        super().set_random_state(seed, state)
        self.dropout.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Marks the images of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.dropout(item[key])
        return item


class SelectModalities(Transform):
    """Shows the network a fixed set of modalities, as far as they exist.

    Only ``modality_mask`` in the image's meta data changes. Cropping to the foreground and the like still see the
    hidden voxels; where the study must be treated as if the files were not there, give
    ``modalities`` to :class:`~medmap_components.transforms.LoadStudy` instead.

    Args:
        modalities: names out of ``MODALITIES``; at least one.
        strict: refuse a study that lacks one of them. Default False: show those that it has.

    Returns:
        When called with an image ``(M, X, Y, Z)``: a MetaTensor with the same voxels.

    Raises:
        ValueError: for unknown names, a study that has none of them, or, with ``strict``, not all of them.
    """

    def __init__(self, modalities: Sequence[str], strict: bool = False) -> None:
        self.selected = torch.tensor(modality_mask(modalities))
        self.strict = strict

    def __call__(self, image: Tensor) -> MetaTensor:
        """Marks one image."""
        mask, exists = (part.cpu() for part in masks_of(image))
        visible = mask & self.selected
        if not visible.any() or (self.strict and not torch.equal(visible, self.selected)):
            source = image.meta.get("filename_or_obj", "image") if isinstance(image, MetaTensor) else "image"
            raise ValueError(
                f"{source} has {subset_name(exists.tolist())} and shows {subset_name(mask.tolist())}, which does not "
                f"give the modalities asked for, {subset_name(self.selected.tolist())}; ask for others"
                f"{' or set strict to False' if self.strict else ''}."
            )
        return with_mask(image, visible)


class SelectModalitiesd(MapTransform):
    """Dictionary version of :class:`SelectModalities`.

    Args:
        keys: where the images are.
        modalities: as in :class:`SelectModalities`; all by default.
        strict: as in :class:`SelectModalities`, default False.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        modalities: Sequence[str] = MODALITIES,
        strict: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.select = SelectModalities(modalities, strict)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Marks the images of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.select(item[key])
        return item
