"""Does a missing modality hurt in the phantom as it does in real cases? A voxel classifier, trained on each subset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier
from tqdm import tqdm

from medmap_components.modalities import MODALITIES, SUBSETS
from phantom_comparison.statistics import Case

REGION_CODES = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
SCALES_VOXELS = (0.0, 1.5, 4.0)
ASYMMETRY_SCALE_VOXELS = 1.5
SPACING_MM = 2.0
FOLDS = 3
VOXELS_PER_CLASS = 1000
SMALLEST_REGION_VOXELS = 10
SCORED_SHARE = 4
"""Dice is estimated on every fourth voxel, which leaves thousands per case."""


@dataclass(frozen=True)
class VoxelTable:
    """One case as a table: its brain voxels at 2 mm.

    Attributes:
        features: ``(M, V, F)``: the image at three scales and its difference to the mirrored image.
        label: ``(V,)``.
    """

    features: NDArray[np.float32]
    label: NDArray[np.uint8]


def tabulate(case: Case) -> VoxelTable:
    """Bring a case to 2 mm and compute the features of its brain voxels."""
    factor = max(1, round(SPACING_MM / case.spacing))
    images = np.stack([_block_mean(image, factor) for image in case.images])
    brain = _block_mean(case.brain.astype(np.float32), factor) > 0.5
    label = case.label[factor // 2 :: factor, factor // 2 :: factor, factor // 2 :: factor]
    label = label[tuple(slice(0, size) for size in brain.shape)]
    features = np.stack([np.stack([scale[brain] for scale in _features(image, brain)], axis=-1) for image in images])
    return VoxelTable(features.astype(np.float32), label[brain])


def _block_mean(volume: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    x, y, z = (size // factor for size in volume.shape)
    blocks = volume[: x * factor, : y * factor, : z * factor].reshape(x, factor, y, factor, z, factor)
    mean: NDArray[np.float32] = blocks.mean(axis=(1, 3, 5))
    return mean


def _features(image: NDArray[np.float32], brain: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
    scales = [ndimage.gaussian_filter(image, sigma) if sigma else image for sigma in SCALES_VOXELS]
    smooth = ndimage.gaussian_filter(image, ASYMMETRY_SCALE_VOXELS)
    columns = np.flatnonzero(brain.any(axis=(1, 2)))
    # mirror about the middle of the brain's extent: index i goes to first + last - i
    mirrored_index = np.clip(columns[0] + columns[-1] - np.arange(image.shape[0]), 0, image.shape[0] - 1)
    return [*scales, smooth - smooth[mirrored_index]]


def dice_by_subset(tables: Sequence[VoxelTable], description: str) -> dict[str, dict[str, float]]:
    """Mean Dice over cases, trained and tested within one set of cases by cross-validation.

    Args:
        tables: the cases.
        description: shown beside the progress bar.

    Returns:
        Dice by subset name and region; cases without the region are left out of its mean.
    """
    results = {}
    for subset in tqdm(SUBSETS[::-1], desc=description, unit="subset"):
        cases: list[dict[str, float]] = []
        for fold in range(FOLDS):
            trained = train([table for i, table in enumerate(tables) if i % FOLDS != fold], subset.mask)
            cases += [score(trained, table, subset.mask) for i, table in enumerate(tables) if i % FOLDS == fold]
        results[subset.name] = _mean_over_cases(cases)
    return results


def transfer(train_tables: Sequence[VoxelTable], test_tables: Sequence[VoxelTable]) -> dict[str, float]:
    """Mean Dice on one set of cases of a classifier trained on another, with all modalities."""
    everything = (True,) * len(MODALITIES)
    trained = train(train_tables, everything)
    return _mean_over_cases([score(trained, table, everything) for table in test_tables])


def mean_of_draws(draws: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean over several results of ``dice_by_subset``."""
    return {
        subset: {region: float(np.mean([draw[subset][region] for draw in draws])) for region in REGION_CODES}
        for subset in draws[0]
    }


def difference(
    first: dict[str, dict[str, float]], second: dict[str, dict[str, float]], subsets: Sequence[str]
) -> float:
    """Mean absolute difference of two results of ``dice_by_subset`` over some subsets and all regions."""
    return float(np.mean([abs(first[s][region] - second[s][region]) for s in subsets for region in REGION_CODES]))


def table_lines(real: dict[str, dict[str, float]], phantom: dict[str, dict[str, float]]) -> list[str]:
    """Dice by subset in both sets of cases as a Markdown table."""
    lines = ["| modalities | " + " | ".join(f"{region}: real \\| phantom" for region in REGION_CODES) + " |"]
    lines.append("|---|---|---|---|")
    for subset in real:
        cells = [f"{real[subset][region]:.2f} \\| {phantom[subset][region]:.2f}" for region in REGION_CODES]
        lines.append(f"| {subset} | " + " | ".join(cells) + " |")
    return lines


def train(tables: Sequence[VoxelTable], mask: Sequence[bool]) -> HistGradientBoostingClassifier:
    """Fit the classifier to voxels drawn from the cases, as many per class and case as there are, up to a limit.

    The drawn voxels are weighted back to the classes' true frequencies, tempered by a square root.
    """
    rng = np.random.default_rng(0)
    features, labels, weights = [], [], []
    for table in tables:
        for code in (0, 1, 2, 4):
            voxels = np.flatnonzero(table.label == code)
            drawn = rng.permutation(voxels)[: VOXELS_PER_CLASS * (3 if code == 0 else 1)]
            features.append(_columns(table, mask)[drawn])
            labels.append(table.label[drawn])
            weights.append(np.full(len(drawn), np.sqrt(len(voxels) / max(1, len(drawn)))))
    classifier = HistGradientBoostingClassifier(max_iter=50, learning_rate=0.15, random_state=0)
    return classifier.fit(np.concatenate(features), np.concatenate(labels), np.concatenate(weights))


def score(trained: HistGradientBoostingClassifier, table: VoxelTable, mask: Sequence[bool]) -> dict[str, float]:
    """Dice of the regions that one case has."""
    predicted = trained.predict(_columns(table, mask)[::SCORED_SHARE])
    label = table.label[::SCORED_SHARE]
    dice = {}
    for region, codes in REGION_CODES.items():
        truth, guess = np.isin(label, codes), np.isin(predicted, codes)
        if truth.sum() >= SMALLEST_REGION_VOXELS:
            dice[region] = float(2 * (truth & guess).sum() / (truth.sum() + guess.sum()))
    return dice


def _columns(table: VoxelTable, mask: Sequence[bool]) -> NDArray[np.float32]:
    return np.concatenate(list(table.features[np.array(mask)]), axis=-1)


def _mean_over_cases(cases: Sequence[dict[str, float]]) -> dict[str, float]:
    return {region: float(np.mean([case[region] for case in cases if region in case])) for region in REGION_CODES}
