"""The smallest anchor there can be: an example of what one has to do, and the test of adding one."""

from __future__ import annotations

from torch import Tensor

from medmap_components.networks.anchors import MixAnchor

__all__ = ["MeanAnchor"]


class MeanAnchor(MixAnchor):
    """The mean of the modalities that are there."""

    def weights(self, available: Tensor, level: int) -> Tensor:
        """Equal weights over the available modalities."""
        return available / available.sum(dim=1, keepdim=True)
