"""The modality gap of latents that were made so that the numbers follow."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from medmap_components.metrics.modality_gap import (
    centroid_distance,
    mean_discrepancy,
    modality_gap,
    probe_accuracy,
)

pytest.importorskip("sklearn", reason="scikit-learn is not installed")


def corners(distance: float, studies: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two modalities, each at +1 and -1 around its centre on both axes, the centres apart on the first axis."""
    square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float)
    features = np.concatenate([square, square + np.array([distance, 0])] * studies)
    modality = np.tile(np.repeat([0, 1], 4), studies)
    return features, modality, np.repeat(np.arange(studies), 8)


def test_the_centroid_distance_by_hand():
    features, modality, _ = corners(6)
    # variance 1 on each of two axes: spread sqrt(2)
    assert centroid_distance(features, modality) == pytest.approx(6 / 2**0.5)
    assert centroid_distance(features * 100, modality) == pytest.approx(6 / 2**0.5)
    assert centroid_distance(*corners(0)[:2]) == 0


def test_the_centroid_distance_averages_over_pairs():
    # three modalities at 0, 3 and 6, each with values 1 around its centre: distances 3, 3 and 6, spread 1
    features = np.array([[centre + side] for centre in (0, 3, 6) for side in (-1, 1)], float)
    assert centroid_distance(features, np.repeat([0, 1, 2], 2)) == pytest.approx(4)


def test_without_spread_the_distance_is_infinite():
    assert centroid_distance(np.array([[0.0], [0], [1], [1]]), np.array([0, 0, 1, 1])) == np.inf


def test_the_discrepancy_of_two_points_by_hand():
    # all distances that are not 0 are 3, so that s = 3 and MMD^2 = 1 + 1 - 2 exp(-1 / 2)
    features = np.array([[0.0]] * 5 + [[3.0]] * 5)
    expected = (2 - 2 * np.exp(-0.5)) ** 0.5
    assert mean_discrepancy(features, np.repeat([0, 1], 5)) == pytest.approx(expected)
    assert mean_discrepancy(features * 1e-3, np.repeat([0, 1], 5)) == pytest.approx(expected)


def test_equal_distributions_have_no_discrepancy_and_distant_ones_nearly_the_largest():
    random = np.random.default_rng(0)
    modality = np.repeat([0, 1], 400)
    same = random.normal(size=(800, 3))
    assert mean_discrepancy(same, modality) < 0.1
    # distances are 0 to a few, or 1000: the kernel is 1 within and exp(-1 / 2) across, because the median is 1000
    assert mean_discrepancy(same + 1000 * modality[:, None], modality) == pytest.approx(
        (2 - 2 * np.exp(-0.5)) ** 0.5, abs=0.01
    )
    assert mean_discrepancy(np.ones((4, 2)), np.array([0, 0, 1, 1])) == 0


def test_the_probe_tells_separate_modalities_and_guesses_equal_ones():
    assert probe_accuracy(*corners(6)) == 1
    random = np.random.default_rng(0)
    modality = np.tile(np.arange(4), 250)
    assert probe_accuracy(random.normal(size=(1000, 3)), modality, np.repeat(np.arange(10), 100)) < 0.32


def test_the_probe_is_tested_on_unseen_studies():
    # what tells the modalities apart is another thing in each study, and the opposite in the next one
    features = np.array([[1.0], [-1.0], [-1.0], [1.0]] * 10)
    modality = np.array([0, 1] * 20)
    study = np.tile([0, 0, 1, 1], 10)
    assert probe_accuracy(features, modality, study) == 0


def test_all_numbers_together():
    gap = modality_gap(*corners(6))
    assert gap.centroid_distance == pytest.approx(6 / 2**0.5)
    assert 0.5 < gap.mmd < 2**0.5
    assert (gap.probe_accuracy, gap.chance, gap.samples, gap.studies) == (1, 0.5, 32, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((8, 2, 1))}, r"must be \(n, C\).*got \(8, 2, 1\)"),
        ({"features": np.full((32, 2), np.nan)}, "NaN or infinite"),
        ({"modality": np.zeros(32, int)}, "at least two modalities"),
        ({"study": np.zeros(32, int)}, "names 1 studies"),
        ({"study": np.zeros(3, int)}, "one study per vector, got 3 for 32"),
    ],
)
def test_bad_input_is_named(change, message):
    given = dict(zip(("features", "modality", "study"), corners(6), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        modality_gap(**given)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match="needs scikit-learn: pip install scikit-learn"):
        probe_accuracy(*corners(6))
