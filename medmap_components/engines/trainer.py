"""The trainer of networks that return several outputs and of losses that have several named terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor

from medmap_components.engines.batches import PrepareStudyBatch
from medmap_components.engines.mixed_precision import CpuMixedPrecision
from medmap_components.engines.monitors import EpochMeans

__all__ = ["MissingModalityTrainer"]

Terms = dict[str, Tensor]


class MissingModalityTrainer(CpuMixedPrecision, SupervisedTrainer):
    """MONAI's ``SupervisedTrainer`` for a network in training mode and a loss with named terms.

    The network returns a :class:`~medmap_components.networks.TrainingOutput`; the loss turns it and the label map into
    a dictionary whose entry ``"loss"`` is minimised and whose other entries are its terms. Every entry stands under its
    name in ``engine.state.output`` after each iteration and, averaged over the epoch, in ``engine.state.metrics``, from
    where MONAI's handlers bring it to the log, to TensorBoard and to MLflow. Gradient accumulation, mixed precision
    on CUDA and ``torch.compile`` are those of ``SupervisedTrainer`` (accumulation from MONAI 1.6 on); mixed precision
    on the CPU is that of :class:`CpuMixedPrecision`.

    Args:
        loss_function: ``(TrainingOutput, label (B, 1, D, H, W)) -> {"loss": scalar, term: scalar, ...}``.
        prepare_batch: as in MONAI; None takes :class:`PrepareStudyBatch`, which hands both masks to the network.
        train_handlers: as in MONAI; the epoch means are there before any of them runs.
        decollate: as in MONAI, but off by default: nothing here needs a list of samples.
        **kwargs: everything else of ``SupervisedTrainer``.
    """

    def __init__(
        self,
        *,
        loss_function: Callable[..., Terms],
        prepare_batch: Callable[..., Any] | None = None,
        train_handlers: Sequence[Any] | None = None,
        decollate: bool = False,
        **kwargs: Any,
    ) -> None:
        self.term_loss = loss_function
        self.terms: Terms = {}
        super().__init__(
            loss_function=self.in_its_precision(self._total_loss),
            prepare_batch=prepare_batch or PrepareStudyBatch(),
            train_handlers=[EpochMeans(), *(train_handlers or [])],
            decollate=decollate,
            **kwargs,
        )
        self.inferer = self.in_its_precision(self.inferer)

    def _register_handlers(self, handlers: Sequence[Any]) -> None:
        self.add_event_handler(IterationEvents.LOSS_COMPLETED, self._publish_terms)
        super()._register_handlers(handlers)

    def _compute_terms(self, output: Any, target: Tensor) -> Terms:
        """What the loss function makes of the network's output; for subclasses whose loss takes more than these."""
        return self.term_loss(output, target)

    def _total_loss(self, output: Any, target: Tensor) -> Tensor:
        self.terms = self._compute_terms(output, target)
        return self.terms["loss"]

    def _publish_terms(self, engine: SupervisedTrainer) -> None:
        prediction = engine.state.output[CommonKeys.PRED]
        engine.state.output[CommonKeys.PRED] = prediction.logits.detach()
        engine.state.output.update({name: term.detach() for name, term in self.terms.items() if name != "loss"})
