"""The domain, stated once: the four MRI modalities, their order, the 15 subsets, classes and regions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor

from medmap_components.tracing import is_exporting

__all__ = [
    "CLASS_NAMES",
    "MODALITIES",
    "MODALITY_LABELS",
    "REGIONS",
    "SUBSETS",
    "Subset",
    "check_mask",
    "modality_mask",
    "subset_name",
]

MODALITIES: tuple[str, ...] = ("flair", "t1ce", "t1", "t2")
"""Channel order of every image, latent and mask in this package: that of RFNet and mmFormer."""

MODALITY_LABELS: dict[str, str] = {"flair": "FLAIR", "t1ce": "T1ce", "t1": "T1", "t2": "T2"}
"""How each modality is written for people."""

CLASS_NAMES: tuple[str, ...] = ("background", "necrotic core", "edema", "enhancing tumor")
"""Network classes 0 to 3. BraTS writes enhancing tumour as 4 up to 2021 and as 3 from 2023 on; inside it is 3."""

REGIONS: dict[str, tuple[int, ...]] = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
"""Whole tumour, tumour core and enhancing tumour as unions of the network classes."""


class Subset(NamedTuple):
    """One of the 15 situations: which modalities a study has.

    Attributes:
        name: readable name, such as ``"FLAIR+T1ce"`` or ``"all"``.
        mask: one bool per entry of ``MODALITIES``, True where available.
    """

    name: str
    mask: tuple[bool, ...]


def modality_mask(names: Iterable[str]) -> tuple[bool, ...]:
    """The availability mask of a set of modality names.

    Args:
        names: names out of ``MODALITIES``, in any order and case; at least one.

    Returns:
        One bool per entry of ``MODALITIES``.

    Raises:
        ValueError: for an unknown name, or when no name is given.
    """
    wanted = [name.strip().lower() for name in names]
    unknown = [name for name in wanted if name not in MODALITIES]
    if unknown:
        raise ValueError(f"names holds unknown modalities {unknown}; choose among {list(MODALITIES)}.")
    if not wanted:
        raise ValueError(f"names is empty; name at least one of {list(MODALITIES)}.")
    return tuple(modality in wanted for modality in MODALITIES)


def subset_name(mask: Sequence[bool]) -> str:
    """The readable name of a mask over ``MODALITIES``, such as ``"FLAIR+T2"``; ``"all"`` when nothing is missing."""
    if all(mask):
        return "all"
    return "+".join(MODALITY_LABELS[name] for name in compress(MODALITIES, mask)) or "none"


def _subsets_in_literature_order() -> tuple[Subset, ...]:
    groups = (
        "t2 | t1ce | t1 | flair | t1ce t2 | t1ce t1 | flair t1 | t1 t2 | flair t2 | flair t1ce | "
        "flair t1ce t1 | flair t1 t2 | flair t1ce t2 | t1ce t1 t2 | flair t1ce t1 t2"
    )
    masks = [modality_mask(group.split()) for group in groups.split("|")]
    return tuple(Subset(subset_name(mask), mask) for mask in masks)


SUBSETS: tuple[Subset, ...] = _subsets_in_literature_order()
"""The 15 non-empty subsets in the order in which the literature's tables list them."""


def check_mask(mask: Tensor | None, batch_size: int, device: torch.device | None = None, name: str = "mask") -> Tensor:
    """A modality mask as a bool tensor ``(B, M)``, with bad ones refused.

    Args:
        mask: ``(B, M)``, True where a modality is available; None means that all are.
        batch_size: the B that the mask must have.
        device: where the result lies; None leaves it where it is.
        name: the argument's name, for the message.

    Returns:
        Bool tensor ``(B, M)``.

    Raises:
        ValueError: for a wrong shape, or a sample without any modality.
    """
    shape = (batch_size, len(MODALITIES))
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    mask = torch.as_tensor(mask, device=device).bool()
    if tuple(mask.shape) != shape:
        raise ValueError(f"{name} must have the shape (batch, modalities) = {shape}, got {tuple(mask.shape)}.")
    if not is_exporting() and not bool(mask.any(dim=1).all()):
        empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(
            f"{name} leaves the samples {empty} of the batch without any modality: {mask.tolist()}; "
            "every sample needs at least one True."
        )
    return mask
