"""A 3-D convolution, and the reflect padding before it, arranged so that a CPU computes them fast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["grouped_conv3d", "reflect_pad"]

WIDE = 16
"""Channels that one vector of the CPU's kernels holds; thinner convolutions leave part of each vector idle."""
SMALL = 20480
"""Up to this many values per slice (channels x depth x height) torch does not hand a single sample to oneDNN."""


def grouped_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``torch.nn.functional.conv3d`` of an image that is already padded, stride 1, for a CPU.

    The samples of a batch, or two slabs of a single sample, become the groups of one grouped convolution. oneDNN
    computes groups of 8 channels in vectors of 8, which takes half of the time of an ungrouped convolution, padded to
    vectors of 16. And torch leaves small ungrouped convolutions of a single sample to a slow fallback, but no grouped
    one. The result equals the plain convolution's to rounding.

    Args:
        x: ``(B, C, D, H, W)``, padded.
        weight: ``(K, C, k, k, k)``.
        bias: ``(K,)`` or None.

    Returns:
        Tensor ``(B, K, D - k + 1, H - k + 1, W - k + 1)``.
    """
    batch, channels = x.shape[:2]
    out_channels, halo = weight.shape[0], weight.shape[2] - 1
    depth = x.shape[2] - halo
    small = channels * x.shape[2] * x.shape[3] <= SMALL
    if batch > 1:
        if out_channels >= WIDE:
            return F.conv3d(x, weight, bias)
        return _one_group_each(x, weight, bias)
    if depth % 2 or not (small or out_channels < WIDE):
        return F.conv3d(x, weight, bias)
    half = depth // 2
    slabs = torch.cat((x[:, :, : half + halo], x[:, :, half:]), dim=0)
    convolved = _one_group_each(slabs, weight, bias)
    return torch.cat((convolved[:1], convolved[1:]), dim=2)


def reflect_pad(x: Tensor) -> Tensor:
    """``(B, C, D, H, W)`` with one reflected voxel on every side, for a CPU.

    The gradient folds the six faces back one after the other, which takes about half of the time that torch's takes.
    """
    padded: Tensor = _ReflectPad.apply(x)  # type: ignore[no-untyped-call]
    return padded


class _ReflectPad(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return F.pad(x, (1,) * 6, mode="reflect")

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        for axis in (4, 3, 2):
            size = gradient.shape[axis] - 2
            inner = gradient.narrow(axis, 1, size)
            if axis == 4:
                inner = inner.contiguous()  # a copy, because the gradient of the padded image is not ours to change
            inner.select(axis, 1).add_(gradient.select(axis, 0))
            inner.select(axis, size - 2).add_(gradient.select(axis, size + 1))
            gradient = inner
        return gradient


def _one_group_each(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve every sample of ``x`` in a group of its own."""
    batch = x.shape[0]
    bias = None if bias is None else bias.repeat(batch)
    together = F.conv3d(x.flatten(0, 1).unsqueeze(0), weight.repeat(batch, 1, 1, 1, 1), bias, groups=batch)
    return together.view(batch, -1, *together.shape[2:])
