"""The training loss of a network for missing modalities."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from medmap_components.losses.alignment import AlignmentLoss, feature_variance
from medmap_components.losses.segmentation import (
    TargetStatistics,
    soft_dice_loss,
    upsampled_softmax,
    weighted_cross_entropy,
)
from medmap_components.modalities import MODALITIES
from medmap_components.networks.outputs import TrainingOutput

__all__ = ["MissingModalityLoss", "check_weights"]


def check_weights(**weights: float) -> None:
    """Refuses weights of a loss that are negative or not finite.

    Args:
        **weights: each weight by the name of its argument.

    Raises:
        ValueError: for the first that is wrong, by its name.
    """
    for name, value in weights.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number, at least 0, got {value}.")


class MissingModalityLoss(nn.Module):
    """Segmentation loss over all maps of a network, plus the alignment of its latents to the anchor.

    ``loss = fused_weight * fused + modality_weight * sum(per modality) + deep_weight * sum(deep supervision)
    + alignment_weight * alignment``, where each map costs weighted cross-entropy plus soft Dice
    (``medmap_components.losses.segmentation``). With the three weights at 1 the segmentation part is that of mmFormer
    (Zhang et al., MICCAI 2022; https://github.com/YaoZhang93/mmFormer at b18663a). Computed in float32 at least, under
    autocast too.

    Args:
        alignment_weight: weight of the alignment, lambda. Its value was not published. 0 turns alignment off: the term
            is still measured, but passes no gradient. Default 1.
        alignment_divergence: ``"isotropic"`` (default), ``"normalised"`` or ``"gaussian"``, see ``losses.alignment``.
        fused_weight: weight of the fused map. Default 1.
        modality_weight: weight of each modality's own map. Default 1.
        deep_weight: weight of each deep-supervision map. Default 1.
        probability_floor: probabilities of the true class below it count as this one in the cross-entropy and get no
            gradient. Default 0.005, as published. A network whose logits nothing bounds falls below it early, and
            never learns the classes that it missed there: give it a smaller floor.

    Raises:
        ValueError: for a weight that is negative or not finite, a floor outside (0, 1), or an unknown divergence.
    """

    def __init__(
        self,
        alignment_weight: float = 1.0,
        alignment_divergence: str = "isotropic",
        fused_weight: float = 1.0,
        modality_weight: float = 1.0,
        deep_weight: float = 1.0,
        probability_floor: float = 0.005,
    ) -> None:
        super().__init__()
        check_weights(
            alignment_weight=alignment_weight,
            fused_weight=fused_weight,
            modality_weight=modality_weight,
            deep_weight=deep_weight,
        )
        if not 0 < probability_floor < 1:
            raise ValueError(f"probability_floor must lie between 0 and 1, got {probability_floor}.")
        self.alignment = AlignmentLoss(alignment_divergence)
        self.alignment_weight = alignment_weight
        self.fused_weight = fused_weight
        self.modality_weight = modality_weight
        self.deep_weight = deep_weight
        self.probability_floor = probability_floor

    def forward(self, output: TrainingOutput, target: Tensor | TargetStatistics) -> dict[str, Tensor]:
        """The loss and its terms.

        Args:
            output: what the network returned in training mode.
            target: label map ``(B, 1, D, H, W)`` with the classes 0 to K - 1, of any type; or its :meth:`statistics`,
                which several networks can share.

        Returns:
            Scalars by name: ``loss``, the one to call ``backward`` on, and its terms before weighting: ``fused_ce`` and
            ``fused_dice``, ``modality_flair`` and so on (left out where no sample of the batch has the modality),
            ``deep_2`` and so on, and, with an anchor, ``alignment_level_1`` and so on and their mean ``alignment``.
            ``feature_variance_level_1`` and so on watch for collapsing features and are no part of the loss. ``loss``
            and, unless its weight is 0, ``alignment`` carry a gradient, the others do not.

        Raises:
            ValueError: for the output of evaluation mode, a target of another shape than the logits, or with other
                values.
        """
        if not isinstance(output, TrainingOutput):
            raise ValueError(
                f"output must be the TrainingOutput of a network in training mode, got {type(output).__name__}; "
                "call network.train() first."
            )
        if not isinstance(target, TargetStatistics):
            target = self.statistics(output.logits, target)
        return self._terms(output, target)

    def _terms(self, output: TrainingOutput, target: TargetStatistics) -> dict[str, Tensor]:
        size = target.classes.shape[2:]
        fused_ce, fused_dice = self._both(upsampled_softmax(output.logits, size), target)
        modality = {f"modality_{name}": self._modality_term(name, output, target) for name in output.modality}
        deep = {
            name: torch.stack(self._both(upsampled_softmax(logits, size), target)).sum()
            for name, logits in output.deep.items()
        }
        loss = self.fused_weight * (fused_ce + fused_dice)
        loss = loss + self.modality_weight * _total(modality.values(), loss)
        loss = loss + self.deep_weight * _total(deep.values(), loss)
        measured = {name: term for name, term in modality.items() if _has_samples(name, output)}
        terms = {"fused_ce": fused_ce, "fused_dice": fused_dice, **measured, **deep}
        terms = {name: term.detach() for name, term in terms.items()}
        if not output.aligned:
            return {"loss": loss, **terms}

        with torch.set_grad_enabled(torch.is_grad_enabled() and self.alignment_weight > 0):
            levels = self.alignment(output.aligned, output.exists)
            alignment = torch.stack(list(levels.values())).mean()
        loss = loss + (self.alignment_weight * alignment if self.alignment_weight > 0 else _untouched_weights(output))
        for name, term in levels.items():
            terms[f"alignment_{name}"] = term.detach()
            terms[f"feature_variance_{name}"] = feature_variance(output.aligned[name], output.exists).nanmean()
        return {"loss": loss, **terms, "alignment": alignment}

    def _both(self, probabilities: Tensor, target: TargetStatistics) -> tuple[Tensor, Tensor]:
        cross_entropy = weighted_cross_entropy(probabilities, target, self.probability_floor)
        return cross_entropy, soft_dice_loss(probabilities, target)

    def _modality_term(self, name: str, output: TrainingOutput, target: TargetStatistics) -> Tensor:
        """Cross-entropy plus Dice of one modality's own map, over the samples that have the modality."""
        logits = output.modality[name]
        samples = output.exists[:, MODALITIES.index(name)].nonzero().flatten().tolist()
        if not samples:
            return logits[:0].sum()
        if len(samples) < len(logits):
            logits, target = logits[samples], target.select(samples)
        return torch.stack(self._both(upsampled_softmax(logits, target.classes.shape[2:]), target)).sum()

    @staticmethod
    def statistics(logits: Tensor, target: Tensor) -> TargetStatistics:
        """What the loss needs of a label map, computed once.

        Args:
            logits: ``(B, K, D, H, W)`` that the label map belongs to.
            target: see :meth:`forward`.

        Raises:
            ValueError: for a target of another shape than the logits, or with other values.
        """
        expected = (logits.shape[0], 1, *logits.shape[2:])
        if tuple(target.shape) != expected:
            raise ValueError(
                f"target must be a label map of the shape {expected} to fit the logits {tuple(logits.shape)}, "
                f"got {tuple(target.shape)}."
            )
        return TargetStatistics.from_labels(
            target.to(logits.device), logits.shape[1], torch.promote_types(logits.dtype, torch.float32)
        )


def _has_samples(term: str, output: TrainingOutput) -> bool:
    return bool(output.exists[:, MODALITIES.index(term.removeprefix("modality_"))].any())


def _total(terms: Iterable[Tensor], like: Tensor) -> Tensor:
    return torch.stack([like.new_zeros(()), *terms]).sum()


def _untouched_weights(output: TrainingOutput) -> Tensor | float:
    """Zero, attached to the mixture weights, so that distributed training sees every parameter used."""
    weights = [level.weights for level in output.aligned.values() if level.weights is not None]
    return 0 * torch.stack([each.sum() for each in weights]).sum() if weights else 0.0
