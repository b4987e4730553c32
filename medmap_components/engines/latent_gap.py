"""Latents of single modalities, collected while an evaluation runs, and the modality gap between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.transforms import CenterSpatialCrop, SpatialPad
from monai.utils import ensure_tuple_rep
from monai.utils.enums import CommonKeys
from numpy.typing import NDArray
from torch import Tensor

from medmap_components.engines.subset_evaluator import SubsetEvaluator
from medmap_components.metrics.modality_gap import ModalityGap, modality_gap
from medmap_components.transforms import masks_of

__all__ = ["LatentGap", "LatentSample"]


class LatentSample(NamedTuple):
    """Latent vectors of one level.

    Attributes:
        features: ``(n, C)``.
        modality: index into ``MODALITIES`` of each, ``(n,)``.
        study: number of the study of each, ``(n,)``.
    """

    features: NDArray[np.float32]
    modality: NDArray[np.int64]
    study: NDArray[np.int64]


class LatentGap:
    """Collects latents of every modality from an evaluator's studies and measures how far apart they lie.

    Of each study the window in the middle is encoded once. Places are drawn inside the brain, the same for all
    modalities of the study; each modality's vector over the channels at such a place is one sample. Given to
    :class:`~medmap_components.engines.SubsetScores` as an addition, the numbers enter its summary and protocol.

    Args:
        level: encoder level, 1 being the finest. Default 1.
        places: places per study. Default 64.
        seed: of the draw. Default 0.

    Raises:
        ValueError: for ``level`` or ``places`` below 1.
    """

    def __init__(self, level: int = 1, places: int = 64, seed: int = 0) -> None:
        if level < 1 or places < 1:
            raise ValueError(f"level and places must be at least 1, got {level} and {places}.")
        self.level = level
        self.places = places
        self.seed = seed
        self._found: list[LatentSample] = []

    def attach(self, engine: Engine) -> None:
        """Hooks into the start of the run and each study."""
        engine.add_event_handler(Events.STARTED, self._found.clear)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._collect)

    def sample(self) -> LatentSample:
        """All that was collected.

        Raises:
            ValueError: when nothing was.
        """
        if not self._found:
            raise ValueError("no latents were collected; attach to an evaluator and run it first.")
        return LatentSample(*(np.concatenate(parts) for parts in zip(*self._found, strict=True)))

    def gap(self) -> ModalityGap:
        """The modality gap; see :func:`~medmap_components.metrics.modality_gap.modality_gap`."""
        return modality_gap(*self.sample())

    def numbers(self) -> dict[str, Any]:
        """For ``protocol.json``."""
        return {"modality_gap": {"level": self.level, **self.gap()._asdict()}}

    def notes(self) -> Iterator[str]:
        """For ``summary.md``."""
        gap = self.gap()
        yield (
            f"**modality gap** at level {self.level}: centroid distance {gap.centroid_distance:.3f} (in units of the "
            f"spread within modalities), MMD {gap.mmd:.3f} (Gaussian kernel, median bandwidth), linear probe "
            f"{gap.probe_accuracy:.3f} (chance {gap.chance:.3f}); {gap.samples} vectors of {gap.studies} studies"
        )

    def _collect(self, engine: SubsetEvaluator) -> None:
        image: Tensor = engine.state.output[CommonKeys.IMAGE]
        mask = masks_of(image)[0]
        size = ensure_tuple_rep(engine.inferer.roi_size, 3)  # type: ignore[attr-defined]
        window = CenterSpatialCrop(size)(SpatialPad(size)(image)).as_subclass(Tensor)
        network = getattr(engine.network, "module", engine.network)
        with torch.no_grad():
            latents = _latents_at(network, window[None], mask[None], self.level)[0].float().cpu()
        shown = (window[mask] != 0).any(dim=0)[None, None].float().cpu()
        depth, height, width = latents.shape[2:]
        brain = torch.nn.functional.adaptive_avg_pool3d(shown, (depth, height, width))
        inside = (brain.flatten() > 0.5).nonzero().flatten()
        study = len(self._found)
        random = np.random.default_rng([self.seed, study])
        chosen = torch.from_numpy(random.permutation(inside.numpy())[: self.places])
        there = mask.nonzero().flatten().cpu()
        vectors = latents.flatten(2)[there][:, :, chosen].movedim(1, 2)
        count = len(chosen)
        self._found.append(
            LatentSample(
                vectors.reshape(-1, latents.shape[1]).numpy(),
                there.repeat_interleave(count).numpy(),
                np.full(len(there) * count, study),
            )
        )


def _latents_at(network: Any, image: Tensor, mask: Tensor, level: int) -> Tensor:
    """Latents ``(B, M, C, d, h, w)`` of one level."""
    if not hasattr(network, "encode"):
        raise ValueError(f"{type(network).__name__} has no encode(), so that latents of single modalities are unknown.")
    was_training = network.training
    network.eval()
    encoded = network.encode(image, mask)
    network.train(was_training)
    levels: tuple[Tensor, ...] = (encoded,) if isinstance(encoded, Tensor) else tuple(encoded.levels)
    if level > len(levels):
        raise ValueError(f"level must be at most {len(levels)} for {type(network).__name__}, got {level}.")
    return levels[level - 1]
