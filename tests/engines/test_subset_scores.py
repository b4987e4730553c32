"""An evaluation's folder from an evaluator over two small studies whose scores can be told by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import SpatialCrop
from torch import Tensor, nn

from medmap_components.engines import SubsetEvaluator, SubsetProgressBar, SubsetScores
from medmap_components.inferers import MaskedSlidingWindowInferer, SubsetSlidingWindowInferer
from medmap_components.metrics import read_cases
from medmap_components.modalities import SUBSETS
from medmap_components.transforms import EXISTS_KEY, MASK_KEY, SpacingIfNeeded

SIDE = 8


class AsManyAsShown(nn.Module):
    """Calls the first n planes enhancing tumour, n being the number of modalities that it is shown."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        logits = torch.zeros(len(x), 4, *x.shape[2:])
        for row, shown in enumerate(mask.sum(1).tolist()):
            logits[row, 0] = 1
            logits[row, 3, :shown] = 2
        return logits


def study(name: str, planes: int, shown: tuple[bool, ...] = (True,) * 4) -> dict:
    """Enhancing tumour in the first planes, on a grid that was read as 16 x 8 x 8 voxels of 2 mm."""
    label = torch.zeros(1, SIDE, SIDE, SIDE)
    label[:, :planes] = 3
    counts = torch.bincount(label.flatten().long(), minlength=4)
    affine = torch.diag(torch.tensor([2.0, 2, 2, 1])).double()
    meta = {
        "spatial_shape": torch.tensor([16, SIDE, SIDE]),
        "original_affine": affine.numpy(),
        "class_voxels": counts + torch.tensor([16 * SIDE**2 - SIDE**3, 0, 0, 0]),
    }
    image_meta = {MASK_KEY: torch.tensor(shown), EXISTS_KEY: torch.tensor(shown)}
    image = MetaTensor(torch.rand(4, SIDE, SIDE, SIDE), affine=affine, meta=image_meta)
    return {"image": image, "label": MetaTensor(label, affine=affine, meta=meta), "study": name}


def evaluate(studies: list[dict], output_dir, **settings) -> SubsetScores:
    inferer = SubsetSlidingWindowInferer(SIDE, subsets=settings.pop("subsets", None))
    scores = SubsetScores(inferer, str(output_dir), **{"small_et": 0, **settings})
    SubsetEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(studies), batch_size=1),
        network=AsManyAsShown(),
        inferer=inferer,
        val_handlers=[SubsetProgressBar(), scores],
    ).run()
    return scores


def test_every_study_is_scored_in_every_situation_that_it_has_something_of(tmp_path):
    evaluate([study("a", 2), study("b", 1, (True, False, False, False))], tmp_path)
    cases = read_cases(tmp_path / "cases.csv")
    dice = {(case.study, case.subset): case.scores["Dice_ET"] for case in cases}
    assert [case.subset for case in cases if case.study == "a"] == [subset.name for subset in SUBSETS]
    for subset in SUBSETS:
        # a: the network draws as many planes as it is shown modalities, the reference has two
        assert dice["a", subset.name] == pytest.approx(2 * min(sum(subset.mask), 2) / (sum(subset.mask) + 2))
        assert (("b", subset.name) in dice) == subset.mask[0]
        # b: whatever else is asked for, FLAIR alone is shown, and one plane is right
        assert dice.get(("b", subset.name), 1) == 1
    assert {case.shown for case in cases if case.study == "b"} == {"FLAIR"}


def test_the_distance_of_an_empty_mask_is_the_diagonal_of_the_uncropped_grid(tmp_path):
    evaluate([study("a", 0)], tmp_path, subsets=[["t1"]])
    (case,) = read_cases(tmp_path / "cases.csv")
    assert case.scores["HD95_ET"] == pytest.approx(2 * (16**2 + 8**2 + 8**2) ** 0.5)
    assert case.scores["Dice_ET"] == 0


