"""Which process of a distributed training this is, and what the others measured; usually there is just one."""

from __future__ import annotations

from collections.abc import Mapping

import torch.distributed as dist
from torch import Tensor

__all__ = ["is_first_process", "mean_over_processes", "process_rank", "sums_over_processes"]


def process_rank() -> int:
    """The number of this process among those that train together; 0 where it is the only one."""
    return dist.get_rank() if _distributed() else 0


def is_first_process() -> bool:
    """Whether this process is the one that writes files."""
    return process_rank() == 0


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor that every process has; all of them must call it."""
    if not _distributed():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def sums_over_processes(values: Mapping[str, float]) -> dict[str, float]:
    """Sums by name over the processes, of which each may lack some names; all of them must call it."""
    if not _distributed():
        return dict(values)
    everyone: list[dict[str, float]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, dict(values))
    names = dict.fromkeys(name for each in everyone for name in each)
    return {name: sum(each.get(name, 0.0) for each in everyone) for name in names}


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
