from __future__ import annotations

import math

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from medmap_components.inferers import MaskedSimpleInferer, MaskedSlidingWindowInferer
from medmap_components.transforms import EXISTS_KEY, MASK_KEY

MASKS = torch.tensor([[True, False, False, True], [False, True, True, False]])


class VisibleSum(nn.Module):
    """Two channels: the sum of the visible modalities, and how many are visible; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        self.calls.append((x, mask))
        rows = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        total = torch.where(rows[:, :, None, None, None], x, torch.zeros_like(x)).sum(1, keepdim=True)
        return scale * torch.cat([total, rows.sum(1).view(-1, 1, 1, 1, 1) * torch.ones_like(total)], dim=1)


def batch(masks: Tensor = MASKS, size: int = 10) -> MetaTensor:
    image = torch.rand(len(masks), 4, size, size, size, generator=torch.Generator().manual_seed(0))
    return MetaTensor(image, meta={EXISTS_KEY: masks.clone(), MASK_KEY: masks, "filename_or_obj": ["a", "b"]})


def expected(image: Tensor, masks: Tensor = MASKS) -> Tensor:
    return VisibleSum()(torch.as_tensor(image), masks)


@pytest.mark.parametrize("arguments", [{}, {"mode": "gaussian"}, {"overlap": 0.5}, {"buffer_steps": 1}])
@pytest.mark.parametrize("sw_batch_size", [1, 3, 64])
def test_each_window_has_the_mask_of_its_sample(sw_batch_size: int, arguments: dict):
    image = batch()
    output = MaskedSlidingWindowInferer(4, sw_batch_size, **arguments)(image, VisibleSum())
    torch.testing.assert_close(output.as_tensor(), expected(image.as_tensor()))


def test_a_batch_equals_its_samples_alone():
    image = batch()
    infer = MaskedSlidingWindowInferer((4, 6, 8), 5, overlap=0.5)
    together = infer(image, VisibleSum())
    for index in range(2):
        alone = infer(image.as_tensor()[index : index + 1], VisibleSum(), mask=MASKS[index : index + 1])
        torch.testing.assert_close(together[index : index + 1].as_tensor(), alone)


def test_blending_is_monais_own():
    image = batch(torch.ones(2, 4, dtype=torch.bool))
    network = nn.Conv3d(4, 2, 3, padding=1)
    arguments = {"roi_size": 6, "sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"}
    with torch.no_grad():
        ours = MaskedSlidingWindowInferer(**arguments)(image, lambda x, mask: network(x))
        theirs = SlidingWindowInferer(**arguments)(image, network)
    assert torch.equal(ours.as_tensor(), theirs.as_tensor())


def test_published_blending_is_the_mean_of_probabilities():
    # windows of 4 that begin at 0 and 2; the logits of class 1 in a window are what stands in its first voxel
    image = torch.zeros(1, 4, 6, 4, 4)
    image[:, :, 0], image[:, :, 2] = 1.0, 5.0

    def network(x: Tensor, mask: Tensor | None) -> Tensor:
        first = x[:, :1, :1, :1, :1].expand(-1, -1, 4, 4, 4)
        return torch.cat([torch.zeros_like(first), first], dim=1)

    output = MaskedSlidingWindowInferer(4, overlap=0.5, mode="published")(image, network)
    probability = output.softmax(dim=1)[0, 1, :, 0, 0]
    one, five = (1 / (1 + math.exp(-logit)) for logit in (1, 5))
    # the mean of the logits, 3, would give 0.953 in the middle
    assert probability.tolist() == pytest.approx([one, one, *[(one + five) / 2] * 2, five, five])
    assert output.exp().sum(dim=1).allclose(torch.ones(()))


def test_published_blending_stays_finite():
    def network(x: Tensor, mask: Tensor | None) -> Tensor:
        return torch.cat([x[:, :1] * 0 - 200, x[:, :1] * 0 + 200], dim=1)

    output = MaskedSlidingWindowInferer(4, mode="published")(torch.zeros(1, 4, 6, 6, 6), network)
    assert output.isfinite().all()
    assert (output.argmax(dim=1) == 1).all()


@pytest.mark.parametrize("infer", [MaskedSimpleInferer(), MaskedSlidingWindowInferer(4)])
def test_networks_see_plain_tensors_and_outputs_carry_the_meta_data(infer):
    image = batch()
    network = VisibleSum()
    output = infer(image, network)
    assert all(type(x) is Tensor and type(mask) is Tensor for x, mask in network.calls)
    assert isinstance(output, MetaTensor)
    assert output.meta["filename_or_obj"] == ["a", "b"]
    torch.testing.assert_close(output.as_tensor(), expected(image.as_tensor()))


@pytest.mark.parametrize("infer", [MaskedSimpleInferer(), MaskedSlidingWindowInferer(4)])
def test_an_empty_window_does_not_make_a_modality_absent(infer):
    image = batch()
    image[:, :, :5] = 0
    assert infer(image, VisibleSum())[:, 1].unique().tolist() == [2]


@pytest.mark.parametrize("infer", [MaskedSimpleInferer(), MaskedSlidingWindowInferer(4)])
def test_without_meta_data_the_mask_is_none(infer):
    network = VisibleSum()
    for image in (batch().as_tensor(), MetaTensor(batch().as_tensor())):
        infer(image, network)
    assert all(mask is None for _, mask in network.calls)


@pytest.mark.parametrize("infer", [MaskedSimpleInferer(), MaskedSlidingWindowInferer(4, 3)])
def test_a_given_mask_wins_and_other_arguments_are_passed_on(infer):
    image = batch()
    output = infer(image, VisibleSum(), mask=MASKS.flip(0), scale=2.0)
    torch.testing.assert_close(torch.as_tensor(output.as_tensor()), 2 * expected(image.as_tensor(), MASKS.flip(0)))


def test_one_sample_whose_meta_data_have_no_batch_axis_is_understood():
    image = MetaTensor(torch.rand(4, 5, 5, 5), meta={EXISTS_KEY: MASKS[0], MASK_KEY: MASKS[0]})[None]
    for infer in (MaskedSimpleInferer(), MaskedSlidingWindowInferer(4)):
        torch.testing.assert_close(infer(image, VisibleSum()).as_tensor(), expected(image.as_tensor(), MASKS[:1]))


def test_an_image_smaller_than_the_window_is_padded_and_cut_back():
    image = batch(size=3)
    torch.testing.assert_close(
        MaskedSlidingWindowInferer(4)(image, VisibleSum()).as_tensor(), expected(image.as_tensor())
    )


def test_coordinates_cannot_be_asked_for():
    with pytest.raises(ValueError, match="with_coord=True"):
        MaskedSlidingWindowInferer(4, with_coord=True)
