"""Evaluation of each study in every situation of missing modalities, one situation after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, EventEnum, Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor
from tqdm.auto import tqdm

from medmap_components.engines.mixed_precision import CpuMixedPrecision
from medmap_components.inferers import SubsetSlidingWindowInferer
from medmap_components.modalities import subset_name
from medmap_components.transforms import undo_spacing, was_resampled

__all__ = ["SubsetEvaluator", "SubsetEvents", "SubsetProgressBar"]


class SubsetEvents(EventEnum):
    """Events of :class:`SubsetEvaluator` besides ignite's."""

    SUBSET_COMPLETED = "subset_completed"


class SubsetEvaluator(CpuMixedPrecision, SupervisedEvaluator):
    """MONAI's ``SupervisedEvaluator`` that works through the subsets of each study one after the other.

    The inferer must be a :class:`SubsetSlidingWindowInferer`. After each subset ``SubsetEvents.SUBSET_COMPLETED`` is
    fired with ``engine.state.output`` holding, besides the image and the label ``(1, D, H, W)``, the label map
    ``"pred"`` ``(1, D, H, W)``, uint8, the ``"study"``, the ``"subset"``, and as ``"shown"`` the name of what the study
    has of it. ``"pred"`` is None where that is nothing. Handlers take what they need at that event: the logits of the
    subsets are never kept together.

    Where :class:`~medmap_components.transforms.SpacingIfNeededd` brought the image to the weights' voxel size, the
    probabilities are brought back to the label's grid first, as inference does it: the label is never resampled.

    Args:
        **kwargs: those of ``SupervisedEvaluator``, without ``postprocessing``, metrics and ``decollate``; its loader
            must give one study a batch.

    Raises:
        ValueError: for an inferer of another kind; while it runs, for a batch of several studies, or a label on
            another grid than the image.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, decollate=False, event_names=[SubsetEvents])
        if not isinstance(self.inferer, SubsetSlidingWindowInferer):
            raise ValueError(f"inferer must be a SubsetSlidingWindowInferer, got {type(self.inferer).__name__}.")

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Tensor]) -> dict[str, Any]:
        inputs, label = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)[
            :2
        ]
        if len(inputs) != 1:
            raise ValueError(f"SubsetEvaluator takes one study a batch, got {len(inputs)}; set batch_size to 1.")
        inferer: SubsetSlidingWindowInferer = self.inferer  # type: ignore[assignment]
        output: dict[str, Any] = {
            CommonKeys.IMAGE: inputs[0],
            CommonKeys.LABEL: label[0],
            "study": _study_of(batchdata, inputs),
        }
        seen = [subset_name(row) for row in inferer.visible(inputs)[0].tolist()]
        each = inferer.each(inputs, engine.network)
        with engine.mode(engine.network):
            for shown in seen:
                with self.autocast(), torch.autocast("cuda", enabled=engine.amp, **engine.amp_kwargs):
                    subset, logits = next(each)
                labels = _label_map(logits[0], inputs[0], label[0]) if shown != "none" else None
                engine.state.output = {**output, "subset": subset, "shown": shown, CommonKeys.PRED: labels}
                engine.fire_event(SubsetEvents.SUBSET_COMPLETED)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output


def _label_map(logits: Tensor, image: Tensor, label: Tensor) -> Tensor:
    """The labels ``(1, D, H, W)`` of logits ``(C, d, h, w)``, on the label's grid."""
    if was_resampled(image):  # even where that left the shape as it was
        logits = undo_spacing(logits.float().softmax(dim=0), image, label)
    if logits.shape[1:] != label.shape[1:]:
        raise ValueError(f"image {tuple(logits.shape[1:])} and label {tuple(label.shape[1:])} are on different grids.")
    return logits.argmax(dim=0, keepdim=True).to(torch.uint8)


class SubsetProgressBar:
    """A progress bar with the time left, over the subsets of all studies.

    Args:
        desc: the word in front of the bar. Default: ``"evaluating"``.
    """

    def __init__(self, desc: str = "evaluating") -> None:
        self.desc = desc
        self._bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Hooks into the start, each subset and the end."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(SubsetEvents.SUBSET_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: SubsetEvaluator) -> None:
        studies = engine.state.epoch_length or len(engine.data_loader)  # type: ignore[arg-type]
        subsets = len(engine.inferer.subsets)  # type: ignore[attr-defined]
        self._bar = tqdm(total=studies * subsets, desc=self.desc, unit="subset", leave=False)

    def _step(self, engine: SubsetEvaluator) -> None:
        self._bar.set_postfix_str(str(engine.state.output["study"]), refresh=False)
        self._bar.update()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _study_of(batch: Mapping[str, Any], image: Tensor) -> str:
    names = batch.get("study")
    if names:
        return str(names[0] if isinstance(names, list | tuple) else names)
    source = image.meta.get("filename_or_obj", "") if isinstance(image, MetaTensor) else ""
    source = source[0] if isinstance(source, list | tuple) else source
    return str(source).rsplit("/", 1)[-1].split(".nii")[0] or "study"
