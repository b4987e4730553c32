"""Latents that an evaluator's network gives, sampled at the same places for all modalities."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from torch import Tensor, nn

from medmap_components.engines import LatentGap, SubsetEvaluator, SubsetScores
from medmap_components.inferers import SubsetSlidingWindowInferer
from medmap_components.transforms import EXISTS_KEY, MASK_KEY

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

SIDE = 6


class Coordinates(nn.Module):
    """Latents are the image's values, and the modality's number where ``apart``."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.apart = apart

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        assert not self.training
        number = torch.arange(4.0).view(1, 4, 1, 1, 1).expand_as(x) * self.apart
        return torch.stack([x, number], dim=2)

    def decode(self, latents: Tensor, mask: Tensor) -> Tensor:
        return torch.zeros(len(mask), 4, SIDE, SIDE, SIDE)


def studies(shown: tuple[tuple[bool, ...], ...]) -> list[dict]:
    """Noise that all modalities share, in half of each volume; the other half is background."""
    items = []
    for number, row in enumerate(shown):
        noise = torch.randn(1, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(number)).repeat(4, 1, 1, 1)
        noise[:, SIDE // 2 :] = 0
        meta = {MASK_KEY: torch.tensor(row), EXISTS_KEY: torch.tensor(row)}
        image = MetaTensor(noise * torch.tensor(row)[:, None, None, None], meta=meta)
        items.append({"image": image, "label": torch.zeros(1, SIDE, SIDE, SIDE), "study": str(number)})
    return items


def collected(apart: bool, shown=((True,) * 4,) * 4, network=None, output_dir=None, **settings) -> LatentGap:
    gap = LatentGap(**settings)
    inferer = SubsetSlidingWindowInferer(SIDE, subsets=[["flair", "t1ce", "t1", "t2"]])
    handlers = [gap] if output_dir is None else [SubsetScores(inferer, str(output_dir), additions=[gap])]
    SubsetEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(studies(shown)), batch_size=1),
        network=network or Coordinates(apart),
        inferer=inferer,
        val_handlers=handlers,
    ).run()
    return gap


def test_every_modality_is_sampled_at_the_same_places_inside_the_brain():
    sample = collected(False, places=10).sample()
    assert sample.features.shape == (4 * 4 * 10, 2)
    assert np.bincount(sample.modality).tolist() == [40] * 4
    assert np.bincount(sample.study).tolist() == [40] * 4
    assert (sample.features[:, 0] != 0).all()  # no background
    first = sample.features[sample.study == 0]
    for modality in range(4):
        np.testing.assert_array_equal(first[sample.modality[sample.study == 0] == modality], first[:10])


def test_modalities_that_a_study_lacks_are_not_sampled():
    shown = ((True, False, False, True), (True, True, True, True))
    sample = collected(False, shown, places=5).sample()
    assert sorted(set(sample.modality[sample.study == 0].tolist())) == [0, 3]
    assert np.bincount(sample.modality).tolist() == [10, 5, 5, 10]


def test_the_gap_tells_latents_that_know_their_modality_from_those_that_do_not():
    near, far = collected(False).gap(), collected(True).gap()
    assert near.centroid_distance == pytest.approx(0, abs=1e-6)
    assert near.mmd == pytest.approx(0, abs=1e-3)
    assert far.probe_accuracy == 1
    assert near.probe_accuracy < 0.4
    # centres at 0, 1, 2, 3: the mean distance of two is 10 / 6; the shared noise has variance 1
    assert far.centroid_distance == pytest.approx(10 / 6, rel=0.1)


def test_the_numbers_enter_summary_and_protocol(tmp_path):
    gap = collected(True, output_dir=tmp_path).gap()
    assert f"centroid distance {gap.centroid_distance:.3f}" in (tmp_path / "summary.md").read_text()
    recorded = json.loads((tmp_path / "protocol.json").read_text())["additions"]["modality_gap"]
    assert recorded == {"level": 1, **gap._asdict()}


def test_the_same_seed_draws_the_same_places():
    first, second, other = (collected(False, places=7, seed=seed).sample().features for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0 and 64"):
        LatentGap(level=0)
    with pytest.raises(ValueError, match="level must be at most 1 for Coordinates, got 2"):
        collected(False, level=2)
    with pytest.raises(ValueError, match="no latents were collected"):
        LatentGap().sample()

    class Whole(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return torch.zeros_like(x)

    with pytest.raises(ValueError, match=r"Whole has no encode\(\)"):
        collected(False, network=Whole())
