"""Paired comparison: differences, P values and intervals that can be told by hand, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wilcoxon

from medmap_components.inferers import SubsetSlidingWindowInferer
from medmap_components.metrics import METRICS, SCORED_REGIONS, CaseScore, Conventions, case_table, column
from medmap_components.metrics.comparison import compare_methods, group_runs, holm, read_run, signed_rank_p
from medmap_components.metrics.protocol import RunIdentity, make_protocol, write_protocol

SUBSETS = ("T1", "all")
STUDIES = tuple("abcdefgh")
BASE = dict(zip(STUDIES, np.linspace(0.3, 0.8, len(STUDIES)), strict=True))


def evaluation(folder, name, gains, seed=0, weights=None, overlap=0.5):
    """An evaluation whose Dice of every region is ``BASE`` plus a gain per study, and HD95 ten times that."""
    folder.mkdir(parents=True)
    cases = []
    for subset in SUBSETS:
        for study in gains:
            value = BASE[study] + gains[study]
            scores = {column(m, r): value * (10 if m == "HD95" else 1) for m in METRICS for r in SCORED_REGIONS}
            cases.append(CaseScore(study, subset, subset, scores))
    checkpoint = folder / "model.pt"
    checkpoint.write_text(weights or str(folder))
    inferer = SubsetSlidingWindowInferer(32, overlap=overlap, subsets=[["t1"], ["flair", "t1ce", "t1", "t2"]])
    references = dict.fromkeys(gains, (1, 1, 1, 1))
    identity = RunIdentity(name, seed, str(checkpoint))
    write_protocol(folder / "protocol.json", make_protocol(identity, inferer, Conventions(), cases, references))
    (folder / "cases.csv").write_text(case_table(cases))
    return folder


def same(gain: float, studies=STUDIES) -> dict[str, float]:
    return dict.fromkeys(studies, gain)


def test_differences_are_paired_and_every_place_is_compared(tmp_path):
    gains = dict(zip(STUDIES, np.arange(1, 9) / 100, strict=True))
    folders = [evaluation(tmp_path / "a", "plain", same(0.0)), evaluation(tmp_path / "b", "aligned", gains)]
    differences = compare_methods(group_runs([read_run(folder) for folder in folders]), samples=2000)
    assert len(differences) == 2 * 4 * 3  # metrics, regions, two subsets and their average
    for difference in differences:
        factor = 10 if difference.metric == "HD95" else 1
        assert (difference.method, difference.reference, difference.studies) == ("aligned", "plain", 8)
        assert difference.mean == pytest.approx(0.045 * factor)
        # the mean of 8 draws from 1 to 8 has the standard deviation sqrt(63 / 12 / 8) = 0.81
        assert difference.low == pytest.approx((4.5 - 1.96 * 0.81) / 100 * factor, abs=0.001 * factor)
        assert difference.high == pytest.approx((4.5 + 1.96 * 0.81) / 100 * factor, abs=0.001 * factor)
        # all of 8 differences are positive: 2 of 2^8 sign patterns are as extreme
        assert difference.p == pytest.approx(2 / 2**8)
        assert difference.p_holm == pytest.approx(24 * 2 / 2**8)


def test_no_difference_is_no_difference(tmp_path):
    folders = [evaluation(tmp_path / name, name, same(0.1)) for name in ("a", "b")]
    for difference in compare_methods(group_runs([read_run(folder) for folder in folders]), samples=50):
        assert difference[6:] == (0, 0, 0, 1, 1)


def test_seeds_are_averaged_per_study_and_resampled(tmp_path):
    folders = [evaluation(tmp_path / "a", "plain", same(0.0))]
    folders += [evaluation(tmp_path / f"b{seed}", "aligned", same(gain), seed) for seed, gain in enumerate((0.0, 0.2))]
    difference = compare_methods(group_runs([read_run(folder) for folder in folders]), samples=4000)[0]
    assert difference.mean == pytest.approx(0.1)
    # of two seeds, both draws are the worse one in a quarter of the samples, both the better one in another
    assert (difference.low, difference.high) == (pytest.approx(0), pytest.approx(0.2))
    one_seed = compare_methods(group_runs([read_run(folder) for folder in folders[:2]]), samples=100)[0]
    assert (one_seed.low, one_seed.high) == (0, 0)


def test_intervals_repeat_with_their_seed(tmp_path):
    gains = dict(zip(STUDIES, np.arange(8) ** 2 / 100, strict=True))
    folders = [evaluation(tmp_path / "a", "plain", same(0.0)), evaluation(tmp_path / "b", "aligned", gains)]
    methods = group_runs([read_run(folder) for folder in folders])
    assert compare_methods(methods, 200) == compare_methods(methods, 200)
    assert compare_methods(methods, 200) != compare_methods(methods, 200, seed=1)
    narrow, wide = compare_methods(methods, 2000, 0.5)[0], compare_methods(methods, 2000, 0.99)[0]
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_names_make_methods_of_evaluations_of_one_bundle(tmp_path):
    folders = [evaluation(tmp_path / name, "net", same(0.0)) for name in ("a", "b")]
    methods = group_runs([read_run(folder, name) for folder, name in zip(folders, ("x", "y"), strict=True)])
    assert [method.name for method in methods] == ["x", "y"]


def test_other_cases_and_protocols_are_refused_by_name(tmp_path):
    first = read_run(evaluation(tmp_path / "a", "plain", same(0.0)))
    fewer = read_run(evaluation(tmp_path / "b", "aligned", same(0.0, STUDIES[:-1])))
    overlap = read_run(evaluation(tmp_path / "c", "aligned", same(0.0), overlap=0.25))
    with pytest.raises(ValueError, match=r"cannot be compared.*\n.*cases: 1 are only in the first \['h'\]"):
        group_runs([first, fewer])
    with pytest.raises(ValueError, match=r"overlap: \[0\.5, 0\.5, 0\.5\] and \[0\.25, 0\.25, 0\.25\]"):
        group_runs([first, overlap])


def test_a_single_method_and_false_repetitions_are_refused(tmp_path):
    runs = [
        read_run(evaluation(tmp_path / name, "net", same(0.0), seed, weights))
        for name, seed, weights in (("a", 0, "x"), ("b", 0, "y"), ("c", 1, "x"))
    ]
    other = read_run(evaluation(tmp_path / "d", "other", same(0.0)))
    with pytest.raises(ValueError, match=r"all 2 evaluations belong to \['net'\]"):
        group_runs(runs[:2])
    with pytest.raises(ValueError, match=r"another seed: \[0, 0\]"):
        group_runs([other, *runs[:2]])
    with pytest.raises(ValueError, match="another checkpoint_sha256"):
        group_runs([other, runs[0], runs[2]])


def test_bad_settings_are_refused(tmp_path):
    folders = [evaluation(tmp_path / name, name, same(0.0)) for name in ("a", "b")]
    methods = group_runs([read_run(folder) for folder in folders])
    for settings in ({"confidence": 95}, {"samples": 0}):
        with pytest.raises(ValueError, match="confidence must lie between 0 and 1 and samples be at least 1, got"):
            compare_methods(methods, **settings)


def test_holms_correction_by_hand():
    # sorted 0.01 0.02 0.03 0.5 times 4 3 2 1, never falling
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_zeros_are_left_out_of_the_signed_rank_test():
    values = np.array([0.0, 0.1, -0.2, 0.3, 0.4, 0.0, 0.55])
    assert signed_rank_p(values) == pytest.approx(wilcoxon(values[values != 0]).pvalue)
    assert signed_rank_p(np.zeros(4)) == 1
