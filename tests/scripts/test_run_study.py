"""The study runner: killed in the middle, nothing done twice, several at once, failures recorded, tables as derived."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scripts.counting_run import CASES, HERE, REGIONS, SUBSETS, dice

TINY = Path(__file__).resolve().parents[1] / "data" / "study_tiny.json"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_study(folder: Path, **changes) -> Path:
    """A definition of two bundles with a seed each, whose knobs the stand-in reads."""
    content = {**json.loads(TINY.read_text()), "overrides": {}, "evaluation": {}, **changes}
    path = folder / "study.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def start(study: Path, out: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, str(HERE), "drive", str(study), "--output_dir", str(out), "--threads", "1", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(study: Path, out: Path, *options: str) -> tuple[int, str]:
    process = start(study, out, *options)
    text = process.communicate(timeout=300)[0]
    return process.returncode, text


def steps(out: Path, part: str = "training") -> dict[str, list[tuple[str, float]]]:
    """What each run's stand-in noted, with the time."""
    found = {}
    for folder in sorted((out / "runs").iterdir()):
        path = folder / part / "steps.txt"
        lines = path.read_text().splitlines() if path.is_file() else []
        found[folder.name] = [(line.rpartition(" ")[0], float(line.rpartition(" ")[2])) for line in lines]
    return found


