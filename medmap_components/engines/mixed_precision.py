"""Mixed precision on the CPU, which MONAI's engines know on CUDA alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar

import torch
from monai.engines import SupervisedEvaluator

__all__ = ["CpuMixedPrecision", "MissingModalityEvaluator"]

Function = TypeVar("Function", bound=Callable[..., Any])


class CpuMixedPrecision:
    """Gives one of MONAI's supervised engines, named after it among the bases, mixed precision on the CPU.

    There ``amp`` means bfloat16 under :class:`torch.autocast`, which has float32's range and so needs no scaler. It
    pays where the CPU multiplies in bfloat16 by itself (AVX512-BF16 or AMX); elsewhere it is slow, so that no bundle
    turns it on by itself. On CUDA ``amp`` is left to MONAI.

    Args:
        device: as in MONAI.
        amp: mixed precision. Default False.
        **kwargs: everything else of the engine.
    """

    def __init__(self, *, device: torch.device | str, amp: bool = False, **kwargs: Any) -> None:
        on_cpu = torch.device(device).type == "cpu"
        self.cpu_amp = amp and on_cpu
        super().__init__(device=device, amp=amp and not on_cpu, **kwargs)  # type: ignore[call-arg]

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision that the engine computes with on the CPU, as a context."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.cpu_amp)

    def in_its_precision(self, function: Function) -> Function:
        """The same function, computed in the engine's precision."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.autocast():
                return function(*args, **kwargs)

        return run  # type: ignore[return-value]


class MissingModalityEvaluator(CpuMixedPrecision, SupervisedEvaluator):
    """MONAI's ``SupervisedEvaluator``, with mixed precision on the CPU too.

    What comes after the inferer is computed in full precision, as it is on CUDA.

    Args:
        **kwargs: those of ``SupervisedEvaluator``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.cpu_amp:
            self.inferer = self.in_its_precision(self.inferer)
