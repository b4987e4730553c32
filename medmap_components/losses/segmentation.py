"""The segmentation losses of RFNet and mmFormer: weighted cross-entropy and soft Dice on probabilities.

Papers: Ding et al., "RFNet", ICCV 2021; Zhang et al., "mmFormer", MICCAI 2022. The forms are those of their code
(https://github.com/YaoZhang93/mmFormer at b18663a). Both work on probabilities, because their deep supervision applies
softmax at the coarse scale and then upsamples; MONAI's ``DiceCELoss`` takes logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medmap_components.networks.blocks import upsample

__all__ = ["TargetStatistics", "soft_dice_loss", "upsampled_softmax", "weighted_cross_entropy"]


@dataclass(frozen=True)
class TargetStatistics:
    """A label map and what the losses need of it, so that many predictions share one computation.

    Attributes:
        classes: int64 ``(B, 1, D, H, W)``.
        one_hot: bool ``(B, K, D, H, W)``.
        voxel_weights: ``(B, 1, D, H, W)``, ``1 - n_c / N`` of each voxel's class c in its own sample.
        class_sizes: voxels per class ``(B, K)``.
    """

    classes: Tensor
    one_hot: Tensor
    voxel_weights: Tensor
    class_sizes: Tensor

    @classmethod
    def from_labels(cls, target: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> TargetStatistics:
        """The statistics of a label map.

        Args:
            target: ``(B, 1, D, H, W)`` of whole numbers from 0 to ``num_classes - 1``, of any type.
            num_classes: the number of classes K.
            dtype: type of the weights and sizes. Default float32.

        Raises:
            ValueError: for another shape, or values that are not classes.
        """
        target = target.detach().as_subclass(Tensor)
        if target.ndim != 5 or target.shape[1] != 1:
            raise ValueError(f"target must be a label map of the shape (B, 1, D, H, W), got {tuple(target.shape)}.")
        classes = target.long()
        in_range = bool(((classes >= 0) & (classes < num_classes)).all())
        if not in_range or bool((classes != target).any()):
            raise ValueError(
                f"target must hold the classes 0 to {num_classes - 1} only, got {_examples(target)}; "
                "convert labels with BratsLabelsd first."
            )
        one_hot = classes == torch.arange(num_classes, device=classes.device).reshape(1, -1, 1, 1, 1)
        sizes = one_hot.flatten(2).sum(dim=2).to(dtype)
        weights = 1 - sizes / classes[0].numel()
        voxel_weights = weights.gather(1, classes.flatten(1)).reshape(classes.shape)
        return cls(classes, one_hot, voxel_weights, sizes)

    def select(self, samples: Sequence[int]) -> TargetStatistics:
        """The statistics of some samples of the batch.

        Args:
            samples: their indices.
        """
        index = torch.tensor(list(samples), dtype=torch.long, device=self.classes.device)
        parts = (self.classes, self.one_hot, self.voxel_weights, self.class_sizes)
        return TargetStatistics(*(part.index_select(0, index) for part in parts))


def weighted_cross_entropy(probabilities: Tensor, target: TargetStatistics, floor: float = 0.005) -> Tensor:
    """Cross-entropy with each class weighted by how rare it is: ``mean(-(1 - n_c / N) log(max(p_c, floor)))``.

    ``c`` is the true class of a voxel, ``n_c`` the number of its voxels in the sample, ``N`` that of all; the mean is
    over all voxels of the batch.

    Args:
        probabilities: ``(B, K, D, H, W)``.
        target: the statistics of the label map.
        floor: smaller probabilities count as this one and get no gradient. Default 0.005, as published.

    Returns:
        A scalar.
    """
    true_class = probabilities.gather(1, target.classes)
    return -(target.voxel_weights * true_class.clamp(floor, 1).log()).mean()


def soft_dice_loss(probabilities: Tensor, target: TargetStatistics, eps: float = 1e-7) -> Tensor:
    """Soft Dice loss ``1 - mean_c 2 sum(p_c y_c) / (sum(p_c) + sum(y_c) + eps)``.

    The sums run over the voxels of the whole batch, and the mean over all classes, background included. A class that
    occurs nowhere adds ``1 / K``, as published.

    Args:
        probabilities: ``(B, K, D, H, W)``.
        target: the statistics of the label map.
        eps: keeps the fraction finite. Default 1e-7, as published.

    Returns:
        A scalar.
    """
    over = (0, *range(2, probabilities.ndim))
    intersection = (probabilities * target.one_hot).sum(dim=over)
    total = probabilities.sum(dim=over) + target.class_sizes.sum(dim=0)
    return 1 - (2 * intersection / (total + eps)).mean()


def upsampled_softmax(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Softmax at the logits' own scale, then trilinear upsampling with aligned corners, as published.

    Args:
        logits: ``(B, K, d, h, w)``.
        size: the spatial size of the result; the same size means no upsampling.

    Returns:
        Probabilities ``(B, K, D, H, W)``, in float32 at least.
    """
    precise = logits.as_subclass(Tensor).to(torch.promote_types(logits.dtype, torch.float32))
    probabilities = precise.softmax(dim=1)
    if tuple(size) == tuple(logits.shape[2:]):
        return probabilities
    scale = size[0] // logits.shape[2]
    if tuple(size) == tuple(scale * side for side in logits.shape[2:]):
        return upsample(probabilities, scale)
    return F.interpolate(probabilities, size=tuple(size), mode="trilinear", align_corners=True)


def _examples(target: Tensor) -> str:
    values = torch.unique(target).tolist()
    return f"{values[:8]}{' and more' if len(values) > 8 else ''}"
