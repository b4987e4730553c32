"""HD95 by hand, against MONAI's own function, and against independent packages on real cases."""

from __future__ import annotations

from itertools import islice

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance

from medmap_components.metrics import hausdorff95, region_dice
from medmap_components.metrics.hausdorff import bounding_box

ANISOTROPIC = (0.9, 1.3, 5.0)


def block(start: int, stop: int, shape: tuple[int, int, int] = (12, 9, 7)) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[start:stop, 2:5, 2:4] = True
    return mask


def test_two_voxels_are_apart_by_their_distance_in_mm():
    first, second = torch.zeros(2, 5, 5, 5, dtype=torch.bool)
    first[0, 0, 0] = second[3, 4, 1] = True
    assert hausdorff95(first, second, (1, 1, 1), 99) == pytest.approx(26**0.5, abs=1e-4)
    assert hausdorff95(first, second, (2, 0.5, 3), 99) == pytest.approx((36 + 4 + 9) ** 0.5, abs=1e-4)


def test_it_is_the_larger_of_the_two_directed_95th_percentiles():
    # 21 voxels in a row against the first of them: from the row 0, 1, ..., 20 mm, from the voxel 0
    row = torch.zeros(21, 1, 1, dtype=torch.bool)
    row[:] = True
    voxel = torch.zeros_like(row)
    voxel[0] = True
    assert hausdorff95(row, voxel, (1, 1, 1), 99) == pytest.approx(19, abs=1e-4)
    assert hausdorff95(voxel, row, (1, 1, 1), 99) == pytest.approx(19, abs=1e-4)


def test_only_surface_voxels_count():
    solid, hollow = torch.zeros(2, 11, 11, 11, dtype=torch.bool)
    solid[1:10, 1:10, 1:10] = True
    hollow |= solid
    hollow[4:7, 4:7, 4:7] = False
    # of the hollow cube's 9^3 - 7^3 + 6 x 9 = 440 surface voxels the inner 54 are 2 mm away from the other's surface
    assert hausdorff95(solid, hollow, (1, 1, 1), 99) == pytest.approx(2)
    assert hausdorff95(solid, solid, (1, 1, 1), 99) == 0


@pytest.mark.parametrize("surface", ["voxels", "surfels"])
def test_empty_masks_follow_the_conventions(surface: str):
    empty, filled = torch.zeros(4, 4, 4, dtype=torch.bool), torch.ones(4, 4, 4, dtype=torch.bool)
    assert hausdorff95(empty, empty, (1, 1, 1), 373.13, surface) == 0
    assert hausdorff95(empty, filled, (1, 1, 1), 373.13, surface) == 373.13
    assert hausdorff95(filled, empty, (1, 1, 1), 373.13, surface) == 373.13


@pytest.mark.parametrize("surface", ["voxels", "surfels"])
def test_a_shift_is_measured_and_the_volume_around_the_masks_changes_nothing(surface: str):
    near, far = block(1, 5), block(3, 7)
    distance = hausdorff95(near, far, (1.5, 1, 1), 99, surface)
    assert distance == pytest.approx(3, abs=1e-4)
    padded = [torch.nn.functional.pad(mask, (5, 1, 2, 3, 4, 6)) for mask in (near, far)]
    assert hausdorff95(*padded, (1.5, 1, 1), 99, surface) == pytest.approx(distance, abs=1e-6)


def test_the_bounding_box_holds_every_voxel():
    mask = block(3, 7)
    assert bounding_box(mask) == (slice(3, 7), slice(2, 5), slice(2, 4))
    assert bounding_box(torch.zeros(2, 3, dtype=torch.bool)) == (slice(0, 0), slice(0, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": block(1, 2, (4, 9, 7))}, r"of one size, got \(12, 9, 7\) and \(4, 9, 7\)"),
        ({"spacing": (1, 1)}, r"three voxel sizes, got \[1, 1\]"),
        ({"surface": "mesh"}, "surface must be one of .*'mesh'"),
    ],
)
def test_bad_input_is_named(arguments: dict, message: str):
    given = {"prediction": block(1, 2), "target": block(1, 2), "spacing": (1, 1, 1), "one_empty": 99, **arguments}
    with pytest.raises(ValueError, match=message):
        hausdorff95(**given)


def real_pairs(folder, whole=False):
    """Masks of real labels against what happens to predictions: shifts, holes and distant false positives.

    Cut to the surroundings of the tumour, because the packages to compare with are slow, or ``whole``.
    """
    random = np.random.default_rng(0)
    for path in sorted(folder.rglob("*_seg.nii.gz"))[:5]:
        label = np.asarray(nib.load(path).dataobj).astype(np.uint8)
        if not whole:
            box = bounding_box(torch.from_numpy(label > 0))
            label = np.pad(label[box], 6)
        for classes in ((1, 2, 4), (4,)):
            target = np.isin(label, classes)
            if target.any():
                noisy = target & (random.random(target.shape) > 0.3)
                noisy[tuple(random.integers(0, side) for side in target.shape)] = True
                for prediction in (np.roll(target, (2, -3, 1), (0, 1, 2)), noisy):
                    yield torch.from_numpy(prediction), torch.from_numpy(target)


def test_real_cases_agree_with_monai_on_the_whole_volume(medmap_data):
    pairs = list(islice(real_pairs(medmap_data, whole=True), 4))
    assert len(pairs) == 4
    for prediction, target in pairs:
        expected = compute_hausdorff_distance(
            prediction[None, None], target[None, None], True, percentile=95, spacing=list(ANISOTROPIC)
        )
        assert hausdorff95(prediction, target, ANISOTROPIC, 999) == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("spacing", [(1, 1, 1), ANISOTROPIC])
def test_real_cases_agree_with_surface_distance(medmap_data, spacing):
    package = pytest.importorskip("surface_distance", reason="the package surface-distance is not installed")
    pairs = list(islice(real_pairs(medmap_data), 6))
    assert len(pairs) == 6
    for prediction, target in pairs:
        distances = package.compute_surface_distances(target.numpy(), prediction.numpy(), spacing)
        expected = package.compute_robust_hausdorff(distances, 95)
        assert hausdorff95(prediction, target, spacing, 999, "surfels") == pytest.approx(expected, abs=1e-3)
        dice = package.compute_dice_coefficient(target.numpy(), prediction.numpy())
        ours = compute_dice(prediction[None, None].float(), target[None, None].float())
        assert float(ours) == pytest.approx(dice, abs=1e-6)
        assert region_dice(3 * prediction[None].long(), 3 * target[None].long())["ET"] == pytest.approx(dice, abs=1e-6)


@pytest.mark.parametrize("spacing", [(1, 1, 1), ANISOTROPIC])
def test_real_cases_agree_with_panoptica(medmap_data, spacing):
    # its HD95 pools both directions; from its directed distances follows the definition that is used here
    assd = pytest.importorskip("panoptica.metrics.assd", reason="the package panoptica is not installed")
    surface_distances = vars(assd)["__surface_distances"]
    for prediction, target in islice(real_pairs(medmap_data), 6):
        pair = prediction.numpy(), target.numpy()
        directed = [surface_distances(*order, spacing, 1) for order in (pair, pair[::-1])]
        expected = max(np.percentile(distances, 95) for distances in directed)
        assert hausdorff95(prediction, target, spacing, 999) == pytest.approx(expected, abs=1e-3)
