"""The modality gap: how far apart the latents of the modalities lie, as numbers."""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["ModalityGap", "centroid_distance", "mean_discrepancy", "modality_gap", "probe_accuracy"]

FOLDS = 5
"""Folds of the probe's cross-validation, fewer where there are fewer studies."""


class ModalityGap(NamedTuple):
    """How well the modalities can be told apart by their latents.

    Attributes:
        centroid_distance: see :func:`centroid_distance`.
        mmd: see :func:`mean_discrepancy`.
        probe_accuracy: see :func:`probe_accuracy`.
        chance: accuracy of always guessing the most frequent modality.
        samples: number of latent vectors.
        studies: number of studies that they come from.
    """

    centroid_distance: float
    mmd: float
    probe_accuracy: float
    chance: float
    samples: int
    studies: int


def modality_gap(
    features: NDArray[np.floating], modality: NDArray[np.integer], study: NDArray[np.integer]
) -> ModalityGap:
    """All numbers of the modality gap.

    Args:
        features: latent vectors ``(n, C)``.
        modality: which modality each is of, ``(n,)``.
        study: which study each is of, ``(n,)``; the probe is tested on studies that it was not fitted to.

    Raises:
        ImportError: when scikit-learn is not installed.
        ValueError: for shapes that do not fit, values that are not finite, fewer than two modalities or studies, or a
            modality with a single vector.
    """
    features = _checked(features, modality)
    if len(study) != len(features):
        raise ValueError(f"study must name one study per vector, got {len(study)} for {len(features)}.")
    counts = np.unique(modality, return_counts=True)[1]
    return ModalityGap(
        centroid_distance(features, modality),
        mean_discrepancy(features, modality),
        probe_accuracy(features, modality, study),
        float(counts.max() / counts.sum()),
        len(features),
        len(np.unique(study)),
    )


def centroid_distance(features: NDArray[np.floating], modality: NDArray[np.integer]) -> float:
    """Mean distance between the centroids of two modalities, in units of the spread within modalities.

    The spread is the root of the variance around a modality's centroid, summed over channels and averaged over the
    modalities. 0 where the centroids coincide; infinite where only the spread is 0.

    Args:
        features: ``(n, C)``.
        modality: ``(n,)``.
    """
    features = _checked(features, modality)
    groups = [features[modality == name] for name in np.unique(modality)]
    centroids = [group.mean(axis=0) for group in groups]
    distance = np.mean([np.linalg.norm(first - second) for first, second in combinations(centroids, 2)])
    spread = np.sqrt(np.mean([group.var(axis=0).sum() for group in groups]))
    if distance == 0:
        return 0.0
    return float(distance / spread) if spread > 0 else float("inf")


def mean_discrepancy(features: NDArray[np.floating], modality: NDArray[np.integer]) -> float:
    """Maximum mean discrepancy (MMD), averaged over the pairs of modalities.

    With the Gaussian kernel ``exp(-|x - y|^2 / (2 s^2))``, s being the median distance between two different vectors
    of the whole sample; the root of the unbiased estimate of MMD^2 (Gretton et al. 2012), 0 where that is negative. At
    most ``sqrt(2)``.

    Args:
        features: ``(n, C)``, at least two of each modality.
        modality: ``(n,)``.
    """
    features = _checked(features, modality)
    vectors = torch.from_numpy(features)
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distances[distances > 0]
    if apart.numel() == 0:
        return 0.0
    kernel = torch.exp(-(distances**2) / (2 * apart.median() ** 2))
    found = []
    for first, second in combinations(np.unique(modality), 2):
        rows, columns = (torch.from_numpy(np.flatnonzero(modality == name)) for name in (first, second))
        squared = _mean_off_diagonal(kernel[rows][:, rows]) + _mean_off_diagonal(kernel[columns][:, columns])
        found.append(max(0.0, squared - 2 * float(kernel[rows][:, columns].mean())) ** 0.5)
    return float(np.mean(found))


def probe_accuracy(features: NDArray[np.floating], modality: NDArray[np.integer], study: NDArray[np.integer]) -> float:
    """How often a linear probe guesses the modality of a latent vector of a study that it has not seen.

    A logistic regression on standardised features, cross-validated over groups of studies (five folds, fewer where
    there are fewer studies).

    Args:
        features: ``(n, C)``.
        modality: ``(n,)``.
        study: ``(n,)``, at least two different ones.

    Raises:
        ImportError: when scikit-learn is not installed.
        ValueError: for a single study.
    """
    features = _checked(features, modality)
    studies = len(np.unique(study))
    if studies < 2:
        raise ValueError(f"study names {studies} studies; the probe needs at least two, to be tested on unseen ones.")
    learn = _scikit_learn()
    probe = learn.make_pipeline(learn.StandardScaler(), learn.LogisticRegression(max_iter=1000))
    folds = learn.GroupKFold(n_splits=min(FOLDS, studies))
    guesses = learn.cross_val_predict(probe, features, modality, groups=study, cv=folds)
    return float(np.mean(guesses == modality))


class _Learn(NamedTuple):
    make_pipeline: Any
    StandardScaler: Any
    LogisticRegression: Any
    GroupKFold: Any
    cross_val_predict: Any


def _scikit_learn() -> _Learn:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GroupKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError("the linear probe needs scikit-learn: pip install scikit-learn") from error
    return _Learn(make_pipeline, StandardScaler, LogisticRegression, GroupKFold, cross_val_predict)


def _mean_off_diagonal(matrix: torch.Tensor) -> float:
    count = len(matrix)
    return float((matrix.sum() - matrix.diagonal().sum()) / (count * (count - 1)))


def _checked(features: NDArray[np.floating], modality: NDArray[np.integer]) -> NDArray[np.float64]:
    if features.ndim != 2 or len(features) != len(modality):
        raise ValueError(
            f"features must be (n, C) with one modality each, got {features.shape} and {len(modality)} modalities."
        )
    if not np.isfinite(features).all():
        raise ValueError("features holds values that are NaN or infinite.")
    names, counts = np.unique(modality, return_counts=True)
    if len(names) < 2 or counts.min() < 2:
        raise ValueError(
            f"a gap needs at least two modalities with two vectors each, got {dict(zip(names, counts, strict=True))}."
        )
    return np.asarray(features, dtype=np.float64)
