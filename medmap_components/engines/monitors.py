"""What a training run shows while it goes on: loss terms by name, anchor weights, progress bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Workflow
from monai.utils.enums import CommonKeys
from torch import Tensor

from medmap_components.engines.processes import sums_over_processes

try:
    from ignite.handlers import ProgressBar
except ImportError:  # before ignite 0.5, which MONAI 1.4 and 1.5 ask for
    from ignite.contrib.handlers import ProgressBar  # type: ignore[attr-defined, no-redef, unused-ignore]

__all__ = ["EngineProgressBar", "EpochMeans", "LossTerms"]


class LossTerms:
    """Picks the scalars out of a trainer's output, for handlers that take an ``output_transform``.

    Usable with ``StatsHandler``, ``TensorBoardStatsHandler`` and ``MLFlowHandler``; gives ``{name: float}``.

    Args:
        prefix: what is put before each name. Default: nothing. TensorBoard needs one that tells the curves over
            iterations from those over epochs, which :class:`EpochMeans` names alike.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix

    def __call__(self, output: Mapping[str, Any]) -> dict[str, float]:
        """The loss and its terms by name, as floats."""
        scalars = {name: value for name, value in output.items() if _is_scalar(value)}
        return {self.prefix + name: float(torch.as_tensor(value).detach()) for name, value in scalars.items()}


class EpochMeans:
    """Averages every scalar of the trainer's output over the epoch into ``engine.state.metrics``.

    A term that some batches lack (the loss of a modality that no sample of the batch has) is averaged over the
    batches that have it. In distributed training the mean is over the batches of all processes.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def attach(self, engine: Engine) -> None:
        """Hooks into the start of each epoch, the end of each iteration and the end of each epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _reset(self) -> None:
        self._sums.clear()
        self._counts.clear()

    def _add(self, engine: Workflow) -> None:
        for name, value in engine.state.output.items():
            if _is_scalar(value):
                value = torch.as_tensor(value).detach().double()
                self._sums[name] = self._sums[name] + value if name in self._sums else value
                self._counts[name] = self._counts.get(name, 0) + 1

    def _write(self, engine: Workflow) -> None:
        sums = sums_over_processes({name: float(total) for name, total in self._sums.items()})
        counts = sums_over_processes(self._counts)
        engine.state.metrics.update({name: total / counts[name] for name, total in sums.items()})


class EngineProgressBar(ProgressBar):
    """A progress bar over the iterations of an epoch, with the running loss where the engine has one.

    Args:
        desc: the word in front of the bar. Default: ``"training"``.
        persist: whether a finished bar stays on the screen. Default: False.
        **kwargs: everything else that tqdm takes.
    """

    def __init__(self, desc: str = "training", persist: bool = False, **kwargs: Any) -> None:
        super().__init__(desc=desc, persist=persist, **kwargs)

    def attach(self, engine: Engine, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Shows the loss beside the bar; ``args`` and ``kwargs`` are ignite's own and rarely needed."""
        if not args and not kwargs:
            kwargs = {"output_transform": _running_loss}
        super().attach(engine, *args, **kwargs)


def _running_loss(output: Any) -> dict[str, float]:
    if isinstance(output, Mapping) and CommonKeys.LOSS in output:
        return {"loss": float(torch.as_tensor(output[CommonKeys.LOSS]).detach())}
    return {}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1 and value.ndim == 0)
