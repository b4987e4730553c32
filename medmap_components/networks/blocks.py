"""Convolution units that several backbones share: pre- and post-norm units, per-modality units and upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmap_components.networks.same_conv import SameConv3d, keep_input_only, padded
from medmap_components.tracing import is_tracing

__all__ = [
    "ConvUnit",
    "ModalityConvUnit",
    "ModalityReduceConv",
    "NormOrder",
    "PointwiseConv",
    "instance_norm",
    "kaiming_init",
    "mask_latents",
    "normalise_and_activate",
    "per_modality",
    "select_modalities",
    "upsample",
]

NEGATIVE_SLOPE = 0.2
"""Slope of every LeakyReLU in RFNet and mmFormer."""

NormOrder = Literal["pre", "post"]
"""Whether normalisation and activation come before a convolution or after it.

After it, the mean that the normalisation takes away includes any bias, so that such convolutions have none.
"""


def instance_norm(x: Tensor) -> Tensor:
    """Instance normalisation without parameters, ``(B, C, ...)`` to the same shape, eps 1e-5.

    Group normalisation with one channel per group is the same mathematics, and its backward pass is about three times
    faster on a CPU than that of ``torch.nn.functional.instance_norm``.
    """
    # a graph that is traced knows no number of channels, which ONNX wants to be one
    return F.instance_norm(x) if is_tracing() else torch.group_norm(x, x.shape[1])


def normalise_and_activate(x: Tensor) -> Tensor:
    """Instance normalisation followed by LeakyReLU(0.2), ``(B, C, ...)`` to the same shape."""
    return F.leaky_relu_(instance_norm(x), NEGATIVE_SLOPE)


def upsample(x: Tensor, scale: int = 2) -> Tensor:
    """Trilinear upsampling with aligned corners.

    On a CPU it is done as one matrix product per axis, which equals torch's own to rounding and is about 2.5 times
    faster, forward and backward.

    Args:
        x: ``(B, C, D, H, W)``.
        scale: how much finer the grid becomes. Default 2.

    Returns:
        Tensor ``(B, C, sD, sH, sW)``.
    """
    if x.device.type != "cpu" or is_tracing():
        return F.interpolate(x, scale_factor=float(scale), mode="trilinear", align_corners=True)
    depth, height, width = (_interpolation_matrix(side, scale, x) for side in x.shape[2:])
    x = torch.matmul(height, torch.matmul(x, width.T))
    fine = x.shape[3:]
    return torch.matmul(depth, x.flatten(3)).reshape(*x.shape[:2], depth.shape[0], *fine)


def mask_latents(latents: Tensor, mask: Tensor) -> Tensor:
    """Zeros in place of the modalities that a sample does not have, whatever they hold, NaN included.

    Args:
        latents: ``(B, M, ...)``.
        mask: bool ``(B, M)``, True keeps.

    Returns:
        Tensor of the shape of ``latents``.
    """
    hidden = ~mask.view(*mask.shape, *(1,) * (latents.dim() - 2))
    return latents.masked_fill(hidden, 0.0)


def select_modalities(latents: Tensor, present: Sequence[int] | None) -> Tensor:
    """The latents of some modalities, as a view where the choice is a contiguous run.

    Args:
        latents: ``(B, M, ...)``.
        present: ascending indices of the modalities to keep; None keeps all.

    Returns:
        Tensor ``(B, len(present), ...)``.
    """
    if present is None or len(present) == latents.shape[1]:
        return latents
    first, last = present[0], present[-1]
    if last - first + 1 == len(present):
        return latents[:, first : last + 1]
    return latents[:, list(present)]


def per_modality(features: Tensor, present: Sequence[int] | None, modalities: int) -> Tensor:
    """Takes apart what a grouped convolution gave for some modalities; the latents of the others are zeros.

    Args:
        features: ``(B, P * C, D, H, W)`` for the P modalities in ``present``.
        present: their ascending indices; None for all.
        modalities: M.

    Returns:
        Tensor ``(B, M, C, D, H, W)``.
    """
    groups = modalities if present is None else len(present)
    found = features.view(features.shape[0], groups, -1, *features.shape[2:])
    if present is None:
        return found
    latents = found.new_zeros((found.shape[0], modalities, *found.shape[2:]))
    for position, index in enumerate(present):
        latents[:, index] = found[:, position]
    return latents


def kaiming_init(module: nn.Module) -> None:
    """Draw the weights of every convolution in ``module`` from Kaiming's normal distribution (fan-in, gain sqrt 2)."""
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight)


class PointwiseConv(nn.Conv3d):
    """A 1x1x1 convolution, ``(B, C, D, H, W)`` to ``(B, K, D, H, W)``, computed as a matrix product on a CPU.

    Args:
        in_channels: C.
        out_channels: K.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution to ``(B, C, D, H, W)``."""
        return _pointwise(x, self.weight, self.bias)


