"""Intensities by class and modality, noise and volumes of labelled cases, and tables that compare two sets of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.mixture import GaussianMixture

from medmap_components.modalities import MODALITIES, MODALITY_LABELS

TUMOUR_CODES = {"ED": 2, "NCR": 1, "ET": 4}
CLASSES = ("CSF", "GM", "WM", "ED", "NCR", "ET")
SMALLEST_CLASS_VOXELS = 100
AWAY_FROM_TUMOUR_MM = 10.0
MIXTURE_VOXELS = 20_000


@dataclass(frozen=True)
class Case:
    """One labelled study on its own grid.

    Attributes:
        name: the study's name.
        images: ``(M, X, Y, Z)``, z-scored inside the brain, 0 outside.
        label: ``(X, Y, Z)`` with 0, 1, 2, 4.
        brain: ``(X, Y, Z)``.
        spacing: voxel size, mm.
    """

    name: str
    images: NDArray[np.float32]
    label: NDArray[np.uint8]
    brain: NDArray[np.bool_]
    spacing: float

    def volume_ml(self, *codes: int) -> float:
        """Volume of the given label codes, mL."""
        return float(np.isin(self.label, codes).sum() * self.spacing**3 / 1e3)


@dataclass
class CaseStatistics:
    """What is measured in one case: medians and standard deviations by class and modality, and single numbers."""

    median: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    deviation: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    brain: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    volume_ml: dict[str, float] = field(default_factory=dict)


def find_cases(folder: Path) -> list[Path]:
    """Folders of labelled cases in the naming of BraTS 2018 to 2021 below a folder, sorted by name."""
    cases = sorted({file.parent for file in folder.rglob("*_seg.nii.gz")}, key=lambda case: case.name)
    if not cases:
        raise FileNotFoundError(f"no <case>/<case>_seg.nii.gz below {folder}; give the folder that holds the cases.")
    return cases


def load_case(folder: Path) -> Case:
    """Read one case, with its modalities z-scored inside the brain."""
    name = folder.name
    volumes = [nib.load(folder / f"{name}_{modality}.nii.gz") for modality in MODALITIES]
    raw = np.stack([np.asarray(volume.dataobj, dtype=np.float32) for volume in volumes])
    brain = (raw > 0).all(axis=0)
    images = np.zeros_like(raw)
    for channel, volume in enumerate(raw):
        inside = volume[brain].astype(np.float64)
        images[channel][brain] = (inside - inside.mean()) / inside.std()
    label = np.rint(np.asarray(nib.load(folder / f"{name}_seg.nii.gz").dataobj)).astype(np.uint8)
    return Case(name, images, label, brain, float(volumes[0].header.get_zooms()[0]))


def measure(case: Case) -> CaseStatistics:
    """All statistics of one case."""
    statistics = CaseStatistics()
    for name, voxels in {**_healthy_tissues(case), **_tumour_classes(case)}.items():
        if voxels.shape[1] >= SMALLEST_CLASS_VOXELS:
            statistics.median[name] = np.median(voxels, axis=1)
            statistics.deviation[name] = voxels.std(axis=1)
    inside = case.images[:, case.brain]
    statistics.brain = {"p1": np.percentile(inside, 1, axis=1), "p99": np.percentile(inside, 99, axis=1)}
    statistics.brain["noise"] = _fine_noise(case)
    statistics.volume_ml = {
        "brain": float(case.brain.sum() * case.spacing**3 / 1e3),
        "WT": case.volume_ml(1, 2, 4),
        **{name: case.volume_ml(code) for name, code in TUMOUR_CODES.items()},
    }
    return statistics


def _tumour_classes(case: Case) -> dict[str, NDArray[np.float32]]:
    return {name: case.images[:, (case.label == code) & case.brain] for name, code in TUMOUR_CODES.items()}


def _healthy_tissues(case: Case) -> dict[str, NDArray[np.float32]]:
    """CSF, grey and white matter away from the tumour, by a Gaussian mixture of four components over all modalities.

    CSF is the component whose T2 exceeds its T1 most. Of the others, the two largest are white matter, which is the
    brighter on T1, and grey matter; what is left are vessels and the surface's partial volume.
    """
    near = ndimage.binary_dilation(case.label > 0, iterations=round(AWAY_FROM_TUMOUR_MM / case.spacing))
    voxels = case.images[:, case.brain & ~near]
    clipped = np.clip(voxels.T, -4, 4).astype(np.float64)
    mixture = GaussianMixture(4, n_init=3, reg_covar=1e-3, random_state=0)
    mixture.fit(clipped[:: max(1, len(clipped) // MIXTURE_VOXELS)])
    t1, t2 = (mixture.means_[:, MODALITIES.index(name)] for name in ("t1", "t2"))
    csf = int(np.argmax(t2 - t1))
    largest = sorted((i for i in range(4) if i != csf), key=lambda i: -mixture.weights_[i])[:2]
    wm, gm = sorted(largest, key=lambda i: -t1[i])
    component = mixture.predict(clipped)
    return {name: voxels[:, component == i] for name, i in (("CSF", csf), ("GM", gm), ("WM", wm))}


def _fine_noise(case: Case) -> NDArray[np.float64]:
    """Robust standard deviation of a voxel's difference to the mean of its 3^3 neighbourhood, deep in the brain."""
    deep = ndimage.binary_erosion(case.brain, iterations=round(8 / case.spacing))
    differences = [(image - ndimage.uniform_filter(image, 3))[deep] for image in case.images]
    return np.array([1.4826 * np.median(np.abs(values - np.median(values))) for values in differences])


