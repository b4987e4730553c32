"""Convolutions that keep the size, and the padding before them, arranged so that a CPU computes them fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from medmap_components.tracing import is_tracing

__all__ = ["SameConv3d", "grouped_conv3d", "is_large", "keep_input_only", "padded", "reflect_pad"]

WIDE = 16
"""Channels that one vector of the CPU's kernels holds; thinner convolutions leave part of each vector idle."""
SMALL = 20480
"""Up to this many values per slice (channels x depth x height) torch does not hand a single sample to oneDNN."""

LARGE = 2**23
"""From so many values on, 32 MiB in float32, memory on a CPU is worth some care."""


def is_large(values: int, like: Tensor) -> bool:
    """Whether so many values on the device of ``like`` are better computed again, or piece by piece, than kept.

    Never on a GPU, where that costs relatively more, nor for a network that is traced or compiled.
    """
    return values >= LARGE and like.device.type == "cpu" and not (is_tracing() or torch.compiler.is_compiling())


def keep_input_only(unit: Callable[..., Tensor], *inputs: Tensor, size: int | None = None) -> Tensor:
    """``unit(*inputs)``, keeping only ``inputs`` for the backward pass where ``unit`` ends in a convolution; on a CPU.

    A convolution keeps what goes into it, here a padded and normalised copy, upsampled or joined from several tensors.
    Checkpointing computes that copy again in the backward pass; the convolution itself is not repeated, because the
    recomputation stops as soon as everything that is needed is there. That costs 6% of a step and saves more than half
    of what a step keeps. Small inputs are left alone, for the sake of time.

    Args:
        unit: what is computed, ending in a convolution.
        inputs: what it is given, each ``(B, C, D, H, W)``.
        size: number of values that the convolution would keep; None (default): as many as ``inputs`` hold.
    """
    values = sum(each.numel() for each in inputs) if size is None else size
    if not (torch.is_grad_enabled() and is_large(values, inputs[0])):
        return unit(*inputs)
    result: Tensor = checkpoint(unit, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


class SameConv3d(nn.Conv3d):
    """A convolution that keeps the size (stride 1), in the form that takes least time on a CPU.

    Args:
        in_channels: C.
        out_channels: K.
        kernel_size: odd edge length of the kernel. Default 3.
        padding_mode: ``"zeros"`` (default) or ``"reflect"``.
        bias: whether a bias is added. Default True.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        padding_mode: Literal["reflect", "zeros"] = "zeros",
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, padding_mode=padding_mode, bias=bias
        )

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """How ``forward`` convolves."""
        if x.device.type == "cpu" and not is_tracing():
            return grouped_conv3d(padded(x, self.kernel_size[0] // 2, self.padding_mode), weight, bias)
        convolved: Tensor = super()._conv_forward(x, weight, bias)
        return convolved


def padded(x: Tensor, width: int, mode: str) -> Tensor:
    """``x`` with a margin of ``width`` voxels on every side, zeros or reflected."""
    if mode == "reflect" and width == 1 and x.device.type == "cpu" and not is_tracing():
        return reflect_pad(x)
    return F.pad(x, (width,) * 6, mode="reflect" if mode == "reflect" else "constant")


def grouped_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``torch.nn.functional.conv3d`` of an image that is already padded, stride 1, for a CPU.

    The samples of a batch, or two slabs of a single sample, become the groups of one grouped convolution. oneDNN
    computes groups of 8 channels in vectors of 8, which takes half of the time of an ungrouped convolution, padded to
    vectors of 16; it brings groups of 16 channels into its order faster than samples. And torch leaves small ungrouped
    convolutions of a single sample to a slow fallback, but no grouped one. The result equals the plain convolution's to
    rounding.

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
        return F.conv3d(x, weight, bias) if out_channels > WIDE else _one_group_each(x, weight, bias)
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