def test_distances_are_in_mm(tmp_path):
    evaluate([study("a", 4)], tmp_path, subsets=[["t1"]])
    (case,) = read_cases(tmp_path / "cases.csv")
    # 1 plane of 2 mm against 4: of the surface of the 4-plane block, 64 + 2 x 28 + 64 voxels, the last 64 are 6 mm away
    assert case.scores["HD95_WT"] == pytest.approx(6)


def test_a_resampled_study_is_scored_on_its_own_grid_even_where_its_shape_stayed(tmp_path):
    case = study("a", planes=2)
    shown = {key: case["image"].meta[key] for key in (MASK_KEY, EXISTS_KEY)}
    crop = SpatialCrop(roi_start=(0, 0, 0), roi_end=(SIDE, SIDE, SIDE))
    image = crop(SpacingIfNeeded(1.0)(MetaTensor(case["image"].as_tensor() + 1, affine=case["image"].affine)))
    image.meta.update(shown)
    assert image.shape == case["image"].shape
    everything = [["flair", "t1ce", "t1", "t2"]]
    (score,) = evaluate([{**case, "image": image}], tmp_path, subsets=everything).cases
    # four planes of 1 mm are two of 2 mm; of these the crop shows 4 x 4 voxels: 2 x 16 of the reference's 2 x 64
    assert score.scores["Dice_ET"] == pytest.approx(2 * 32 / (32 + 128))


def test_small_enhancing_tumours_are_emptied_on_request(tmp_path):
    evaluate([study("a", 0)], tmp_path, subsets=[["t1"]], small_et=SIDE**2 + 1)
    (case,) = read_cases(tmp_path / "cases.csv")
    assert (case.scores["Dice_ET"], case.scores["Dice_ET_pp"]) == (0, 1)


class Extra:
    def attach(self, engine) -> None:
        self.engine = engine

    def notes(self) -> Iterator[str]:
        yield f"an additional line of {type(self.engine).__name__}"

    def numbers(self) -> dict[str, float]:
        return {"extra": 1.5}


def test_summary_protocol_and_figure_are_written(tmp_path):
    evaluate([study("a", 2), study("b", 0)], tmp_path, bundle="x/net", seed=4, additions=[None, Extra()])
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("# net, seed 4\n\nMeans over 2 studies.")
    assert "**reference without enhancing tumour**: 1 of 2 studies" in text
    assert text.endswith("- an additional line of SubsetEvaluator\n")
    protocol = json.loads((tmp_path / "protocol.json").read_text())
    assert protocol["cases"] == ["a", "b"]
    assert protocol["run"]["bundle"] == "net"
    assert protocol["additions"] == {"extra": 1.5}
    assert (tmp_path / "summary.csv").read_text().startswith("metric,region,T2,T1ce,")
    assert (tmp_path / "summary.png").stat().st_size > 10_000


def test_what_a_crop_cut_off_the_reference_is_told_and_counts(tmp_path, caplog):
    cut = study("a", 1)
    cut["label"].meta["class_voxels"] = torch.tensor([0, 0, 0, 2 * SIDE**2])
    evaluate([cut], tmp_path, subsets=[["t1"]])
    assert f"a: {SIDE**2} voxels of the reference lie outside" in caplog.text
    (case,) = read_cases(tmp_path / "cases.csv")
    assert case.scores["Dice_ET"] == pytest.approx(2 / 3)


def test_a_second_run_starts_afresh(tmp_path):
    scores = evaluate([study("a", 2)], tmp_path)
    assert len(scores.cases) == 15
    scores._clear()
    assert not scores.cases
    assert not scores.references


def test_other_inferers_and_larger_batches_are_refused():
    common = {"device": torch.device("cpu"), "network": AsManyAsShown()}
    loader = DataLoader(Dataset([study("a", 1), study("b", 1)]), batch_size=2)
    with pytest.raises(ValueError, match=r"SubsetSlidingWindowInferer, got MaskedSlidingWindowInferer"):
        SubsetEvaluator(val_data_loader=loader, inferer=MaskedSlidingWindowInferer(SIDE), **common)
    with pytest.raises(ValueError, match="one study a batch, got 2"):
        SubsetEvaluator(val_data_loader=loader, inferer=SubsetSlidingWindowInferer(SIDE), **common).run()
