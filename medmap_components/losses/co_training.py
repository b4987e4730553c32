"""The loss of ACN's co-training: both paths' own losses, and what ties them together.

Wang et al., "ACN: Adversarial Co-training Network for Brain Tumor Segmentation with Missing Modalities", MICCAI 2021;
weights from the authors' code, https://github.com/Wangyixinxin/ACN at 0643c57.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medmap_components.losses.adversarial import fooling_loss
from medmap_components.losses.missing_modality import MissingModalityLoss, check_weights
from medmap_components.losses.segmentation import upsampled_softmax
from medmap_components.networks.blocks import instance_norm
from medmap_components.networks.co_training import CoTrainingOutput

__all__ = ["CoTrainingLoss", "consistency_loss", "information_loss", "ramp_up"]

PROBABILITY_FLOOR = 1e-12
"""Of the true class in the cross-entropy, so that no voxel is ever without a gradient."""


def consistency_loss(first: Tensor, second: Tensor) -> Tensor:
    """Squared difference of two segmentations: ``sum_c mean((p_c - q_c)^2)`` with p and q the softmax over the classes.

    The background is one of the classes, and the gradient goes to both.

    Args:
        first: logits ``(B, K, D, H, W)``.
        second: logits of the same shape.

    Returns:
        A scalar between 0 and 2.
    """
    size = first.shape[2:]
    difference = upsampled_softmax(first, size) - upsampled_softmax(second, size)
    return difference.square().mean() * first.shape[1]


def ramp_up(epoch: int, length: int) -> float:
    """``exp(-5 (1 - min(e, L) / L)^2)``: from 0.0067 in epoch 0 to 1 from epoch L on.

    Args:
        epoch: e, the number of epochs that are behind.
        length: L; 0 means no ramp.
    """
    if length == 0:
        return 1.0
    return math.exp(-5 * (1 - min(epoch, length) / length) ** 2)


def information_loss(target: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """How badly a Gaussian prediction fits: ``mean(((t - mean)^2 / variance + log variance) / 2)``.

    ``t`` is the target, standardised per sample and channel: an answer of zeros with variance 1 costs 1/2. Up to
    constants it bounds the mutual information of the target and what it is predicted from (Ahn et al., CVPR 2019). No
    gradient goes to the target: knowledge flows from the full path to the missing path, and the full path does not
    make itself poorer to be predictable.

    Args:
        target: the full path's features ``(B, C, d, h, w)``, as they are.
        mean: the prediction of ``t`` from the missing path's features, of the same shape.
        variance: of the prediction, ``(C,)``.

    Returns:
        A scalar, in float32 at least.
    """
    precise = torch.promote_types(mean.dtype, torch.float32)
    spread = variance.to(precise).reshape(1, -1, *(1,) * (mean.ndim - 2))
    squared = (instance_norm(target.detach().to(precise)) - mean.to(precise)).square()
    return ((squared / spread + spread.log()) / 2).mean()


class CoTrainingLoss(nn.Module):
    """``(1 - m) full + m missing + w(e) consistency + i information + a adversarial_entropy + b adversarial_feature``.

    ``full`` and ``missing`` are each path's :class:`MissingModalityLoss`, segmentation and alignment: in each path
    the two stand to each other as in every other backbone. ``w(e)`` is ``consistency_weight`` times :func:`ramp_up`.

    The authors' segmentation loss, a Dice with squared denominators over three sigmoid maps, is replaced by that of
    the other backbones, so that bundles differ in their backbone and not in their loss; it covers all four classes.
    Only its floor under the probabilities is lowered to 1e-12: ACN's logits come from a sum of residuals that nothing
    bounds, fall below the usual floor within a few steps, and rare classes would never come back.
    Their consistency sums over the three maps; this one sums over the four classes. Their information term predicts
    the missing path's features from these themselves; this one predicts the full path's.

    Args:
        alignment_weight: see :class:`MissingModalityLoss`. Default 1.
        alignment_divergence: see :class:`MissingModalityLoss`. Default ``"isotropic"``.
        missing_weight: m, the missing path's share of both paths' losses. Default 0.8.
        consistency_weight: of the consistency, once the ramp is over. Default 10.
        consistency_ramp: epochs that the ramp lasts. Default 20.
        information_weight: i. Default 0.5.
        entropy_weight: a. Default 0.001.
        feature_weight: b. Default 0.0002.

    Raises:
        ValueError: for a weight that is negative or not finite, a ``missing_weight`` above 1, or an unknown divergence.
    """

    def __init__(
        self,
        alignment_weight: float = 1.0,
        alignment_divergence: str = "isotropic",
        missing_weight: float = 0.8,
        consistency_weight: float = 10.0,
        consistency_ramp: int = 20,
        information_weight: float = 0.5,
        entropy_weight: float = 0.001,
        feature_weight: float = 0.0002,
    ) -> None:
        super().__init__()
        check_weights(
            missing_weight=missing_weight,
            consistency_weight=consistency_weight,
            consistency_ramp=consistency_ramp,
            information_weight=information_weight,
            entropy_weight=entropy_weight,
            feature_weight=feature_weight,
        )
        if missing_weight > 1:
            raise ValueError(f"missing_weight is the missing path's share and at most 1, got {missing_weight}.")
        self.path_loss = MissingModalityLoss(
            alignment_weight, alignment_divergence, probability_floor=PROBABILITY_FLOOR
        )
        self.alignment_weight = alignment_weight
        self.missing_weight = missing_weight
        self.consistency_weight = consistency_weight
        self.consistency_ramp = consistency_ramp
        self.information_weight = information_weight
        self.entropy_weight = entropy_weight
        self.feature_weight = feature_weight

    def forward(
        self, output: CoTrainingOutput, target: Tensor, judged: Mapping[str, Tensor], epoch: int
    ) -> dict[str, Tensor]:
        """The loss and its terms.

        Args:
            output: of both paths in training mode.
            target: label map ``(B, 1, D, H, W)`` with the classes 0 to K - 1, of any type.
            judged: the discriminators' logits for the missing path, ``"entropy"`` and ``"feature"``. Their gradient
                should reach the missing path alone.
            epoch: number of epochs that are behind.

        Returns:
            Scalars by name: ``loss``, the one to call ``backward`` on, and its terms before weighting: those of
            :class:`MissingModalityLoss` for each path, as ``full_fused_ce``, ``missing_fused_ce`` and so on;
            ``consistency``, ``information``, ``adversarial_entropy`` and ``adversarial_feature``; and the present
            ``consistency_weight``. With an anchor also ``alignment`` and ``alignment_level_1``, of both paths in their
            shares. ``loss`` and, unless its weight is 0, ``alignment`` carry a gradient, the others do not.

        Raises:
            ValueError: as :class:`MissingModalityLoss` does.
        """
        statistics = self.path_loss.statistics(output.logits, target)
        full = self.path_loss(output.full, statistics)
        missing = self.path_loss(output.missing, statistics)
        ties = {
            "consistency": consistency_loss(output.full.logits, output.missing.logits),
            "information": information_loss(output.full.features["bottleneck"], output.mean, output.variance),
            "adversarial_entropy": fooling_loss(judged["entropy"]),
            "adversarial_feature": fooling_loss(judged["feature"]),
        }
        weights = {
            "consistency": self.consistency_weight * ramp_up(epoch, self.consistency_ramp),
            "information": self.information_weight,
            "adversarial_entropy": self.entropy_weight,
            "adversarial_feature": self.feature_weight,
        }
        loss = self._shared(full["loss"], missing["loss"])
        for name, tie in ties.items():
            loss = loss + weights[name] * tie
        terms = {name: tie.detach() for name, tie in ties.items()}
        terms["consistency_weight"] = loss.new_tensor(weights["consistency"]).detach()
        for path, of_path in (("full", full), ("missing", missing)):
            terms.update({f"{path}_{name}": term.detach() for name, term in of_path.items()})
        for name in full:
            if name.startswith("alignment"):
                terms[name] = self._shared(full[name], missing[name])
        return {"loss": loss, **terms}

    def _shared(self, full: Tensor, missing: Tensor) -> Tensor:
        return (1 - self.missing_weight) * full + self.missing_weight * missing
