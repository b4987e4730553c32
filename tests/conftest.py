"""Fixtures that several test files share: tiny studies on disk, and the real cases where there are any."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

# As in BraTS: voxel axes run to the left and to the back (LPS), with an offset.
LPS = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239], [0, 0, 1.0, 0], [0, 0, 0, 1]])

HIDDEN, GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES", "MEDMAP_TEST_GPUS"
# The numbers that tests expect are a CPU's, in float32; tests/bundles/test_gpu.py alone gives its processes the GPUs
# back. The processes of pytest-xdist inherit both variables from the first one.
os.environ.setdefault(GPUS_VARIABLE, os.environ.get(HIDDEN, "all"))
os.environ[HIDDEN] = ""

SUFFIXES = {
    "brats2018": {"flair": "_flair", "t1ce": "_t1ce", "t1": "_t1", "t2": "_t2", "label": "_seg"},
    "brats2023": {"flair": "-t2f", "t1ce": "-t1c", "t1": "-t1n", "t2": "-t2w", "label": "-seg"},
}
ALL = ("flair", "t1ce", "t1", "t2")

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

MakeStudy = Callable[..., Path]


def brain(shape: Sequence[int]) -> np.ndarray:
    """A centred ellipsoid that leaves a margin of about a sixth on every side."""
    axes = [(np.arange(side) - (side - 1) / 2) / (side / 3) for side in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 <= 1


def study_arrays(shape: Sequence[int] = (16, 18, 14), enhancing: int = 4) -> dict[str, np.ndarray]:
    """Modalities (int16, background 0, brain around 100 times the modality's position) and a label map (uint8)."""
    inside = brain(shape)
    random = np.random.RandomState(0)
    arrays = {
        modality: (inside * random.randint(100 * (index + 1), 100 * (index + 1) + 50, shape)).astype(np.int16)
        for index, modality in enumerate(ALL)
    }
    label = np.zeros(shape, np.uint8)
    x, y, z = (side // 2 for side in shape)
    label[x - 2 : x + 2, y - 2 : y + 2, z - 2 : z + 2] = 2
    label[x - 1 : x + 1, y - 1 : y + 1, z - 1 : z + 1] = enhancing
    label[x, y, z] = 1
    return {**arrays, "label": label}


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = LPS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def write_study(
    folder: Path,
    name: str = "case",
    modalities: Sequence[str] = ALL,
    label: bool = True,
    naming: str = "brats2018",
    extension: str = ".nii.gz",
    affine: np.ndarray = LPS,
    shape: Sequence[int] = (16, 18, 14),
) -> Path:
    """Writes one study into ``folder`` and returns the folder."""
    arrays = study_arrays(shape, enhancing=4 if naming == "brats2018" else 3)
    for role in [*modalities, *(["label"] if label else [])]:
        write_nifti(folder / f"{name}{SUFFIXES[naming][role]}{extension}", arrays[role], affine)
    return folder


@pytest.fixture(scope="session")
def make_study() -> MakeStudy:
    """The function that writes a tiny study: ``make_study(folder, name, modalities=..., label=..., naming=...)``."""
    return write_study


@pytest.fixture(scope="session")
def make_nifti() -> Callable[..., Path]:
    """The function that writes one NIfTI file: ``make_nifti(path, array, affine)``."""
    return write_nifti


@pytest.fixture(scope="session")
def tiny_arrays() -> Callable[..., dict[str, np.ndarray]]:
    """The function that gives the voxels of a tiny study: ``tiny_arrays(shape, enhancing)``."""
    return study_arrays


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four labelled studies in folders of their own, the last two of them incomplete. Not to be changed."""
    root = tmp_path_factory.mktemp("tiny_dataset")
    write_study(root / "BraTS2021_00000", "BraTS2021_00000")
    write_study(root / "BraTS2021_00001", "BraTS2021_00001", shape=(18, 16, 15))
    write_study(root / "BraTS2021_00002", "BraTS2021_00002", modalities=("flair", "t2"))
    write_study(root / "BraTS2021_00003", "BraTS2021_00003", modalities=("t1ce", "t1", "t2"))
    return root


@pytest.fixture(scope="session")
def medmap_data() -> Path:
    """The folder of real cases that MEDMAP_DATA names; the test is skipped where it is not set."""
    folder = os.environ.get("MEDMAP_DATA")
    if not folder:
        pytest.skip("MEDMAP_DATA is not set: no real cases")
    return Path(folder)


def import_script(name: str) -> ModuleType:
    """Imports ``scripts/<name>.py``, which may import its neighbours, as when it is run."""
    if str(SCRIPTS) not in sys.path:
        sys.path.append(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """The function that imports ``scripts/<name>.py``."""
    return import_script
