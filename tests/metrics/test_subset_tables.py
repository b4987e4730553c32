"""Tables of scores: a line per case, and means in the literature's layout."""

from __future__ import annotations

import csv

import pytest

from medmap_components.metrics import (
    METRICS,
    SCORED_REGIONS,
    CaseScore,
    Conventions,
    case_table,
    column,
    describe_summary,
    read_cases,
    summarise,
    summary_table,
)
from medmap_components.modalities import SUBSETS

NAMES = [subset.name for subset in SUBSETS]
KEYS = [column(metric, region) for metric in METRICS for region in SCORED_REGIONS]


def case(study: str, subset: str, value: float) -> CaseScore:
    return CaseScore(study, subset, subset, {key: value + index for index, key in enumerate(KEYS)})


CASES = [case(study, subset, value) for study, value in (("a", 0.1), ("b", 0.4)) for subset in NAMES[:2]]
CASES += [case("a", "all", 0.7)]


def test_cases_survive_being_written_to_the_last_bit(tmp_path):
    scores = {key: 1 / (index + 3) for index, key in enumerate(KEYS)}
    cases = [CaseScore("a,b", "FLAIR+T2", "FLAIR", scores)]
    (tmp_path / "cases.csv").write_text(case_table(cases))
    assert read_cases(tmp_path / "cases.csv") == cases


def test_other_tables_and_missing_ones_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_cases(tmp_path / "nowhere.csv")
    (tmp_path / "cases.csv").write_text("study,subset,WT\na,all,0.5\n")
    with pytest.raises(ValueError, match=r"lacks the columns .*'Dice_WT'"):
        read_cases(tmp_path / "cases.csv")


def test_the_summary_averages_studies_then_subsets():
    summary = summarise(CASES, NAMES)
    # T2 and T1ce: the mean of 0.1 and 0.4; all: 0.7 of the only study; their mean counts each subset once
    assert summary["Dice_WT"] == pytest.approx({"T2": 0.25, "T1ce": 0.25, "all": 0.7, "average": 0.4})
    assert summary["HD95_ET_pp"]["average"] == pytest.approx(0.4 + 7)


def test_the_csv_has_the_subsets_as_columns_in_the_literatures_order():
    rows = list(csv.reader(summary_table(summarise(CASES[::-1], NAMES)).splitlines()))
    assert rows[0] == ["metric", "region", "T2", "T1ce", "all", "average"]
    assert [row[:2] for row in rows[1:]] == [[metric, region] for metric in METRICS for region in SCORED_REGIONS]
    assert rows[1][2:] == ["0.250000", "0.250000", "0.700000", "0.400000"]


def test_the_markdown_has_marks_per_modality_regions_as_rows_and_the_conventions():
    full = [case("a", name, 0.5) for name in NAMES]
    text = describe_summary(summarise(full, NAMES), full, SUBSETS, Conventions(small_et=321), "net", ["a note"])
    lines = text.splitlines()
    assert lines[0] == "# net"
    assert f"| Dice (%) | {' | '.join(NAMES)} | average |" in lines
    assert "| FLAIR | ○ | ○ | ○ | ● | ○ | ○ | ● | ○ | ● | ● | ● | ● | ● | ○ | ● |  |" in lines
    assert f"| WT | {' | '.join(['50.00'] * 16)} |" in lines
    assert f"| TC | {' | '.join(['5.50'] * 16)} |" in lines  # HD95 in mm, not in percent
    assert f"| studies | {' | '.join(['1'] * 15)} |  |" in lines
    assert "fewer than 321 voxels" in text
    assert "both empty: 1; one empty: 0" in text
    assert "diagonal of the study's full, uncropped grid" in text
    assert lines[-1] == "- a note"
