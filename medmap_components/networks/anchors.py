"""Anchors: the distribution that the latents of every modality are drawn to, and what stands in for an absent one.

The latents ``z_m`` of one encoder level, ``(B, M, C, D, H, W)``, are read as the means of ``q(z_m | x_m) = N(z_m, I)``.
An anchor ``N(a, I)`` is common to all modalities: the alignment loss (``medmap_components.losses``) measures how far
each modality is from it, and its mean ``a`` replaces the latents of absent ones. Of a mixture it is the Gaussian at the
weighted mean of the latents, not a mixture of Gaussians.

MedMAP (Liu et al.) compares three anchors, ``P_N``, ``P^k_mix`` and ``P*_mix``. Its full text was not available to us:
this is a reconstruction from its abstract, its captions and the fragment that the authors published
(https://github.com/T-Y-Liu/MedMAP at 76413fc).

Where we differ from the authors' fragment on purpose:

- the mask is read per sample; theirs reads sample 0 of the batch;
- the anchor that replaces an absent modality is mixed from the available ones only, in training too; theirs mixes the
  hidden ones in during training;
- features are scaled alike in training and at inference; theirs are multiplied by ``w_m`` at inference only.

``AdaptiveMixAnchor(faithful=True)`` undoes all three.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmap_components.modalities import MODALITIES
from medmap_components.networks.outputs import AlignedLevel

__all__ = ["AdaptiveMixAnchor", "Anchor", "FixedMixAnchor", "NormalAnchor"]

FILLS = ("anchor", "zeros")


class Anchor(nn.Module, ABC):
    """Common to all anchors: which levels are aligned, and how absent modalities are replaced there.

    Args:
        levels: encoder levels that are aligned, 1 being the finest. Default level 1 only, as in the authors' fragment.
        fill: ``"anchor"`` replaces an absent modality by the anchor, ``"zeros"`` by zeros, as the backbones do.
        detach_anchor: True stops the gradient that reaches the latents through the anchor. The gradient of learned
            mixture weights is never stopped.

    Raises:
        ValueError: for levels that are empty, repeated or below 1, or for an unknown fill.
    """

    def __init__(
        self, levels: Sequence[int] | int = (1,), fill: str = "anchor", *, detach_anchor: bool = False
    ) -> None:
        super().__init__()
        levels = (levels,) if isinstance(levels, int) else tuple(levels)
        if not levels or len(set(levels)) != len(levels) or any(not isinstance(v, int) or v < 1 for v in levels):
            raise ValueError(f"levels must be distinct whole numbers from 1 on, at least one, got {levels!r}.")
        if fill not in FILLS:
            raise ValueError(f"fill must be one of {list(FILLS)}, got {fill!r}.")
        self.levels = levels
        self.fill = fill
        self.detach_anchor = detach_anchor

    @property
    def fills(self) -> bool:
        """True when absent modalities are replaced by something else than zeros at the aligned levels."""
        return self.fill == "anchor"

    def aligns(self, level: int) -> bool:
        """Whether the encoder level of this number is aligned, 1 being the finest."""
        return level in self.levels

    @abstractmethod
    def align(self, latents: Tensor, exists: Tensor, level: int) -> AlignedLevel:
        """The anchor that the alignment loss measures against, mixed from all modalities that exist.

        Args:
            latents: ``(B, M, C, D, H, W)``; what stands for modalities that do not exist is ignored.
            exists: bool ``(B, M)``, at least one True per sample.
            level: the encoder level that the latents come from.

        Raises:
            ValueError: for a level that is not aligned, or shapes that do not fit.
        """

    def fill_absent(self, latents: Tensor, mask: Tensor, level: int) -> Tensor:
        """The latents with absent modalities replaced; visible ones are left as they are.

        Args:
            latents: ``(B, M, C, D, H, W)``; what stands for absent modalities, NaN included, is ignored.
            mask: bool ``(B, M)``, at least one True per sample. The replacement is mixed from these alone.
            level: the encoder level that the latents come from.

        Returns:
            ``(B, M, C, D, H, W)``.

        Raises:
            ValueError: for a level that is not aligned, or shapes that do not fit.
        """
        self._check(latents, mask, level, "mask")
        replacement = self._replacement(latents, mask, level) if self.fills else latents.new_zeros(())
        return torch.where(_over_space(mask, latents), latents, replacement)

    def mixture_logits(self) -> nn.Parameter | None:
        """The learned parameter behind the mixture weights, one row per aligned level; None where none is learned."""
        return None

    def weights_by_modality(self) -> dict[str, dict[str, float]]:
        """The mixture weights when no modality is missing: ``{"level_1": {"flair": 0.25, ...}}``; empty for none."""
        return {}

    @abstractmethod
    def _replacement(self, latents: Tensor, mask: Tensor, level: int) -> Tensor:
        """What stands in for absent modalities, broadcastable to ``(B, M, C, D, H, W)``."""

    def _check(self, latents: Tensor, available: Tensor, level: int, name: str) -> None:
        if not self.aligns(level):
            raise ValueError(f"level {level} is not aligned; this anchor aligns the levels {self.levels}.")
        if latents.ndim < 3 or latents.shape[1] != len(MODALITIES):
            raise ValueError(f"latents must have the shape (B, {len(MODALITIES)}, C, ...), got {tuple(latents.shape)}.")
        if available.shape != latents.shape[:2] or available.dtype != torch.bool:
            got = f"{available.dtype} of {tuple(available.shape)}"
            raise ValueError(f"{name} must be a bool tensor of the shape {tuple(latents.shape[:2])}, got {got}.")


class NormalAnchor(Anchor):
    """``P_N``: the standard normal ``N(0, I)``.

    It replaces absent modalities by its mean, 0, which is what the backbones put there by themselves: at inference a
    network with this anchor differs from the plain one by its training only. So ``fills`` is always False.

    Args:
        levels: encoder levels that are aligned. Default ``(1,)``.
        fill, detach_anchor: accepted so that anchors can be exchanged; without effect.
    """

    @property
    def fills(self) -> bool:
        """Always False: the replacement is 0."""
        return False

    def align(self, latents: Tensor, exists: Tensor, level: int) -> AlignedLevel:
        """See :meth:`Anchor.align`; the anchor is zero and has no weights."""
        self._check(latents, exists, level, "exists")
        return AlignedLevel(latents, torch.zeros_like(latents[:, 0]), None)

    def _replacement(self, latents: Tensor, mask: Tensor, level: int) -> Tensor:
        return latents.new_zeros(())


class MixAnchor(Anchor):
    """Common to the anchors at a weighted mean of the latents."""

    @abstractmethod
    def weights(self, available: Tensor, level: int) -> Tensor:
        """Mixture weights ``(B, M)`` at a level: 0 where ``available``, bool ``(B, M)``, is False; rows sum to 1."""

    def align(self, latents: Tensor, exists: Tensor, level: int) -> AlignedLevel:
        """See :meth:`Anchor.align`."""
        self._check(latents, exists, level, "exists")
        weights = self.weights(exists, level)
        return AlignedLevel(latents, self._mix(latents, exists, weights), weights, self.detach_anchor)

    def weights_by_modality(self) -> dict[str, dict[str, float]]:
        """See :meth:`Anchor.weights_by_modality`."""
        device = next(itertools.chain(self.parameters(), self.buffers())).device
        complete = torch.ones(1, len(MODALITIES), dtype=torch.bool, device=device)
        with torch.no_grad():
            rows = {f"level_{level}": self.weights(complete, level)[0].tolist() for level in self.levels}
        return {name: dict(zip(MODALITIES, row, strict=True)) for name, row in rows.items()}

    def _replacement(self, latents: Tensor, mask: Tensor, level: int) -> Tensor:
        return self._mix(latents, mask, self.weights(mask, level)).unsqueeze(1)

    def _mix(self, latents: Tensor, available: Tensor, weights: Tensor) -> Tensor:
        if self.detach_anchor:
            latents = latents.detach()
        return _weighted_mean(latents, available, weights)


class FixedMixAnchor(MixAnchor):
    """``P^k_mix``: a fixed mixture, ``a = sum_m w_m z_m``.

    What k means was not published. A mixture that is one modality, T1ce, is our reading and the default. The weights
    are renormalised over the modalities that are available; if they sum to 0 there, the available ones weigh equally.

    Args:
        levels, fill: see :class:`Anchor`. Defaults ``(1,)`` and ``"anchor"``.
        detach_anchor: True (default) stops the gradient through the anchor. With False the modality that serves as
            anchor is drawn to the others, and nothing but the weights is fixed.
        anchor_weights: one number per entry of ``MODALITIES``, none negative, sum 1. None: T1ce alone. They are part of
            the state dict, so inference mixes as training did.

    Raises:
        ValueError: for weights that are not on the simplex; see also :class:`Anchor`.
    """

    def __init__(
        self,
        levels: Sequence[int] | int = (1,),
        fill: str = "anchor",
        *,
        detach_anchor: bool = True,
        anchor_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(levels, fill, detach_anchor=detach_anchor)
        if anchor_weights is None:
            anchor_weights = [float(name == "t1ce") for name in MODALITIES]
        values = [float(value) for value in anchor_weights]
        on_simplex = all(value >= 0 for value in values) and math.isclose(sum(values), 1, abs_tol=1e-6)
        if len(values) != len(MODALITIES) or not on_simplex:
            raise ValueError(
                f"anchor_weights must be {len(MODALITIES)} numbers for {list(MODALITIES)}, none negative, "
                f"that sum to 1, got {values}."
            )
        self.anchor_weights: Tensor
        self.register_buffer("anchor_weights", torch.tensor(values))

    def weights(self, available: Tensor, level: int) -> Tensor:
        """See :meth:`MixAnchor.weights`."""
        fixed = self.anchor_weights * available
        total = fixed.sum(dim=1, keepdim=True)
        equal = available / available.sum(dim=1, keepdim=True)
        return torch.where(total > 0, fixed / total.clamp_min(torch.finfo(total.dtype).tiny), equal)


class AdaptiveMixAnchor(MixAnchor):
    """``P*_mix``: a learned mixture, ``a = sum_m w_m z_m`` with ``w = softmax(theta)`` over the available modalities.

    ``theta`` has one row per aligned level and starts at zero: equal weights. The alignment loss alone keeps the
    weights equal; whatever else they learn comes from the segmentation loss through the replaced modalities.

    Args:
        levels, fill: see :class:`Anchor`. Defaults ``(1,)`` and ``"anchor"``.
        detach_anchor: False (default), as in the authors' published fragment; their draft stopped the gradient.
        faithful: True reproduces the authors' fragment with its properties that we consider mistakes (see the top of
            this module). In training the anchor is mixed from all four modalities, the hidden ones included, so cases
            must be complete; the mask of sample 0 serves the whole batch; at inference visible features are multiplied
            by ``w_m``, and an absent modality becomes ``w_m`` times the mean of the visible ones. Default False.

    Raises:
        ValueError: for ``faithful`` together with ``fill="zeros"`` or ``detach_anchor``; see also :class:`Anchor`.
    """

    def __init__(
        self,
        levels: Sequence[int] | int = (1,),
        fill: str = "anchor",
        *,
        detach_anchor: bool = False,
        faithful: bool = False,
    ) -> None:
        super().__init__(levels, fill, detach_anchor=detach_anchor)
        if faithful and (detach_anchor or fill != "anchor"):
            raise ValueError(
                "faithful=True needs fill='anchor' and detach_anchor=False, as in the authors' fragment, "
                f"got fill={fill!r} and detach_anchor={detach_anchor}."
            )
        self.faithful = faithful
        self.theta = nn.Parameter(torch.zeros(len(self.levels), len(MODALITIES)))

    def mixture_logits(self) -> nn.Parameter:
        """``theta``, one row per aligned level."""
        return self.theta

    def weights(self, available: Tensor, level: int) -> Tensor:
        """See :meth:`MixAnchor.weights`."""
        theta = self.theta[self.levels.index(level)]
        return theta.masked_fill(~available, -math.inf).softmax(dim=1)

    def align(self, latents: Tensor, exists: Tensor, level: int) -> AlignedLevel:
        """See :meth:`Anchor.align`; with ``faithful`` all four modalities are mixed whatever ``exists`` says."""
        return super().align(latents, torch.ones_like(exists) if self.faithful else exists, level)

    def fill_absent(self, latents: Tensor, mask: Tensor, level: int) -> Tensor:
        """See :meth:`Anchor.fill_absent`; with ``faithful`` as the authors' fragment does it."""
        if not self.faithful:
            return super().fill_absent(latents, mask, level)
        mask = mask[:1].expand_as(mask)
        if self.training:
            replacement = super().align(latents, torch.ones_like(mask), level).anchor.unsqueeze(1)
            return torch.where(_over_space(mask, latents), latents, replacement)
        filled = super().fill_absent(latents, mask, level)
        unmasked = self.weights(torch.ones_like(mask), level).to(filled.dtype)
        return filled * _over_space(unmasked, latents)


def _over_space(per_modality: Tensor, latents: Tensor) -> Tensor:
    """Reshapes ``(B, M)`` so that it broadcasts over ``(B, M, C, ...)``."""
    return per_modality.reshape(per_modality.shape + (1,) * (latents.ndim - 2))


def _weighted_mean(latents: Tensor, available: Tensor, weights: Tensor) -> Tensor:
    """``sum_m w_m z_m`` over the available modalities, ``(B, M, C, ...) -> (B, C, ...)``.

    In float32 at least, under autocast too: the gradient of a weight sums over all voxels and would overflow float16.
    """
    dtype = torch.promote_types(latents.dtype, torch.float32)
    with torch.autocast(latents.device.type, enabled=False):
        # a weight of 0 does not silence NaN
        visible = torch.where(_over_space(available, latents), latents, latents.new_zeros(())).to(dtype)
        mixed = torch.matmul(weights.to(dtype).unsqueeze(1), visible.flatten(2))
    return mixed.reshape(latents.shape[:1] + latents.shape[2:]).to(latents.dtype)
