"""Whether a network runs for the sake of a graph of it: no decision may then depend on the values of a tensor."""

from __future__ import annotations

import torch

__all__ = ["is_exporting", "is_tracing"]


def is_tracing() -> bool:
    """Whether ``torch.jit.trace`` is at work, or an ONNX export that is built on it."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def is_exporting() -> bool:
    """Whether a graph is made for use elsewhere: by ``torch.jit.trace`` or by ``torch.export``, as ONNX needs it.

    ``torch.compile`` does not count: it compiles anew where a decision comes out differently.
    """
    # torch 2.6, the oldest that is supported, has no is_exporting, and its ONNX export is built on tracing
    exporting = getattr(torch.compiler, "is_exporting", None)
    return is_tracing() or (exporting is not None and bool(exporting()))
