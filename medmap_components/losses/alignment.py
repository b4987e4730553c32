"""How far the latents of each modality are from their anchor, and a monitor for collapsing features.

Each modality's latents are read as a Gaussian and compared with the anchor's by the Kullback-Leibler divergence, either
with unit variances (``isotropic``: a mean squared error; ``normalised``: the same of features that were divided by each
channel's standard deviation) or with measured moments (``gaussian``).

Reconstructed from the fragment that MedMAP's authors published (https://github.com/T-Y-Liu/MedMAP at 76413fc), whose
``sum_m MSE(z_m, a) / 8`` is the isotropic form when all four modalities exist. The other two forms are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmap_components.networks.outputs import AlignedLevel

__all__ = [
    "AlignmentLoss",
    "feature_variance",
    "gaussian_divergence",
    "isotropic_divergence",
    "normalised_divergence",
]

VARIANCE_FLOOR = 1e-30
"""Keeps the logarithm finite where features are zero everywhere."""


def isotropic_divergence(level: AlignedLevel, exists: Tensor) -> Tensor:
    """Mean of ``KL(N(z_m, I) || N(a, I))`` per element, ``1/2 mean((z_m - a)^2)``.

    The mean runs over the elements, then over the modalities that a sample has, then over the samples. With all four
    modalities that is ``sum_m MSE(z_m, a) / 8``. Shrinking all features lowers it, see :func:`feature_variance`.

    Args:
        level: the latents ``(B, M, C, D, H, W)`` and their anchor.
        exists: bool ``(B, M)``, at least one True per sample.

    Returns:
        A scalar, at least 0.
    """
    return _mean_over_existing(_squared_distance(level, exists).mean(dim=2) / 2, exists)


def normalised_divergence(level: AlignedLevel, exists: Tensor, eps: float = 1e-5) -> Tensor:
    """:func:`isotropic_divergence` of normalised features: ``1/2 mean((z_m - a)^2 / v)`` with ``v`` of each channel.

    ``v`` is the variance of a channel over all modalities, samples that have them, and space. Taking the common mean
    off and dividing by the standard deviation changes the anchor as it changes the latents, as its weights sum to 1. So
    every channel counts alike, whatever its scale, and the value stays the same when all features are scaled or shifted
    together: features cannot cheat by shrinking. Where the anchor is detached, ``v`` is as well.

    Args:
        level: the latents ``(B, M, C, D, H, W)``, their anchor, a mixture of them, and whether it is detached.
        exists: bool ``(B, M)``, at least one True per sample.
        eps: added to the variance, times the channel's mean square. Default 1e-5.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: for the anchor ``P_N``, which is no mixture: the mean square of normalised features is 1 whatever
            they are, so there would be nothing to learn.
    """
    if level.weights is None:
        raise ValueError(
            "divergence 'normalised' needs an anchor that is a mixture of the latents (P^k_mix, P*_mix); features that "
            "are normalised are as far from the standard normal P_N whatever they are. Take 'isotropic' or 'gaussian'."
        )
    mean, variance = _channel_moments(level.latents, exists)
    present = exists.any(dim=0)
    mean, variance = mean[present], variance[present]
    common = mean.mean(dim=0)
    spread = (variance + (mean - common).square()).mean(dim=0)
    if level.detached:
        spread = spread.detach()
    floor = (eps * (spread + common.square()) + VARIANCE_FLOOR).detach()
    return _mean_over_existing((_squared_distance(level, exists) / (spread + floor)).mean(dim=2) / 2, exists)


def gaussian_divergence(level: AlignedLevel, exists: Tensor, eps: float = 1e-5) -> Tensor:
    """Mean of ``KL(q_m || p)`` per channel between diagonal Gaussians with measured moments.

    Each channel of a modality has the mean and the (biased) variance of its values over space and over the samples
    that have the modality. The anchor has those of the mixture with the weights ``w`` of each sample: the mean
    ``mu = sum_m w_m mu_m`` and the variance ``sum_m w_m (var_m + mu_m^2) - mu^2``; without weights it is ``N(0, 1)``.
    The mean runs over the channels, the modalities that a sample has, and the samples.

    With weights the value stays the same when all features are scaled together: features cannot cheat by shrinking.

    Args:
        level: the latents ``(B, M, C, D, H, W)``, the weights of their mixture, and whether it is detached.
        exists: bool ``(B, M)``, at least one True per sample.
        eps: added to every measured variance, times the channel's mean square over the modalities. Default 1e-5.

    Returns:
        A scalar, at least 0 but for rounding.
    """
    mean, variance = _channel_moments(level.latents, exists)
    mean_square = (variance + mean.square()).sum(dim=0) / exists.any(dim=0).sum()
    floor = (eps * mean_square + VARIANCE_FLOOR).detach()
    if level.weights is None:
        anchor_mean, anchor_variance = torch.zeros_like(mean), torch.ones_like(mean)
    else:
        weights = level.weights.to(mean.dtype).unsqueeze(2)
        parts = (mean.detach(), variance.detach()) if level.detached else (mean, variance)
        anchor_mean = (weights * parts[0]).sum(dim=1, keepdim=True)
        # the mixture's variance, written so that a large mean does not cancel a small variance
        spread = (parts[0] - anchor_mean).square()
        anchor_variance = (weights * (parts[1] + spread)).sum(dim=1, keepdim=True) + floor
    variance = variance + floor
    ratio = (variance + (mean - anchor_mean).square()) / anchor_variance
    divergence = (ratio - 1 - (variance.log() - anchor_variance.log())) / 2
    return _mean_over_existing(divergence.mean(dim=-1).expand(exists.shape), exists)


def feature_variance(level: AlignedLevel, exists: Tensor) -> Tensor:
    """The variance of each modality's features over space, averaged over channels and the samples that have it.

    A monitor without gradient: when it falls towards 0, the features collapse and the isotropic divergence says little.

    Args:
        level: the latents ``(B, M, C, D, H, W)``.
        exists: bool ``(B, M)``.

    Returns:
        ``(M,)`` in the order of ``MODALITIES``; NaN for a modality that no sample has.
    """
    latents = level.latents.detach().as_subclass(Tensor)
    values = latents.to(_precise(latents)).flatten(3)
    # var() takes five times as long on a CPU
    per_sample = (values - values.mean(dim=3, keepdim=True)).square_().mean(dim=(2, 3))
    present = torch.where(exists, per_sample, 0)
    return present.sum(dim=0) / exists.sum(dim=0)


DIVERGENCES = {
    "isotropic": isotropic_divergence,
    "normalised": normalised_divergence,
    "gaussian": gaussian_divergence,
}


class AlignmentLoss(nn.Module):
    """The divergence between each modality's latents and the anchor, at every aligned level.

    Computed in float32 at least, under autocast too.

    Args:
        divergence: ``"isotropic"`` (default), ``"normalised"`` or ``"gaussian"``, see the functions of these names.

    Raises:
        ValueError: for another divergence.
    """

    def __init__(self, divergence: str = "isotropic") -> None:
        super().__init__()
        if divergence not in DIVERGENCES:
            raise ValueError(f"divergence must be one of {list(DIVERGENCES)}, got {divergence!r}.")
        self.divergence = divergence

    def forward(self, aligned: Mapping[str, AlignedLevel], exists: Tensor) -> dict[str, Tensor]:
        """The loss per level.

        Args:
            aligned: what a network returned in ``TrainingOutput.aligned``.
            exists: bool ``(B, M)``, at least one True per sample.

        Returns:
            One scalar per level, under the level's own key.
        """
        return {name: DIVERGENCES[self.divergence](level, exists) for name, level in aligned.items()}


def _precise(latents: Tensor) -> torch.dtype:
    return torch.promote_types(latents.dtype, torch.float32)


def _existing(latents: Tensor, exists: Tensor, stand_in: Tensor) -> Tensor:
    """The latents in float32 at least, with a stand-in where a modality does not exist."""
    if not bool(exists.all()):
        latents = torch.where(exists.reshape(exists.shape + (1,) * (latents.ndim - 2)), latents, stand_in)
    return latents.as_subclass(Tensor).to(_precise(latents))


def _squared_distance(level: AlignedLevel, exists: Tensor) -> Tensor:
    """Mean over space of ``(z_m - a)^2``, ``(B, M, C)``; 0 where a modality does not exist."""
    anchor = level.anchor.unsqueeze(1)
    latents = _existing(level.latents, exists, anchor)
    squared = F.mse_loss(latents, anchor.to(latents.dtype).expand_as(latents), reduction="none")
    return squared.flatten(3).mean(dim=3)


def _channel_moments(latents: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(M, C)`` over space and over the samples that have the modality; 0 where none has it."""
    values = _existing(latents, exists, latents.new_zeros(())).flatten(3)
    variance, mean = torch.var_mean(values, dim=3, correction=0)
    share = exists.to(mean.dtype) / exists.sum(dim=0).clamp_min(1)
    share = share.unsqueeze(2)
    pooled = (share * mean).sum(dim=0)
    return pooled, (share * (variance + (mean - pooled).square())).sum(dim=0)


def _mean_over_existing(per_modality: Tensor, exists: Tensor) -> Tensor:
    """Mean of ``(B, M)`` over the modalities that each sample has, then over the samples."""
    present = torch.where(exists, per_modality, 0)
    return (present.sum(dim=1) / exists.sum(dim=1)).mean()
