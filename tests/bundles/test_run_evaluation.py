"""Scoring weights with all subsets of the modalities: evaluate.json on top of train.json."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from medmap_components.inferers import subsets
from medmap_components.modalities import SUBSETS, modality_mask


@pytest.fixture(scope="module")
def evaluated(bundle, trained, tiny_dataset, tmp_path_factory) -> Path:
    """The tables of two studies, the second of which has FLAIR and T2 only."""
    output = tmp_path_factory.mktemp("evaluated")
    split = output / "split.json"
    names = [f"BraTS2021_0000{index}" for index in range(4)]
    split.write_text(json.dumps({"training": names[1::2], "validation": names[::2]}))
    overrides = bundle.tiny_training(dataset_dir=str(tiny_dataset), split_file=str(split), output_dir=str(output))
    del overrides["crop_size"]  # told by the weights
    overlay = bundle.config("evaluate")
    bundle.run(
        "train", "evaluating", overlays=[overlay], checkpoint=str(trained / "model.pt"), modality_gap=True, **overrides
    )
    return output


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_study_is_scored_with_every_subset_that_it_has_something_of(evaluated):
    cases = rows(evaluated / "evaluation" / "cases.csv")
    scored = {name: [row["subset"] for row in cases if row["study"] == name] for name in {r["study"] for r in cases}}
    flair_or_t2 = [
        subset.name
        for subset in SUBSETS
        if any(map(min, zip(subset.mask, modality_mask(["flair", "t2"]), strict=True)))
    ]
    assert scored == {"BraTS2021_00000": [subset.name for subset in SUBSETS], "BraTS2021_00002": flair_or_t2}
    assert all(0 <= float(row[f"Dice_{region}"]) <= 1 for row in cases for region in ("WT", "TC", "ET", "ET_pp"))
    assert all(0 <= float(row[f"HD95_{region}"]) < 30 for row in cases for region in ("WT", "TC", "ET", "ET_pp"))


def test_the_summary_has_the_literatures_columns_and_the_means_of_the_cases(evaluated):
    cases = rows(evaluated / "evaluation" / "cases.csv")
    summary = rows(evaluated / "evaluation" / "summary.csv")
    names = [subset.name for subset in SUBSETS]
    assert list(summary[0]) == ["metric", "region", *names, "average"]
    assert len(summary) == 8
    for row in summary:
        means = []
        for name in names:
            values = [float(case[f"{row['metric']}_{row['region']}"]) for case in cases if case["subset"] == name]
            means.append(sum(values) / len(values))
            assert float(row[name]) == pytest.approx(means[-1], abs=1e-5)
        assert float(row["average"]) == pytest.approx(sum(means) / 15, abs=1e-5)
    text = (evaluated / "evaluation" / "summary.md").read_text()
    assert f"| Dice (%) | {' | '.join(names)} | average |" in text
    assert (evaluated / "evaluation" / "summary.png").is_file()


def test_the_protocol_is_recorded(bundle, evaluated):
    protocol = json.loads((evaluated / "evaluation" / "protocol.json").read_text())
    assert protocol["cases"] == ["BraTS2021_00000", "BraTS2021_00002"]
    assert protocol["run"]["bundle"] == bundle.root.name
    assert protocol["run"]["window"] == [32, 32, 32]
    assert len(protocol["run"]["checkpoint_sha256"]) == 64
    assert protocol["run"]["settings"] == {"preprocessing_scheme": "standard", "spacing_mm": 6.0, "amp": False}
    assert protocol["protocol"]["overlap"] == [0.5, 0.5, 0.5]


def test_the_modality_gap_is_measured_on_request(evaluated):
    protocol = json.loads((evaluated / "evaluation" / "protocol.json").read_text())
    gap = protocol["additions"]["modality_gap"]
    assert (gap["level"], gap["studies"]) == (1, 2)
    assert 0 <= gap["probe_accuracy"] <= 1
    assert "**modality gap** at level 1" in (evaluated / "evaluation" / "summary.md").read_text()


@pytest.mark.parametrize(("given", "measured"), [("true", True), (True, True), ("false", False), (False, False)])
def test_the_modality_gap_can_be_turned_on_and_off_in_words(bundle, given, measured):
    # the command line hands over the words as text
    config = bundle.read("evaluate")
    parser = ConfigParser({key: config[key] for key in ("latent_gap", "modality_gap_level")} | {"modality_gap": given})
    assert (parser.get_parsed_content("latent_gap") is not None) == measured


def test_subsets_are_scored_differently(evaluated):
    # scores that ignored the masks would all be the same
    cases = [row for row in rows(evaluated / "evaluation" / "cases.csv") if row["study"] == "BraTS2021_00000"]
    assert len({(row["Dice_WT"], row["Dice_TC"], row["Dice_ET"]) for row in cases}) > 3


def test_subsets_that_are_decoded_together_score_the_same(
    bundle, trained, tiny_dataset, evaluated, tmp_path, monkeypatch
):
    together, repeat = set(), subsets._repeated
    monkeypatch.setattr(subsets, "_repeated", lambda latents, times: together.add(times) or repeat(latents, times))
    overrides = bundle.tiny_training(
        dataset_dir=str(tiny_dataset), split_file=str(evaluated / "split.json"), output_dir=str(tmp_path)
    )
    del overrides["crop_size"]
    weights = str(trained / "model.pt")
    bundle.run(
        "train",
        "evaluating",
        overlays=[bundle.config("evaluate")],
        checkpoint=weights,
        subsets_per_batch=7,
        **overrides,
    )
    assert max(together) == 7
    for one, other in zip(*(rows(d / "evaluation" / "cases.csv") for d in (evaluated, tmp_path)), strict=True):
        assert all(float(one[f"Dice_{r}"]) == pytest.approx(float(other[f"Dice_{r}"]), abs=1e-3) for r in ("WT", "TC"))
        assert (one["study"], one["subset"]) == (other["study"], other["subset"])


def test_nothing_is_trained(evaluated):
    assert not list(evaluated.rglob("*.pt"))
