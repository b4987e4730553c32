"""The command that compares evaluations: its files, and its refusal."""

from __future__ import annotations

import csv

import pytest

from tests.metrics.test_comparison import STUDIES, evaluation, same


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("compare_bundles")


def test_table_csv_and_plots_are_written(script, tmp_path, capsys):
    evaluation(tmp_path / "a", "plain", same(0.0))
    evaluation(tmp_path / "b", "aligned", dict(zip(STUDIES, (0.03, *[0.01] * 7), strict=True)))
    out = tmp_path / "out"
    arguments = [str(tmp_path / "a"), f"new={tmp_path / 'b'}"]
    assert script.main([*arguments, "--output_dir", str(out), "--samples", "500"]) == 0
    with (out / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert {(row["method"], row["reference"]) for row in rows} == {("new", "plain")}
    assert float(rows[0]["mean"]) == pytest.approx(0.0125)
    text = (out / "comparison.md").read_text()
    assert text == capsys.readouterr().out.partition("\nWritten to")[0]
    assert "**24 comparisons** were made" in text
    assert "| average | 8 | +1.25 (+1.00 to " in text  # its P times 24 is above 0.05
    assert {path.name for path in out.glob("*.png")} == {"forest_Dice.png", "forest_HD95.png"}
    script.main([*arguments, "--output_dir", str(out), "--correction", "none"])
    assert "| average | 8 | +1.25\\* (+1.00 to " in (out / "comparison.md").read_text()


def test_evaluations_of_other_cases_are_refused(script, tmp_path, capsys):
    evaluation(tmp_path / "a", "plain", same(0.0))
    evaluation(tmp_path / "b", "aligned", same(0.0, STUDIES[1:]))
    assert script.main([str(tmp_path / "a"), str(tmp_path / "b"), "--output_dir", str(tmp_path / "out")]) == 1
    assert "cases: 1 are only in the first ['a'], 0 only in the second" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert script.main([str(tmp_path / "nowhere")]) == 1
    assert "protocol.json does not exist" in capsys.readouterr().err