class ConvUnit(SameConv3d):
    """A convolution that keeps the size, with instance normalisation and LeakyReLU(0.2) before or after it.

    Args:
        in_channels: C.
        out_channels: K.
        kernel_size: odd edge length of the kernel. Default 3; 1 needs no padding.
        norm: ``"pre"`` normalises and activates what comes in, ``"post"`` what goes out.
        padding_mode: ``"reflect"`` (default) or ``"zeros"``, for kernels wider than 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        norm: NormOrder,
        padding_mode: Literal["reflect", "zeros"] = "reflect",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding_mode=padding_mode, bias=norm == "pre")
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` to ``(B, K, D, H, W)``."""
        return self._activated(keep_input_only(self._convolve, x))

    def after_upsampling(self, x: Tensor) -> Tensor:
        """``self(upsample(x))`` without keeping the upsampled tensor, ``(B, C, d, h, w)`` to ``(B, K, 2d, 2h, 2w)``."""
        return self._activated(keep_input_only(lambda low: self._convolve(upsample(low)), x, size=8 * x.numel()))

    def after_joining(self, *parts: Tensor) -> Tensor:
        """``self(torch.cat(parts, dim=1))`` without keeping the joined tensor."""
        return self._activated(keep_input_only(lambda *each: self._convolve(torch.cat(each, dim=1)), *parts))

    def _activated(self, x: Tensor) -> Tensor:
        return normalise_and_activate(x) if self.norm == "post" else x

    def _convolve(self, x: Tensor) -> Tensor:
        if self.norm == "pre":
            x = normalise_and_activate(x)
        if self.kernel_size == (1, 1, 1):
            return _pointwise(x, self.weight, self.bias)
        return super().forward(x)


class ModalityConvUnit(nn.Conv3d):
    """A 3x3x3 unit per modality, all modalities in one grouped convolution with reflect padding.

    Args:
        modalities: M, the number of groups.
        in_channels: C, channels of one modality.
        out_channels: K, channels of one modality.
        norm: ``"pre"`` or ``"post"`` as in :class:`ConvUnit`; None for neither: a bare convolution.
        stride: 1 (default) keeps the size, 2 halves it.
    """

    def __init__(
        self, modalities: int, in_channels: int, out_channels: int, *, norm: NormOrder | None, stride: int = 1
    ) -> None:
        super().__init__(
            modalities * in_channels,
            modalities * out_channels,
            kernel_size=3,
            stride=stride,
            padding=1,
            padding_mode="reflect",
            groups=modalities,
            bias=norm != "post",
        )
        self.norm = norm

    def forward(self, x: Tensor, present: Sequence[int] | None = None) -> Tensor:
        """Apply the units of some modalities.

        Args:
            x: ``(B, P * C, D, H, W)``, the channels of the modalities in ``present``, in that order.
            present: indices of the P modalities that ``x`` holds; None when it holds all.

        Returns:
            Tensor ``(B, P * K, d, h, w)``.
        """
        x = keep_input_only(partial(self._convolve, present=present), x)
        return normalise_and_activate(x) if self.norm == "post" else x

    def _convolve(self, x: Tensor, present: Sequence[int] | None) -> Tensor:
        if self.norm == "pre":
            x = normalise_and_activate(x)
        x = padded(x, 1, "reflect")
        weight, bias, groups = self.weight, self.bias, self.groups
        if present is not None and len(present) < groups:
            weight = weight.view(groups, -1, *weight.shape[1:])[list(present)].flatten(0, 1)
            bias = None if bias is None else bias.view(groups, -1)[list(present)].flatten()
            groups = len(present)
        return F.conv3d(x, weight, bias, stride=self.stride, groups=groups)


class ModalityReduceConv(nn.Conv3d):
    """A 1x1x1 unit from the channels of all modalities to one set of channels.

    Args:
        modalities: M.
        in_channels: C, channels of one modality.
        out_channels: K.
        norm: ``"pre"`` or ``"post"`` as in :class:`ConvUnit`.
    """

    def __init__(self, modalities: int, in_channels: int, out_channels: int, *, norm: NormOrder) -> None:
        super().__init__(modalities * in_channels, out_channels, kernel_size=1, bias=norm == "pre")
        self.modalities = modalities
        self.norm = norm

    def forward(self, latents: Tensor, present: Sequence[int] | None = None) -> Tensor:
        """Apply the unit to the modalities at hand; the others count as zeros.

        Leaving a modality out changes nothing: the instance norm of zeros is zero, and so is what the convolution adds
        for it.

        Args:
            latents: ``(B, P, C, D, H, W)``.
            present: indices of the P modalities that ``latents`` holds; None when it holds all.

        Returns:
            Tensor ``(B, K, D, H, W)``.
        """
        weight = self.weight
        if present is not None and len(present) < self.modalities:
            weight = weight.view(weight.shape[0], self.modalities, -1, 1, 1, 1)[:, list(present)].flatten(1, 2)
        x = latents.flatten(1, 2)
        if self.norm == "pre":
            x = normalise_and_activate(x)
        x = _pointwise(x, weight, self.bias)
        return normalise_and_activate(x) if self.norm == "post" else x


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1x1 convolution as a matrix product: many times faster than the CPU's fallback for thin convolutions.

    As one product per sample; ``matmul`` would turn the samples into rows, and copy them for it.
    """
    matrices, voxels = weight.flatten(1).expand(x.shape[0], -1, -1), x.flatten(2)
    product = torch.bmm(matrices, voxels) if bias is None else torch.baddbmm(bias.view(1, -1, 1), matrices, voxels)
    return product.reshape(*product.shape[:2], *x.shape[2:])


def _interpolation_matrix(side: int, scale: int, like: Tensor) -> Tensor:
    """Weights ``(scale * side, side)`` of linear interpolation along one axis, with aligned corners."""
    fine = side * scale
    positions = torch.arange(fine, dtype=torch.float64) * ((side - 1) / max(fine - 1, 1))
    distance = (positions.unsqueeze(1) - torch.arange(side, dtype=torch.float64)).abs()
    return (1 - distance).clamp_min(0).to(like)
