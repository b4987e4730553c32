"""KD-Net's network: the one that is trained twice, as a teacher that sees everything and as its student."""

from __future__ import annotations

from torch import Tensor

from medmap_components.networks.early_fusion import BodyOutput
from medmap_components.networks.unet import UNet

__all__ = ["KDNet"]

BOTTLENECK = "bottleneck"


class KDNet(UNet):
    """The U-Net whose bottleneck a student can be compared with its teacher at.

    Hu et al., "Knowledge distillation from multi-modal to mono-modal segmentation networks", MICCAI 2020,
    https://arxiv.org/abs/2106.09564, train the same U-Net twice: as a teacher on all modalities, and as a student on
    one. Their code is not public. Here both are this network, and a student sees any subset.

    In training mode ``TrainingOutput.features["bottleneck"]`` holds the features of the coarsest stage. Arguments are
    those of :class:`UNet`.
    """

    def body(self, fused: Tensor) -> BodyOutput:
        """See :meth:`UNet.body`."""
        stages = self.contract(fused)
        output = self.expand(stages)
        return output._replace(features={BOTTLENECK: stages[-1]}) if self.training else output

    def teach(self, x: Tensor, mask: Tensor | None = None) -> BodyOutput:
        """What a student learns from, without anything that only the network's own training needs.

        Args:
            x: ``(B, M, D, H, W)``.
            mask: bool ``(B, M)``, the modalities that the teacher sees. None: all.

        Returns:
            Logits and bottleneck features, in eval mode without deep-supervision maps.

        Raises:
            ValueError: as for :meth:`forward`.
        """
        stages = self.contract(self._fuse(self.encode(x, mask), mask))
        return self.expand(stages)._replace(features={BOTTLENECK: stages[-1]})