def _over_cases(cases: list[CaseStatistics], kind: str, name: str) -> NDArray[np.float64]:
    """``(cases, M)`` of one statistic, for the cases that have it."""
    return np.stack([getattr(case, kind)[name] for case in cases if name in getattr(case, kind)])


def median_difference(first: list[CaseStatistics], second: list[CaseStatistics]) -> float:
    """Mean over classes and modalities of |difference of the medians over cases|, in units of z."""
    present = [name for name in CLASSES if all(any(name in case.median for case in half) for half in (first, second))]
    medians = [[np.median(_over_cases(cases, "median", name), axis=0) for name in present] for cases in (first, second)]
    return float(np.abs(np.array(medians[0]) - np.array(medians[1])).mean())


def split_half_difference(cases: list[CaseStatistics], repeats: int = 200) -> float:
    """The same number between random halves of one set: what chance alone gives with so few cases."""
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(repeats):
        order = rng.permutation(len(cases))
        halves = [[cases[i] for i in half] for half in np.array_split(order, 2)]
        differences.append(median_difference(*halves))
    return float(np.mean(differences))


def table_lines(sets: dict[str, list[CaseStatistics]]) -> list[str]:
    """Markdown: statistics by class and modality of each set."""
    lines = [
        "| class | set | " + " | ".join(MODALITY_LABELS[name] for name in MODALITIES) + " |",
        "|---|---|---|---|---|---|",
    ]
    for name in CLASSES:
        for set_name, cases in sets.items():
            deviations = np.median(_over_cases(cases, "deviation", name), axis=0)
            cells = [
                f"{_spread(column)}; sd {deviation:.2f}"
                for column, deviation in zip(_over_cases(cases, "median", name).T, deviations, strict=True)
            ]
            lines.append(f"| {name} | {set_name} | " + " | ".join(cells) + " |")
    for name in ("p1", "p99", "noise"):
        for set_name, cases in sets.items():
            cells = [_spread(column) for column in _over_cases(cases, "brain", name).T]
            lines.append(f"| {name} | {set_name} | " + " | ".join(cells) + " |")
    return lines


def volume_lines(sets: dict[str, list[CaseStatistics]]) -> list[str]:
    """Markdown: volumes of each set."""
    names = ("brain", "WT", "ED", "NCR", "ET")
    lines = ["| set | " + " | ".join(f"{name} (mL)" for name in names) + " | ET < 1 mL |", "|---" * 7 + "|"]
    for set_name, cases in sets.items():
        columns = {name: np.array([case.volume_ml[name] for case in cases]) for name in names}
        cells = [
            f"{np.median(column):.0f} ({np.percentile(column, 25):.0f}…{np.percentile(column, 75):.0f})"
            for column in columns.values()
        ]
        lines.append(f"| {set_name} | " + " | ".join(cells) + f" | {(columns['ET'] < 1).sum()} of {len(cases)} |")
    return lines


def _spread(values: NDArray[np.float64]) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.2f} ({low:.2f}…{high:.2f})"


def as_json(sets: dict[str, list[CaseStatistics]]) -> dict[str, Any]:
    """The medians over cases of each set, for further use."""
    return {
        set_name: {
            name: dict(zip(MODALITIES, np.median(_over_cases(cases, "median", name), axis=0).tolist(), strict=True))
            for name in CLASSES
        }
        for set_name, cases in sets.items()
    }
