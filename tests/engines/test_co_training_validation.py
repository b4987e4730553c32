"""What the published code got wrong when it validated: dropout that stayed on, and scores of a centre crop."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.handlers import MeanDice, ValidationHandler, from_engine
from monai.transforms import AsDiscreted, Compose

from medmap_components.inferers import MaskedSlidingWindowInferer
from medmap_components.metrics import RegionsFromClassesd, region_dice
from tests.engines.co_training_parts import make_pair, make_trainer

CROP = 16


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return make_pair(dropout_rate=0.5)


def study() -> dict[str, MetaTensor]:
    """Larger than the crop, with the lesion in a corner that no centre crop reaches, and T1ce alone."""
    label = torch.zeros(1, 1, 24, 24, 24)
    label[..., :4, :4, :4] = 3
    image = torch.randn(1, 4, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    meta = {"modality_mask": torch.tensor([[False, True, False, False]])}
    return {"image": MetaTensor(image, meta=meta), "label": MetaTensor(label)}


def make_evaluator(pair) -> SupervisedEvaluator:
    """As the bundles make it: the missing path alone, over the whole volume."""
    return SupervisedEvaluator(
        device="cpu",
        val_data_loader=[study()],
        epoch_length=1,
        network=pair.missing,
        inferer=MaskedSlidingWindowInferer(roi_size=CROP),
        postprocessing=Compose([AsDiscreted("pred", argmax=True), RegionsFromClassesd(["pred", "label"])]),
        key_val_metric={"dice": MeanDice(output_transform=from_engine(["pred", "label"]), reduction="mean_batch")},
        metric_cmp_fn=lambda *_: False,
    )


def test_dropout_rests_in_validation_and_is_back_in_training(pair, batch):
    """Published bug 3: one network was switched to evaluation, the other kept its dropout on."""
    evaluator = make_evaluator(pair)
    predictions, modes = [], []
    evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, lambda e: predictions.append(e.state.output["pred"]))
    engine = make_trainer(
        pair,
        [batch(0, [[1, 0, 0, 1]], side=CROP)],
        max_epochs=2,
        optimizer=torch.optim.SGD(pair.parameters(), lr=0.0),
        train_handlers=[ValidationHandler(interval=1, validator=evaluator, epoch_level=True)],
    )
    engine.add_event_handler(
        IterationEvents.LOSS_COMPLETED,
        lambda e: modes.append([path.dropout.training for path in (pair.full, pair.missing)]),
    )
    engine.run()
    assert modes == [[True, True]] * 2
    first, second = (prediction.as_tensor() for prediction in predictions)
    assert torch.equal(first, second)
    inferer = MaskedSlidingWindowInferer(roi_size=CROP)
    with torch.no_grad():
        assert torch.equal(first, inferer(study()["image"], pair.missing.eval()).as_tensor())


def test_every_voxel_is_scored(pair):
    """Published bug 5: a centre crop was segmented, and nothing outside it was scored."""
    evaluator = make_evaluator(pair)
    seen = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.output[0]["pred"]))
    with torch.no_grad():
        pair.missing.head.weight.zero_()
        pair.missing.head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    evaluator.run()
    assert seen[0].shape == (3, 24, 24, 24)
    # all is called enhancing tumour: 2 * 4^3 / (24^3 + 4^3), whose lesion a centre crop would not hold
    expected = 2 * 4**3 / (24**3 + 4**3)
    assert evaluator.state.metrics["dice"].tolist() == pytest.approx([expected] * 3)
    label = study()["label"].as_tensor()
    everything = torch.full_like(label[0], 3)
    assert list(region_dice(everything, label[0]).values()) == pytest.approx([expected] * 3)
