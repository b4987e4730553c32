"""What every network for missing modalities has in common: how it is called, in training and to segment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from torch import Tensor, nn

from medmap_components.networks.outputs import TrainingOutput
from medmap_components.networks.visibility import check_channels, check_masks
from medmap_components.tracing import is_tracing

__all__ = ["MissingModalityNetwork"]

LatentsT = TypeVar("LatentsT")


class MissingModalityNetwork(nn.Module, ABC, Generic[LatentsT]):
    """A network that encodes the modalities one by one and decodes any subset of them.

    Subclasses implement :meth:`encode`, :meth:`decode`, ``_train_on`` and ``_check_size``.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None, exists: Tensor | None = None) -> Tensor | TrainingOutput:
        """Segment images of which some modalities may be absent.

        Args:
            x: ``(B, M, D, H, W)`` in the order of ``MODALITIES``. What stands in the channels of absent modalities,
                NaN included, changes nothing.
            mask: bool ``(B, M)``, the modalities that the fusion may see. None: those that exist.
            exists: bool ``(B, M)``, the modalities whose images are there; every modality in ``mask`` is. Only used in
                training, where hidden modalities that exist are still aligned and, where a network does that,
                segmented from alone. None: those in ``mask``, and all of them when that is None too.

        Returns:
            In eval mode logits ``(B, K, D, H, W)``; in training mode a :class:`TrainingOutput`.

        Raises:
            ValueError: for a wrong number of channels, a size that does not fit the network, a mask of a wrong shape, a
                sample without any modality, or a modality that is visible but does not exist.
        """
        if not self.training:
            return self.decode(self.encode(x, mask), mask)
        self._check_image(x)
        return self._train_on(x, *check_masks(mask, exists, x))

    @abstractmethod
    def encode(self, x: Tensor, mask: Tensor | None = None) -> LatentsT:
        """Encode every modality by itself.

        Args:
            x: ``(B, M, D, H, W)``.
            mask: bool ``(B, M)``, the modalities worth encoding. None: all.

        Returns:
            Latents that :meth:`decode` takes, with ``mask`` or with any subset of it.

        Raises:
            ValueError: as for :meth:`forward`.
        """

    @abstractmethod
    def decode(self, latents: LatentsT, mask: Tensor | None = None) -> Tensor:
        """Fuse and decode, so that one encoding serves many subsets of its modalities.

        Args:
            latents: what :meth:`encode` gave.
            mask: bool ``(B, M)``, the modalities that the fusion may see. None: all.

        Returns:
            Logits ``(B, K, D, H, W)``.

        Raises:
            ValueError: for a mask of a wrong shape, or a sample without any modality.
        """

    @abstractmethod
    def _train_on(self, x: Tensor, mask: Tensor, exists: Tensor) -> TrainingOutput:
        """The output in training mode, for an image and masks that were checked."""

    @abstractmethod
    def _check_size(self, x: Tensor) -> None:
        """Raises a ValueError for an image of a spatial size that the network cannot take, with one that it can."""

    def _check_image(self, x: Tensor) -> None:
        if not is_tracing():
            check_channels(x)
            self._check_size(x)
