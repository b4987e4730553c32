"""A U-Net for missing modalities: MONAI's DynUNet behind one stem per modality."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import DynUNet
from torch import Tensor, nn

from medmap_components.modalities import MODALITIES
from medmap_components.networks.anchors import Anchor
from medmap_components.networks.blocks import PointwiseConv
from medmap_components.networks.early_fusion import BodyOutput, EarlyFusionNetwork

__all__ = ["UNet"]

MIN_STAGES = 3
"""DynUNet needs one stage between the first and the bottleneck."""


class UNet(EarlyFusionNetwork):
    """A plain U-Net that learns from modality dropout, with an optional anchor that aligns the stems' latents.

    The body is DynUNet, MONAI's form of nnU-Net (Isensee et al., https://arxiv.org/abs/1809.10486): two 3x3x3
    convolutions per stage with affine instance norm and LeakyReLU(0.01), strided convolutions down, transposed ones
    with bias up. The default widths are those of nnU-Net's plan for BraTS. Its input are the latents of the stems
    instead of the images; apart from that it computes what DynUNet computes. It differs in how it is built:

    - deep-supervision logits come out at their own scale, and only in training;
    - the blocks are called one after the other: DynUNet's chain of skip layers keeps the deep-supervision maps as a
      list on the module, and lists every weight twice in the state dict;
    - the output convolutions and the norms are computed in forms that are faster on a CPU, with the same results.

    Args:
        num_classes: K, number of output classes. Default 4.
        stem_channels: C, width of each modality's stem. Default 8.
        filters: widths of the stages, finest first, the last being the bottleneck. Each stage halves the size of the
            one before, so images must be divisible by ``2 ** (len(filters) - 1)``. Default: nnU-Net's for BraTS.
        deep_maps: number of deep-supervision maps: at half the size, a quarter and so on. None (default): at every
            scale of the decoder but its coarsest, as nnU-Net.
        anchor: aligns the stems and replaces absent modalities there. None (default): no alignment, zeros.

    Raises:
        ValueError: for fewer than three stages, widths below 1, a number of maps that the decoder does not have, or an
            anchor that aligns another level than 1.
    """

    def __init__(
        self,
        *,
        num_classes: int = 4,
        stem_channels: int = 8,
        filters: Sequence[int] = (32, 64, 128, 256, 320, 320),
        deep_maps: int | None = None,
        anchor: Anchor | None = None,
    ) -> None:
        filters = _checked_filters(filters)
        stages = len(filters)
        deep_maps = _checked_deep_maps(deep_maps, stages)
        super().__init__(stem_channels, stride=2 ** (stages - 1), anchor=anchor)
        dyn_unet = DynUNet(
            spatial_dims=3,
            in_channels=len(MODALITIES) * stem_channels,
            out_channels=num_classes,
            kernel_size=[3] * stages,
            strides=[1] + [2] * (stages - 1),
            upsample_kernel_size=[2] * (stages - 1),
            filters=filters,
            norm_name=("instance", {"affine": True}),
            trans_bias=True,
        )
        self.downs = nn.ModuleList([dyn_unet.input_block, *dyn_unet.downsamples, dyn_unet.bottleneck])
        self.ups = dyn_unet.upsamples
        self.output = PointwiseConv(filters[0], num_classes)
        self.deep_outputs = nn.ModuleDict(
            {f"deep_{2**level}": PointwiseConv(filters[level], num_classes) for level in range(1, deep_maps + 1)}
        )
        for head in (self.output, *self.deep_outputs.values()):
            DynUNet.initialize_weights(head)  # type: ignore[no-untyped-call]
        for blocks in (self.downs, self.ups):
            _norm_channel_by_channel(blocks)

    def body(self, fused: Tensor) -> BodyOutput:
        """See :meth:`EarlyFusionNetwork.body`."""
        return self.expand(self.contract(fused))

    def contract(self, fused: Tensor) -> list[Tensor]:
        """The features of every stage, finest first, the last those of the bottleneck."""
        stages: list[Tensor] = []
        for down in self.downs:
            fused = down(fused)
            stages.append(fused)
        return stages

    def expand(self, stages: Sequence[Tensor]) -> BodyOutput:
        """Segment from the features that :meth:`contract` gave."""
        *skips, features = stages
        deep: dict[str, Tensor] = {}
        for level, up in zip(reversed(range(len(skips))), self.ups, strict=True):
            features = up(features, skips[level])
            name = f"deep_{2**level}"
            if self.training and name in self.deep_outputs:
                deep[name] = self.deep_outputs[name](features)
        return BodyOutput(self.output(features), dict(reversed(deep.items())), {})


def _checked_filters(filters: Sequence[int]) -> list[int]:
    if len(filters) < MIN_STAGES or any(not isinstance(width, int) or width < 1 for width in filters):
        raise ValueError(
            f"filters must be the widths of at least {MIN_STAGES} stages, finest first, each a whole number from 1 on, "
            f"got {filters!r}."
        )
    return list(filters)


def _checked_deep_maps(deep_maps: int | None, stages: int) -> int:
    if deep_maps is None:
        return stages - MIN_STAGES
    if not 0 <= deep_maps <= stages - 2:
        raise ValueError(
            f"deep_maps must lie between 0 and {stages - 2}, the number of the decoder's scales below the full size "
            f"with {stages} stages, got {deep_maps}."
        )
    return deep_maps


def _norm_channel_by_channel(module: nn.Module) -> None:
    """Group norms with one channel per group in place of instance norms: the same, and faster backward on a CPU."""
    for name, part in list(module.named_children()):
        if isinstance(part, nn.InstanceNorm3d):
            channel_by_channel = nn.GroupNorm(part.num_features, part.num_features, eps=part.eps, affine=part.affine)
            setattr(module, name, channel_by_channel)
        else:
            _norm_channel_by_channel(part)
