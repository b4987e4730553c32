"""The page of a study: numbers that can be told by hand, and sentences that they decide."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from medmap_components.modalities import SUBSETS

TINY = Path(__file__).resolve().parents[1] / "data" / "study_tiny.json"
CASES = tuple("abcdefgh")
BOTH = ("unet_base", "unet_pmix")
REGIONS = ("WT", "TC", "ET", "ET_pp")


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("report_study")


def write_tables(folder, gain, seeds=(0, 1), folds=1, plain=(0.5, 0.5), **changes):
    """A study whose Dice is ``plain[seed]`` in the reference, and ``gain(case, region, seed)`` more in the other."""
    from study.files import write_csv
    from study.records import CURVE_COLUMNS, RECORD_COLUMNS, RESULT_COLUMNS

    folder.mkdir(parents=True, exist_ok=True)
    grids = [{"bundles": list(BOTH), "seeds": list(seeds)}]
    content = {**json.loads(TINY.read_text()), "grids": grids}
    if folds > 1:
        content["data"] = {"real": {"dataset_dir": "nowhere", "folds": folds}}
    (folder / "study.json").write_text(json.dumps(content))
    results, runs, curves = [], [], []
    for bundle in BOTH:
        for seed in seeds:
            for fold in range(folds):
                data = f"real_fold{fold}" if folds > 1 else "phantom"
                own = {"bundle": bundle, "seed": seed, "setting": "default", "data": data}
                name = f"{bundle}-default-{data}-seed{seed}"
                aligned = bundle == "unet_pmix"
                runs.append(
                    {
                        **own,
                        "run": name,
                        "status": "done",
                        "protocol_sha256": data,
                        "code": "abc",
                        "device": "CPU",
                        "versions": '{"torch": "2"}',
                        "training_attempts": 1,
                        **{f"{p}_{w}": 90 for p in ("training", "evaluation") for w in ("seconds", "cpu_seconds")},
                        "gap_centroid_distance": 0.5 - 0.2 * aligned,
                        "gap_mmd": "",
                        "gap_probe_accuracy": "",
                        **changes.get(name, {}),
                    }
                )
                curves += [{**own, "run": name, "curve": "val_mean_dice", "epoch": 1, "value": 0.5}]
                for case in CASES[fold::folds]:
                    for subset in SUBSETS:
                        for region in REGIONS:
                            score = plain[seed] + (gain(case, region, seed) if aligned else 0)
                            place = {"case": case, "subset": subset.name, "shown": subset.name, "region": region}
                            results.append({**own, **place, "Dice": score, "HD95": 10 - 10 * score})
    write_csv(folder / "results.csv", RESULT_COLUMNS, results)
    write_csv(folder / "runs.csv", RECORD_COLUMNS, runs)
    write_csv(folder / "curves.csv", CURVE_COLUMNS, curves)
    return folder


def page(script, folder):
    assert script.main([str(folder), "--samples", "500"]) == 0
    return (folder / "README.md").read_text()


def better_in_wt_alone(case, region, seed):
    if region == "WT":
        return 0.01 * (1 + CASES.index(case))  # all of 8 cases gain, 4.5 points in the mean
    return 0.01 * (-1) ** CASES.index(case)  # half of them gain what the others lose


def test_a_gain_of_every_case_is_shown_and_one_that_cancels_out_is_not(script, tmp_path):
    text = page(script, write_tables(tmp_path, better_in_wt_alone))
    # two of 2^8 sign patterns are as extreme; Holm multiplies the smallest of three P values by 3
    assert "- **unet_pmix was better than unet_base**: +4.50 percentage points of Dice" in text
    assert f"P after Holm {3 * 2 / 2**8:.2g}" in text
    assert text.count("No difference between unet_pmix and unet_base was shown: +0.00") == 2
    assert "With 8 cases no P can be below 0.0078" in text
    assert "Some methods have 2 seed(s)" in text
    assert "4 of 4 runs are done, 0 failed." in text


def test_a_gain_that_only_the_interval_shows_is_called_a_hint(script, tmp_path):
    def gain(case, region, seed):
        return 0.04 if region == "WT" and CASES.index(case) < 5 else 0.0

    text = page(script, write_tables(tmp_path, gain))
    # five gains and three zeros: 2 of 2^5 sign patterns, 0.0625
    assert "was better than unet_base by the interval, but not by the corrected test" in text
    assert "P after Holm 0.19" in text


def test_a_gain_that_depends_on_the_seed_is_called_a_hint(script, tmp_path):
    # every case gains 0.02 as the mean of its seeds, but of two seeds one loses
    text = page(script, write_tables(tmp_path, lambda case, region, seed: 0.08 if seed == 0 else -0.04))
    assert text.count("was better than unet_base by the corrected test over cases, but not by the interval") == 3
    assert "**unet_pmix was better" not in text


def test_a_gain_of_a_single_seed_is_called_a_hint(script, tmp_path):
    lost = {f"{bundle}-default-phantom-seed1": {"status": "failed"} for bundle in BOTH}
    text = page(script, write_tables(tmp_path, better_in_wt_alone, **lost))
    assert "was better than unet_base by the corrected test over cases, but with a single seed" in text
    assert "8 cases of phantom, 1 seed." in text
    assert "**unet_pmix was better" not in text


def test_a_loss_is_reported_as_a_loss(script, tmp_path):
    text = page(script, write_tables(tmp_path, lambda case, region, seed: -0.01 * (1 + CASES.index(case))))
    assert text.count("**unet_pmix was worse than unet_base**: -4.50 percentage points") == 3


def test_seeds_and_the_gap_are_listed_one_by_one(script, tmp_path):
    text = page(script, write_tables(tmp_path, lambda case, region, seed: 0.02 if seed else -0.01))
    assert "| phantom | unet_pmix | unet_base | 0 | -1.00 | -1.00 | -1.00 |" in text
    assert "| phantom | unet_pmix | unet_base | 1 | +2.00 | +2.00 | +2.00 |" in text
    assert "| unet_pmix | unet_base | 1 | 0.500 → 0.300 | +2.00 |" in text
    assert "| unet_base | phantom | 2 | 50.00 | 50.00 | 50.00 | 50.00 | 50.00 |" in text
    assert "| unet_pmix | phantom | 2 | 50.50 | 50.50 | 50.50 | 50.50 | 50.50 |" in text


def test_all_differences_are_in_the_table_with_all_digits(script, tmp_path):
    page(script, write_tables(tmp_path, better_in_wt_alone))
    with (tmp_path / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 16  # metrics, regions, subsets with their average
    for row in (row for row in rows if row["region"] == "WT"):
        assert float(row["mean"]) == pytest.approx(0.045 if row["metric"] == "Dice" else -0.45)
        # all 8 cases differ in one direction: 2 of 2^8 sign patterns, times the 128 tests of the table
        assert (float(row["p"]), float(row["p_holm"])) == (2 / 2**8, 1.0)


def test_folds_are_put_together(script, tmp_path):
    text = page(script, write_tables(tmp_path, better_in_wt_alone, folds=2))
    assert "+4.50 percentage points of Dice" in text
    assert "8 cases of real, 2 seeds." in text


def test_a_seed_that_is_not_complete_is_left_out(script, tmp_path):
    broken = {"unet_pmix-default-phantom-seed1": {"status": "failed", "reason": "ValueError: no"}}
    gain = {0: 0.02, 1: 0.5}
    text = page(script, write_tables(tmp_path, lambda case, region, seed: gain[seed], **broken))
    assert "3 of 4 runs are done, 1 failed. **The study is not complete" in text
    assert "- failed: unet_pmix-default-phantom-seed1: ValueError: no" in text
    assert "| unet_pmix | phantom | 1 | 52.00 |" in text


def test_a_method_is_compared_with_the_seeds_of_its_reference_that_it_has_itself(script, tmp_path):
    broken = {"unet_pmix-default-phantom-seed1": {"status": "failed", "reason": "ValueError: no"}}
    # with the reference's second seed, which is bad, the gain would be 22 points
    text = page(script, write_tables(tmp_path, lambda case, region, seed: 0.02, plain=(0.5, 0.1), **broken))
    assert text.count("+2.00 percentage points of Dice") == 3


def test_methods_without_a_common_seed_are_not_compared(script, tmp_path):
    broken = {f"{name}-default-phantom-seed{seed}": {"status": "failed"} for seed, name in enumerate(BOTH)}
    text = page(script, write_tables(tmp_path, better_in_wt_alone, **broken))
    assert "Nothing can be compared yet" in text


def test_a_method_can_answer_by_a_subset_of_its_own(script, tmp_path):
    folder = write_tables(tmp_path, lambda case, region, seed: 0.02)
    content = json.loads((folder / "study.json").read_text())
    content["primary"] = {"metric": "Dice", "subset": {"unet_pmix": "T1ce"}, "regions": ["WT"]}
    (folder / "study.json").write_text(json.dumps(content))
    text = page(script, folder)
    assert "with the subset of each method, which the definition names: 1 comparisons" in text
    assert "; WT, T1ce, 8 cases of phantom, 2 seeds." in text


@pytest.mark.parametrize("devices", ["H100", "CPU | H100"])
def test_different_devices_are_named(devices, script, tmp_path):
    assert "devices" not in page(script, write_tables(tmp_path / "one", better_in_wt_alone))
    other = {"unet_pmix-default-phantom-seed1": {"device": devices}}  # the second went on elsewhere
    text = page(script, write_tables(tmp_path / "two", better_in_wt_alone, **other))
    assert "- The runs were made on different devices (CPU; H100); runs.csv says which." in text


def test_runs_that_were_evaluated_differently_are_refused(script, tmp_path, capsys):
    other = {"unet_pmix-default-phantom-seed1": {"protocol_sha256": "another"}}
    folder = write_tables(tmp_path, better_in_wt_alone, **other)
    assert script.main([str(folder)]) == 1
    assert "the runs on 'phantom' were evaluated in 2 different ways" in capsys.readouterr().err


def test_the_page_can_be_made_again_from_its_own_folder(script, tmp_path):
    folder, copy = write_tables(tmp_path / "a", better_in_wt_alone), tmp_path / "b"
    assert script.main([str(folder), "--page_dir", str(copy), "--samples", "500"]) == 0
    first = (copy / "README.md").read_text()
    assert page(script, copy) == first
    linked = [line.partition("](")[2].rstrip(")") for line in first.splitlines() if line.startswith("![")]
    assert set(linked) == {path.name for path in copy.glob("*.png")}
    assert len(linked) == 4
