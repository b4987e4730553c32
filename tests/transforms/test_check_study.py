from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from medmap_components.data import find_studies
from medmap_components.transforms import CheckStudy, CheckStudyd, LoadStudyd, warnings_of, with_mask


def image(shape=(30, 30, 30), spacing=(5.0, 5.0, 5.0), filled=0.3) -> MetaTensor:
    """A share of the voxels are not zero: of 3.375 litres by default."""
    voxels = torch.zeros(4, *shape)
    voxels.flatten(1)[:, : round(filled * voxels[0].numel())] = 1
    return MetaTensor(voxels, affine=torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)))


def test_a_brain_gives_no_warning():
    assert warnings_of(CheckStudy()(image(spacing=(3.0, 3.0, 3.0), shape=(50, 50, 50)))) == []


@pytest.mark.parametrize(
    ("shape", "spacing", "message"),
    [
        ((64, 64, 7), (1.0, 1.0, 5.0), r"'x'.*\(64, 64, 7\): at least 8 voxels"),
        ((64, 64, 1), (1.0, 1.0, 5.0), r"single slices"),
        ((64, 64, 64), (1.0, 1.0, 10.5), r"voxels of 1 x 1 x 10.5 mm; 0.2 to 10 mm"),
        ((64, 64, 64), (0.001, 0.001, 0.001), r"0.001.*header"),
    ],
)
def test_what_cannot_be_segmented_is_refused(shape, spacing, message: str):
    with pytest.raises(ValueError, match=message):
        CheckStudyd("image")({"image": image(shape, spacing), "study": "x"})


def test_a_part_of_a_brain_and_thick_slices_are_noted():
    (extent, thick) = warnings_of(CheckStudy()(image((40, 40, 10), (5.0, 5.0, 6.0))))
    assert "covers 200 x 200 x 60 mm only" in extent
    assert "6 mm thick" in thick


def test_more_than_a_brain_is_noted_by_modality_and_cause():
    study = image(spacing=(3.0, 3.0, 3.0), shape=(60, 60, 60), filled=0.3)  # 5.8 litres, 1.75 not zero
    assert warnings_of(CheckStudy()(study)) == []
    study[1].flatten()[: round(0.5 * study[1].numel())] = 1
    (note,) = warnings_of(CheckStudy()(study))
    assert note.startswith("T1ce look not skull-stripped: 2.9 litres are not zero")
    assert "skin, skull or neck" in note
    study[:] = 1
    assert "background is not zero" in warnings_of(CheckStudy()(study))[0]
    # what is not used is not judged
    assert warnings_of(CheckStudy()(with_mask(image(filled=1.0), torch.tensor([True] * 4)))) != []
    hidden = image(spacing=(3.0, 3.0, 3.0), shape=(60, 60, 60))
    hidden[3] = 1
    assert warnings_of(CheckStudy()(with_mask(hidden, torch.tensor([True, True, True, False])))) == []


def test_real_skull_stripped_cases_give_no_warning(medmap_data):
    for item in find_studies(medmap_data, labels=False):
        # one modality is enough: in these cases all have the same brain mask
        item["image"] = {"flair": item["image"]["flair"]}
        loaded = LoadStudyd("image", modalities=["flair"])(item)["image"]
        assert warnings_of(CheckStudy()(loaded)) == [], item["study"]


@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_a_real_brain_in_a_head_is_noted(medmap_data, noise: float):
    item = find_studies(medmap_data, labels=False)[0]
    loaded = LoadStudyd("image", modalities=["flair"])(item)["image"]
    brain = loaded[0].numpy() != 0
    # skull and skin: a shell of 15 mm around the brain, and air with or without noise in it
    head = ndimage.binary_dilation(brain[::3, ::3, ::3], iterations=5)
    shell = np.kron(head, np.ones((3, 3, 3)))[: brain.shape[0], : brain.shape[1], : brain.shape[2]] > 0
    air = np.random.RandomState(0).rand(*brain.shape) * noise
    loaded[0] = torch.from_numpy(np.where(brain, loaded[0].numpy(), np.where(shell, 300.0, air)))
    (note,) = warnings_of(CheckStudy()(loaded))
    assert note.startswith("FLAIR look not skull-stripped")
    assert ("background is not zero" if noise else "skin, skull or neck") in note
