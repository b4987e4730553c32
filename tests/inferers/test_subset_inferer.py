from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medmap_components.inferers import MaskedSlidingWindowInferer, SubsetSlidingWindowInferer
from medmap_components.inferers.subsets import _repeated
from medmap_components.modalities import SUBSETS
from medmap_components.transforms import EXISTS_KEY, MASK_KEY

ALL_SHOWN = torch.ones(2, 4, dtype=torch.bool)
MIXED = torch.tensor([[True, False, False, True], [True, True, True, True]])


class PerModality(nn.Module):
    """A convolution per modality, then the mean over the visible ones; NaN where the encoder was not told to look."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.Conv3d(4, 8, 1, groups=4)
        self.head = nn.Conv3d(2, 3, 1)
        self.calls: Counter[str] = Counter()

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self.calls["encode"] += 1
        latents = self.encoders(x).unflatten(1, (4, 2))
        return latents if mask is None else latents.masked_fill(~mask[:, :, None, None, None, None], torch.nan)

    def decode(self, latents: Tensor, mask: Tensor) -> Tensor:
        self.calls["decode"] += 1
        rows = mask[:, :, None, None, None, None]
        return self.head(torch.where(rows, latents, 0.0).sum(1) / rows.sum(1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.decode(self.encode(x, mask), mask)


def batch(shown: Tensor) -> MetaTensor:
    image = torch.rand(len(shown), 4, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    return MetaTensor(image, meta={EXISTS_KEY: shown.clone(), MASK_KEY: shown, "filename_or_obj": ["a", "b"]})


def one_by_one(image: MetaTensor, subset: Tensor, mode: str = "constant") -> Tensor:
    """Sample by sample with MONAI's inferer; NaN where the subset leaves nothing."""
    rows = []
    for index, shown in enumerate(image.meta[MASK_KEY] & subset):
        x = image.as_tensor()[index : index + 1]
        infer = MaskedSlidingWindowInferer(4, overlap=0.5, mode=mode)
        empty = torch.full((1, 3, 6, 6, 6), torch.nan)
        rows.append(infer(x, PerModality(), mask=shown[None]) if shown.any() else empty)
    return torch.cat(rows)


@pytest.mark.parametrize("shown", [ALL_SHOWN, MIXED])
@pytest.mark.parametrize("subsets_per_pass", [None, 4])
@pytest.mark.parametrize("subsets_per_batch", [1, 4])
@pytest.mark.parametrize("split", [True, False])
@torch.no_grad()
def test_all_subsets_equal_single_runs(
    shown: Tensor, subsets_per_pass: int | None, subsets_per_batch: int, split: bool
):
    network = PerModality()
    image = batch(shown)
    together = {"subsets_per_pass": subsets_per_pass, "subsets_per_batch": subsets_per_batch}
    infer = SubsetSlidingWindowInferer(4, **together, sw_batch_size=3, overlap=0.5)
    output = infer(image, network if split else lambda x, mask: network(x, mask))
    assert output.shape == (2, 15, 3, 6, 6, 6)
    assert output.meta["filename_or_obj"] == ["a", "b"]
    for index, subset in enumerate(SUBSETS):
        expected = one_by_one(image, torch.tensor(subset.mask))
        torch.testing.assert_close(output[:, index].as_tensor(), expected, equal_nan=True)


@torch.no_grad()
def test_published_blending_of_all_subsets_equals_single_runs():
    image = batch(MIXED)
    output = SubsetSlidingWindowInferer(4, overlap=0.5, mode="published")(image, PerModality())
    for index, subset in enumerate(SUBSETS):
        expected = one_by_one(image, torch.tensor(subset.mask), "published")
        torch.testing.assert_close(output[:, index].as_tensor(), expected, equal_nan=True)


@torch.no_grad()
def test_a_window_is_encoded_once_and_equal_subsets_are_decoded_once():
    network = PerModality()
    infer = SubsetSlidingWindowInferer(3, overlap=0, sw_batch_size=4)
    infer(batch(ALL_SHOWN), network)
    assert network.calls == {"encode": 4, "decode": 4 * 15}  # 8 windows x 2 samples, 4 at a time
    network.calls.clear()
    infer(batch(MIXED[:1]), network)
    assert network.calls == {"encode": 2, "decode": 2 * 3}  # FLAIR, T2, FLAIR+T2


@torch.no_grad()
@torch.no_grad()
def test_several_subsets_are_decoded_in_one_call():
    network = PerModality()
    SubsetSlidingWindowInferer(6, subsets_per_batch=4)(batch(ALL_SHOWN), network)
    # two studies of a window each; 15 subsets in batches of 4, 4, 4 and 3
    assert network.calls == {"encode": 2, "decode": 2 * 4}


def test_latents_of_any_shape_are_repeated_window_by_window():
    class Latents(NamedTuple):
        levels: tuple[Tensor, ...]
        tokens: Tensor | None

    first, second = torch.tensor([[1.0], [2.0]]), torch.tensor([[[3.0]], [[4.0]]])
    levels, tokens = _repeated(Latents((first, second), None), 2)
    assert tokens is None
    assert [level.flatten().tolist() for level in levels] == [[1, 2, 1, 2], [3, 4, 3, 4]]


def test_subsets_come_one_by_one_with_their_names():
    infer = SubsetSlidingWindowInferer(6, subsets=[["t2", "flair"], ["t1"]], subsets_per_pass=1)
    image = batch(MIXED)
    results = list(infer.each(image, PerModality()))
    assert [subset.name for subset, _ in results] == ["FLAIR+T2", "T1"]
    assert [tuple(logits.shape) for _, logits in results] == [(2, 3, 6, 6, 6)] * 2
    torch.testing.assert_close(
        torch.stack([logits for _, logits in results], 1), infer(image, PerModality()), equal_nan=True
    )


@torch.no_grad()
def test_what_is_left_of_a_subset_is_told_and_nothing_left_is_nan():
    infer = SubsetSlidingWindowInferer(4, subsets=[["t1"], ["t1", "t2"]])
    image = batch(MIXED[:1])
    assert infer.visible(image).tolist() == [[[False] * 4, [False, False, False, True]]]
    output = infer(image, PerModality())
    assert output[:, 0].isnan().all()
    assert output[:, 1].isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("subsets_per_pass", [1, 2])
def test_a_study_with_nothing_of_any_subset_does_not_stop_the_others(subsets_per_pass: int):
    infer = SubsetSlidingWindowInferer(4, subsets=[["t1"], ["t1ce"]], subsets_per_pass=subsets_per_pass)
    output = infer(batch(MIXED), PerModality())
    assert output[0].isnan().all()
    assert output[1].isfinite().all()
    assert infer(batch(MIXED[:1]), PerModality()).isnan().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subsets": []}, "subsets is"),
        ({"subsets": [["pd"]]}, "pd"),
        ({"subsets_per_pass": 0}, "subsets_per_pass.*0"),
        ({"subsets_per_batch": 0}, "subsets_per_batch.*0"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SubsetSlidingWindowInferer(4, **arguments)


def test_further_arguments_are_refused():
    with pytest.raises(ValueError, match="scale"):
        SubsetSlidingWindowInferer(4)(batch(ALL_SHOWN), PerModality(), scale=2)
