"""The losses between a network and a discriminator that judges patches, on logits.

A positive logit says "from the network that sees all modalities". MONAI's ``PatchAdversarialLoss`` offers the same
cross-entropy after a sigmoid, which autocast refuses and which rounds confident patches to no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["discrimination_accuracy", "discrimination_loss", "fooling_loss"]


def fooling_loss(missing: Tensor) -> Tensor:
    """What the missing path pays for being recognised: ``mean(-log sigmoid(d))``.

    Args:
        missing: the discriminator's logits for the missing path, of any shape.

    Returns:
        A scalar; ``log 2`` where the discriminator cannot tell, 0 where it is fooled.
    """
    return _cross_entropy(missing, is_full=True)


def discrimination_loss(full: Tensor, missing: Tensor) -> Tensor:
    """What the discriminator pays: the mean of its cross-entropy on either path.

    Args:
        full: its logits for the full path, of any shape.
        missing: its logits for the missing path.

    Returns:
        A scalar.
    """
    return (_cross_entropy(full, is_full=True) + _cross_entropy(missing, is_full=False)) / 2


def discrimination_accuracy(full: Tensor, missing: Tensor) -> Tensor:
    """The share of patches that the discriminator attributes to the right path, both paths weighing the same.

    Args:
        full: its logits for the full path, of any shape.
        missing: its logits for the missing path.

    Returns:
        A scalar between 0 and 1 without gradient; a logit of 0 is right for neither.
    """
    right_on_full, right_on_missing = (full > 0).float().mean(), (missing < 0).float().mean()
    return (right_on_full + right_on_missing) / 2


def _cross_entropy(judged: Tensor, *, is_full: bool) -> Tensor:
    judged = judged.to(torch.promote_types(judged.dtype, torch.float32))
    return F.binary_cross_entropy_with_logits(judged, torch.full_like(judged, float(is_full)))