def wait_for(condition, seconds: float = 300) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it did not happen in time"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "\nState:\tZ" not in status.read_text()
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two bundles with two seeds each, two at once, killed when both had two epochs, and gone on with."""
    folder = tmp_path_factory.mktemp("study")
    gate, out = folder / "gate", folder / "out"
    grids = [{"bundles": ["unet_base", "unet_pmix"], "seeds": [0, 1]}]
    study = write_study(folder, grids=grids, overrides={"*": {"epochs": 4, "_gate": str(gate)}})
    process = start(study, out, "--jobs", "2")
    try:
        # no run gets beyond its second epoch before the gate is there, so that two of them are waiting now
        wait_for(lambda: (out / "runs").is_dir() and [len(found) for found in steps(out).values()] == [2, 2])
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        process.kill()
    process.communicate()
    assert len(children) == 2
    wait_for(lambda: not any(is_alive(int(child)) for child in children), 60)
    interrupted = steps(out)
    gate.touch()
    assert run(study, out, "--jobs", "2")[0] == 0
    return study, out, interrupted


def test_after_a_kill_work_goes_on_where_it_stopped(finished):
    _, out, interrupted = finished
    assert len(interrupted) == 2
    for name, found in steps(out).items():
        epochs = [step for step, _ in found]
        assert epochs == [f"epoch {number}" for number in range(1, 5)], name
        assert found[: len(interrupted.get(name, []))] == interrupted.get(name, [])
    records = {row["run"]: row for row in rows(out / "runs.csv")}
    assert {name: row["training_attempts"] for name, row in records.items()} == {
        name: "2" if name in interrupted else "1" for name in records
    }
    assert {row["status"] for row in records.values()} == {"done"}


def test_two_runs_go_on_at_once(finished):
    _, _, interrupted = finished
    assert {name: [step for step, _ in found] for name, found in interrupted.items()} == {
        f"{bundle}-default-phantom-seed0": ["epoch 1", "epoch 2"] for bundle in ("unet_base", "unet_pmix")
    }


def test_finished_runs_are_not_repeated(finished):
    study, out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    code, text = run(study, out)
    assert code == 0
    assert "4 runs: 4 done, 0 failed, 0 to do now." in text
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()} == before


def test_a_study_is_gone_on_with_elsewhere_from_its_tables(finished, tmp_path):
    study, out, _ = finished
    wider = json.loads(study.read_text())
    wider["grids"][0]["seeds"] = [0, 1, 2]
    more = write_study(tmp_path, **wider)
    tables = tmp_path / "tables"  # all that is left of it
    tables.mkdir()
    for name in ("results.csv", "runs.csv", "curves.csv", "study.json"):
        shutil.copy(out / name, tables)
    with (tables / "curves.csv").open("a") as file:  # the stand-in draws none
        file.write("unet_base-default-phantom-seed0,unet_base,0,default,phantom,loss,1,0.5\n")
    code, text = run(more, tmp_path / "out", "--finished", str(tables))
    assert code == 0
    assert "6 runs: 4 done, 0 failed, 2 to do now." in text
    assert list(steps(tmp_path / "out")) == [f"{name}-default-phantom-seed2" for name in ("unet_base", "unet_pmix")]
    for name in ("results", "runs", "curves"):
        before, after = rows(tables / f"{name}.csv"), rows(tmp_path / "out" / f"{name}.csv")
        assert before
        assert [row for row in after if row["seed"] != "2"] == before
    assert {row["bundle"] for row in rows(tmp_path / "out" / "results.csv") if row["seed"] == "2"} == {
        "unet_base",
        "unet_pmix",
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"overrides": {"*": {"epochs": 3}}}, "overrides"),
        ({"evaluation": {"*": {"small_et": 3}}}, "evaluation"),
        ({"section": "validation"}, "section"),
        (
            {"data": {"phantom": {"phantom": {"size": 32}, "training": [1, 2], "validation": [3, 1], "test": [4, 1]}}},
            "data",
        ),
    ],
)
def test_runs_that_were_defined_differently_are_not_taken_over(finished, tmp_path, changes, named):
    study, out, _ = finished
    other = write_study(tmp_path, **{**json.loads(study.read_text()), **changes})
    code, text = run(other, tmp_path / "out", "--finished", str(out))
    assert code == 1
    assert f"was made with other ['{named}'] in {out} than the definition has now" in text
    assert not (tmp_path / "out").exists()


def test_tables_without_their_definition_are_refused(finished, tmp_path):
    code, text = run(finished[0], tmp_path / "out", "--finished", str(tmp_path))
    assert code == 1
    assert "study.json does not exist; give the folder of a study's tables" in text


def test_tables_that_lack_the_results_of_a_finished_run_are_refused(finished, tmp_path):
    study, out, _ = finished
    for name in ("runs.csv", "curves.csv", "study.json"):
        shutil.copy(out / name, tmp_path)
    lines = (out / "results.csv").read_text().splitlines(keepends=True)
    (tmp_path / "results.csv").write_text("".join(line for line in lines if not line.startswith("unet_pmix,1,")))
    code, text = run(study, tmp_path / "out", "--finished", str(tmp_path))
    assert code == 1
    assert "has no line of run unet_pmix-default-phantom-seed1" in text


def test_the_table_holds_the_cells_of_every_runs_cases(finished):
    _, out, _ = finished
    table = rows(out / "results.csv")
    wanted = [
        {
            "bundle": bundle,
            "seed": str(seed),
            "setting": "default",
            "data": "phantom",
            "case": case,
            "subset": subset,
            "shown": subset,
            "region": region,
            "Dice": repr(dice(bundle, seed, case, subset)),
            "HD95": repr(10 * dice(bundle, seed, case, subset)),
        }
        for seed in (0, 1)
        for bundle in ("unet_base", "unet_pmix")
        for case in CASES
        for subset in SUBSETS
        for region in REGIONS
    ]
    assert table == wanted


def test_runs_are_recorded_with_what_they_were_made_with(finished):
    _, out, _ = finished
    for row in rows(out / "runs.csv"):
        assert json.loads(row["overrides"])["epochs"] == 4
        assert len(row["configs_sha256"]) == len(row["checkpoint_sha256"]) == len(row["protocol_sha256"]) == 64
        assert float(row["training_seconds"]) > 0
        assert "torch" in json.loads(row["versions"])
        assert row["gap_centroid_distance"] == ("0.4" if row["bundle"] == "unet_pmix" else "0.5")
    # what only training needs to go on is gone, the weights are kept
    kept = {path.name for path in (out / "runs").glob("*/training/*")}
    assert kept == {"model.pt", "steps.txt"}


def test_a_definition_that_changed_is_not_mixed_in(finished):
    study, out, _ = finished
    changed = write_study(
        out.parent / "changed", **{**json.loads(study.read_text()), "overrides": {"*": {"epochs": 5}}}
    )
    code, text = run(changed, out)
    assert code == 1
    assert "was begun with other ['overrides'] than the definition has now" in text


def test_a_failing_run_is_recorded_and_does_not_stop_the_others(tmp_path):
    grids = [
        {"bundles": ["unet_base"], "seeds": [0], "settings": ["broken"]},
        {"bundles": ["unet_pmix"], "seeds": [0]},
    ]
    settings = {"broken": {"_fail": True}}
    study, out = write_study(tmp_path, grids=grids, settings=settings), tmp_path / "out"
    code, text = run(study, out)
    assert code == 1
    assert "unet_base-broken-phantom-seed0: ValueError: nothing to learn here (exit code 1)" in text
    assert {row["run"]: (row["status"], row["reason"]) for row in rows(out / "runs.csv")} == {
        "unet_base-broken-phantom-seed0": ("failed", "ValueError: nothing to learn here (exit code 1)"),
        "unet_pmix-default-phantom-seed0": ("done", ""),
    }
    assert {row["bundle"] for row in rows(out / "results.csv")} == {"unet_pmix"}
    _, again = run(study, out)
    assert "2 runs: 1 done, 1 failed, 0 to do now." in again
    _, retried = run(study, out, "--retry_failed")
    assert "1 to do now" in retried
    assert len((out / "runs" / "unet_base-broken-phantom-seed0" / "attempts.jsonl").read_text().splitlines()) == 2


def test_only_one_runner_works_on_a_study(tmp_path):
    gate, out = tmp_path / "gate", tmp_path / "out"
    study = write_study(tmp_path, overrides={"*": {"epochs": 3, "_gate": str(gate)}})
    first = start(study, out, "--limit", "1")
    wait_for(lambda: (out / "runs").is_dir())
    code, text = run(study, out)
    assert (code, "still works in" in text) == (1, True)
    gate.touch()
    assert "1 of 2 runs are done, 0 failed" in first.communicate(timeout=300)[0]


def test_a_dry_run_names_every_run_and_the_total_and_writes_nothing(tmp_path):
    code, text = run(
        write_study(tmp_path, minutes={"*": 20, "unet_pmix": 40}), tmp_path / "out", "--dry_run", "--jobs", "2"
    )
    assert code == 0
    assert "Projected: 1 h 00 min of runs, 30 min with 2 at once" in text
    assert "unet_base-default-phantom-seed0" in text
    assert "Data phantom: 2 training, 1 validation, 2 test cases." in text
    assert "--seed=0" in text
    assert not (tmp_path / "out").exists()


def test_training_on_the_own_phantom_is_told_no_folder_and_starts_from_the_bundles_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTS_THERE", str(tmp_path / "weights"))
    (tmp_path / "studies" / "A").mkdir(parents=True)
    for part in ("flair", "seg"):
        (tmp_path / "studies" / "A" / f"A_{part}.nii.gz").touch()
    study = write_study(
        tmp_path,
        data={"real": {"built_in": {"phantom_cases": [2, 1]}, "dataset_dir": str(tmp_path / "studies")}},
        overrides={"*": {"start_from": "$WEIGHTS_THERE/{bundle}/seed{seed}.pt"}},
        grids=[{"bundles": ["unet_base"], "seeds": [4]}],
    )
    code, text = run(study, tmp_path / "out", "--dry_run")
    assert code == 0, text
    training, evaluation = text.split("\ntraining of ")[1].split("\nevaluation of ")
    assert "--phantom_cases=[2, 1]" in training
    assert "dataset_dir" not in training
    assert f"--start_from={tmp_path / 'weights' / 'unet_base' / 'seed4.pt'}" in training
    assert "--dataset_dir=DATASET" in evaluation
    assert "phantom_cases" not in evaluation


def test_real_bundles_run_through_it_to_a_page(tmp_path):
    scripts = HERE.parents[2] / "scripts"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2])}

    def script(name: str, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(scripts / f"{name}.py"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    out = tmp_path / "out"
    done = script("run_study", str(TINY), "--output_dir", str(out), "--threads", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    for bundle in ("unet_base", "unet_pmix"):
        folder = out / "runs" / f"{bundle}-default-phantom-seed0"
        cases = rows(folder / "evaluation" / "cases.csv")
        own = [row for row in rows(out / "results.csv") if row["bundle"] == bundle]
        assert {row["case"] for row in own} == {"Phantom_300", "Phantom_301"}  # of the test section alone
        for metric in ("Dice", "HD95"):
            tidy = {(row["case"], row["subset"], row["region"]): row[metric] for row in own}
            assert tidy == {(c["study"], c["subset"], r): c[f"{metric}_{r}"] for c in cases for r in REGIONS}
        curves = [row for row in rows(out / "curves.csv") if row["bundle"] == bundle]
        assert [row["epoch"] for row in curves if row["curve"] == "val_mean_dice"] == ["1", "2"]
        assert [row["epoch"] for row in curves if row["curve"] == "fused_dice"] == ["1", "2"]
    assert all(0 <= float(row["gap_probe_accuracy"]) <= 1 for row in rows(out / "runs.csv"))
    page = tmp_path / "page"
    reported = script("report_study", str(out), "--page_dir", str(page), "--samples", "200")
    assert reported.returncode == 0, reported.stderr
    text = (page / "README.md").read_text()
    assert "2 of 2 runs are done, 0 failed." in text
    assert "curves_phantom_unet_base.png" in text
    assert all(
        line.partition("](")[2].rstrip(")") in os.listdir(page) for line in text.splitlines() if line[:2] == "!["
    )
