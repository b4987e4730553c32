"""The weights that the repository ships are a demonstration that runs as it is."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from medmap_components import segment
from medmap_components.data.phantom import write_phantom_case
from tests.bundles.conftest import FIRST

BUNDLE = FIRST.parent / "unet_pmix"
WEIGHTS = BUNDLE / "models" / "model.pt"


def test_they_are_small_and_said_to_be_a_demonstration():
    assert WEIGHTS.stat().st_size < 10e6
    assert "demonstration, not for patients" in (BUNDLE / "docs" / "weights.md").read_text()


def test_they_find_the_tumour_of_a_new_phantom_and_lose_enhancement_without_t1ce(tmp_path):
    case = write_phantom_case(tmp_path, "New", seed=77, shape=(64, 64, 64), spacing=3.0, kind="ring")
    images = {name: case / f"New_{name}.nii.gz" for name in ("flair", "t1ce", "t1", "t2")}
    truth = np.asarray(nib.load(case / "New_seg.nii.gz").dataobj)

    def dice(modalities, codes, classes):
        labels = segment({name: images[name] for name in modalities}, bundle=BUNDLE, checkpoint=WEIGHTS).labels
        found, there = np.isin(labels, classes), np.isin(truth, codes)
        return 2 * (found & there).sum() / (found.sum() + there.sum())

    assert dice(images, (1, 2, 4), (1, 2, 3)) > 0.6
    assert dice(images, (4,), (3,)) > 0.2
    assert dice(("flair", "t1", "t2"), (4,), (3,)) < dice(images, (4,), (3,))
