"""The trainer of ACN: two paths under one optimiser, against two discriminators with optimisers of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.func import functional_call
from torch.optim import Optimizer

from medmap_components.engines.checkpoints import without_wrapper
from medmap_components.engines.trainer import MissingModalityTrainer, Terms
from medmap_components.losses import discrimination_accuracy, discrimination_loss
from medmap_components.networks import CoTrainingOutput, TrainingOutput

__all__ = ["Adversary", "CoTrainingTrainer"]


class Adversary:
    """A discriminator that learns to tell the full path from the missing path, with an optimiser that lasts.

    Can be saved and resumed as a whole, see ``also`` of :class:`~medmap_components.engines.ResumableState`.

    Args:
        discriminator: turns what a path computed into logits, positive for the full path. On the training device;
            with several processes inside DistributedDataParallel.
        optimizer: over its parameters. Its state is kept through the whole run.
    """

    def __init__(self, discriminator: nn.Module, optimizer: Optimizer) -> None:
        self.discriminator = discriminator
        self.optimizer = optimizer

    def judge(self, missing: Tensor) -> Tensor:
        """The logits for the missing path, whose gradient reaches that path and leaves none in the discriminator."""
        bare = without_wrapper(self.discriminator)
        frozen = {name: parameter.detach() for name, parameter in bare.named_parameters()}
        judged: Tensor = functional_call(bare, frozen, (missing,))
        return judged

    def learn(
        self, full: Tensor, missing: Tensor, scaler: GradScaler | None = None, **amp: Any
    ) -> tuple[Tensor, Tensor]:
        """One step of the discriminator; no gradient goes to what it judges.

        Args:
            full: what the full path computed, ``(B, ...)``.
            missing: the same of the missing path.
            scaler: the gradient scaler of mixed precision, which the caller updates once per iteration. None: float32.
            **amp: further arguments of ``torch.autocast``, where there is a scaler.

        Returns:
            The discriminator's loss and its accuracy, scalars, from before the step.
        """
        scaler = scaler or GradScaler(enabled=False)
        self.discriminator.train()
        self.optimizer.zero_grad()
        with torch.autocast("cuda", **{**amp, "enabled": scaler.is_enabled()}):
            # one forward pass, because DistributedDataParallel expects a backward pass after each
            of_full, of_missing = self.discriminator(torch.cat([full, missing]).detach()).chunk(2)
            loss = discrimination_loss(of_full, of_missing)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(self.optimizer)
        return loss.detach(), discrimination_accuracy(of_full.detach(), of_missing.detach())

    def state_dict(self) -> dict[str, Any]:
        """The discriminator's weights and its optimiser's state."""
        bare = without_wrapper(self.discriminator)
        return {"discriminator": bare.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave."""
        without_wrapper(self.discriminator).load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])


class CoTrainingTrainer(MissingModalityTrainer):
    """Trains a :class:`~medmap_components.networks.CoTrainedPair` against two discriminators.

    In each iteration both paths run once, and the whole loss goes back through them; the discriminators, as the last
    iteration left them, take part in it without learning. Then each discriminator takes a step of its own on the
    detached outputs, and the paths' optimiser takes its step. Validation and inference see the missing path alone, so
    the evaluator gets that one.

    Beside the terms of the loss, ``engine.state.output`` and the epoch's metrics hold ``discriminator_entropy`` and
    ``discriminator_feature``, their losses, and ``accuracy_entropy`` and ``accuracy_feature``: at 0.5 a discriminator
    cannot tell the paths apart.

    With several processes the pair and both discriminators are inside DistributedDataParallel, each on its own.

    Args:
        network: the pair.
        loss_function: ``(CoTrainingOutput, label, judged, epoch) -> {"loss": scalar, term: scalar, ...}``, see
            :class:`~medmap_components.losses.CoTrainingLoss`.
        optimizer: over all parameters of the pair.
        entropy_adversary: judges segmentation logits.
        feature_adversary: judges bottleneck features.
        accumulation_steps: must be 1.
        **kwargs: everything else of :class:`MissingModalityTrainer`.

    Raises:
        ValueError: for other ``accumulation_steps``.
    """

    def __init__(
        self,
        *,
        loss_function: Callable[[CoTrainingOutput, Tensor, Mapping[str, Tensor], int], Terms],
        entropy_adversary: Adversary,
        feature_adversary: Adversary,
        accumulation_steps: int = 1,
        **kwargs: Any,
    ) -> None:
        if accumulation_steps != 1:
            raise ValueError(
                f"accumulation_steps must be 1 for co-training, got {accumulation_steps}: the discriminators step with "
                "every batch. Use a larger batch_size, or more processes."
            )
        self.adversaries = {"entropy": entropy_adversary, "feature": feature_adversary}
        self._views: dict[str, tuple[Tensor, Tensor]] = {}
        super().__init__(loss_function=loss_function, **kwargs)

    def _register_handlers(self, handlers: Any) -> None:
        self.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._teach_adversaries)
        super()._register_handlers(handlers)

    def _compute_terms(self, output: CoTrainingOutput, target: Tensor) -> Terms:
        full, missing = _views(output.full), _views(output.missing)
        self._views = {name: (full[name].detach().float(), missing[name].detach().float()) for name in self.adversaries}
        judged = {name: adversary.judge(missing[name]) for name, adversary in self.adversaries.items()}
        return self.term_loss(output, target, judged, self.state.epoch - 1)

    def _teach_adversaries(self, engine: SupervisedTrainer) -> None:
        for name, adversary in self.adversaries.items():
            loss, accuracy = adversary.learn(*self._views[name], engine.scaler, **engine.amp_kwargs)
            engine.state.output.update({f"discriminator_{name}": loss, f"accuracy_{name}": accuracy})
        self._views = {}


def _views(path: TrainingOutput) -> dict[str, Tensor]:
    """What each discriminator gets to see of a path."""
    return {"entropy": path.logits, "feature": path.features["bottleneck"]}
