from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from medmap_components.engines import MissingModalityEvaluator, SubsetEvaluator, SubsetEvents
from medmap_components.inferers import SubsetSlidingWindowInferer


class Recorder(nn.Module):
    """One convolution whose weight 1 + 1/512 bfloat16 rounds to 1; says in which type it was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 4, 1, bias=False)
        nn.init.constant_(self.conv.weight, 1 + 1 / 512)
        self.types: list[torch.dtype] = []

    def forward(self, x, mask=None, exists=None):
        result = self.conv(x.as_tensor() if isinstance(x, MetaTensor) else x)
        self.types.append(result.dtype)
        return result


def study() -> dict[str, torch.Tensor]:
    meta = {"modality_mask": torch.ones(1, 4).bool(), "modality_exists": torch.ones(1, 4).bool()}
    return {"image": MetaTensor(torch.ones(1, 4, 4, 4, 4), meta=meta), "label": torch.ones(1, 1, 4, 4, 4)}


def evaluator(kind, network, amp, **kwargs):
    return kind(device="cpu", val_data_loader=[study()], epoch_length=1, network=network, amp=amp, **kwargs)


@pytest.mark.parametrize(("amp", "expected"), [(False, 4 + 4 / 512), (True, 4.0)])
def test_an_evaluator_rounds_where_mixed_precision_is_asked_for(amp, expected):
    network = Recorder()
    engine = evaluator(MissingModalityEvaluator, network, amp, inferer=SimpleInferer(), decollate=False)
    engine.run()
    assert network.types == [torch.bfloat16 if amp else torch.float32]
    assert float(engine.state.output["pred"].flatten()[0]) == expected


def test_what_follows_the_inferer_is_computed_in_full_precision():
    seen = []
    engine = evaluator(MissingModalityEvaluator, Recorder(), True, inferer=SimpleInferer(), decollate=False)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(torch.is_autocast_enabled("cpu")))
    engine.postprocessing = None
    original = engine.fire_event
    engine.fire_event = lambda event: (seen.append(torch.is_autocast_enabled("cpu")), original(event))
    engine.run()
    assert len(seen) > 1
    assert not any(seen)


def test_the_inferers_attributes_stay_within_reach_where_it_is_wrapped():
    engine = evaluator(MissingModalityEvaluator, Recorder(), True, inferer=SlidingWindowInferer(roi_size=(4, 4, 4)))
    assert not isinstance(engine.inferer, SlidingWindowInferer)
    assert engine.inferer.roi_size == (4, 4, 4)


def test_subsets_are_segmented_in_bfloat16_and_scored_outside_of_it():
    network, seen = Recorder(), []
    inferer = SubsetSlidingWindowInferer(roi_size=(4, 4, 4), subsets=[["flair"], ["t1", "t2"]])
    engine = evaluator(SubsetEvaluator, network, True, inferer=inferer)
    engine.add_event_handler(SubsetEvents.SUBSET_COMPLETED, lambda: seen.append(torch.is_autocast_enabled("cpu")))
    engine.run()
    assert seen == [False, False]
    assert set(network.types) == {torch.bfloat16}
    assert not torch.is_autocast_enabled("cpu")
