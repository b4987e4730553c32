"""Scores of one study: regions, conventions, the 500-voxel rule, and what a crop cut away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Orientationd

from medmap_components.metrics import Conventions, column, score_study
from medmap_components.metrics.full_grid import full_grid
from medmap_components.transforms import LoadBratsLabeld, LoadStudyd, nonzero

ONE_MM = (1.0, 1.0, 1.0)


def label_map(enhancing: int = 0, core: int = 0, oedema: int = 0) -> torch.Tensor:
    """A map of 10 x 10 x 10 voxels with so many of each class, one after the other."""
    values = torch.zeros(1000, dtype=torch.long)
    values[:enhancing] = 3
    values[enhancing : enhancing + core] = 1
    values[enhancing + core : enhancing + core + oedema] = 2
    return values.view(1, 10, 10, 10)


def test_every_metric_and_region_has_a_column():
    scores = score_study(label_map(10, 5, 5), label_map(10, 5, 5), ONE_MM, 17.3)
    assert list(scores) == [column(m, r) for m in ("Dice", "HD95") for r in ("WT", "TC", "ET", "ET_pp")]
    assert [scores[f"Dice_{region}"] for region in ("WT", "TC", "ET")] == [1, 1, 1]


def test_dice_and_distances_by_hand():
    scores = score_study(label_map(20), label_map(10), ONE_MM, 17.3, Conventions(small_et=0))
    assert scores["Dice_ET"] == pytest.approx(2 * 10 / 30)
    # two rows of ten against the first: half of the voxels are 1 mm away
    assert scores["HD95_ET"] == pytest.approx(1)
    assert score_study(label_map(20), label_map(10), (1, 4, 1), 17.3)["HD95_WT"] == pytest.approx(4)


def test_scores_per_class_are_taken_as_their_label_map():
    labels = label_map(7, 9, 11)
    logits = torch.nn.functional.one_hot(labels[0], 4).movedim(-1, 0).float()
    assert score_study(logits, label_map(9), ONE_MM, 17.3) == score_study(labels, label_map(9), ONE_MM, 17.3)


def test_empty_regions_follow_the_conventions():
    nothing = score_study(label_map(), label_map(), ONE_MM, 17.3)
    assert set(nothing.values()) == {1.0, 0.0}
    assert all(value == (1 if name.startswith("Dice") else 0) for name, value in nothing.items())
    one = score_study(label_map(oedema=5), label_map(600), ONE_MM, 17.3)
    assert (one["Dice_ET"], one["HD95_ET"], one["Dice_TC"], one["HD95_TC"]) == (0, 17.3, 0, 17.3)


@pytest.mark.parametrize(("voxels", "removed"), [(499, True), (500, False)])
def test_a_small_enhancing_tumour_is_emptied_for_et_pp_only(voxels: int, removed: bool):
    false_alarm = score_study(label_map(voxels), label_map(core=voxels), ONE_MM, 17.3)
    assert (false_alarm["Dice_ET"], false_alarm["HD95_ET"]) == (0, 17.3)
    assert (false_alarm["Dice_ET_pp"], false_alarm["HD95_ET_pp"]) == ((1, 0) if removed else (0, 17.3))
    assert false_alarm["Dice_TC"] == 1  # not relabelled, not removed from other regions
    hit = score_study(label_map(voxels), label_map(voxels), ONE_MM, 17.3)
    assert hit["Dice_ET"] == 1
    assert (hit["Dice_ET_pp"], hit["HD95_ET_pp"]) == ((0, 17.3) if removed else (1, 0))


def test_the_size_that_is_small_can_be_chosen():
    pair = label_map(10), label_map(core=10)
    assert score_study(*pair, ONE_MM, 17.3, Conventions(small_et=10))["Dice_ET_pp"] == 0
    assert score_study(*pair, ONE_MM, 17.3, Conventions(small_et=11))["Dice_ET_pp"] == 1
    with pytest.raises(ValueError, match=r"small_et .*-1"):
        Conventions.checked(-1, "voxels")
    with pytest.raises(ValueError, match=r"surface .*'mesh'"):
        Conventions.checked(500, "mesh")


def test_what_a_crop_cut_away_counts_as_missed():
    whole_prediction, whole_target = label_map(20), label_map(30)
    outside = torch.zeros(1, 10, 10, 10, dtype=torch.long)
    outside[0, 9, 9, :4] = 3
    whole = score_study(whole_prediction, whole_target + outside, ONE_MM, 17.3)
    cut = score_study(whole_prediction[:, :9], whole_target[:, :9], ONE_MM, 17.3, unseen=torch.tensor([0, 0, 0, 4]))
    assert cut["Dice_ET"] == pytest.approx(whole["Dice_ET"])
    assert cut["Dice_WT"] == pytest.approx(2 * 20 / (20 + 34))
    nothing_left = score_study(label_map(), label_map(), ONE_MM, 17.3, unseen=torch.tensor([0, 0, 7, 0]))
    assert (nothing_left["Dice_WT"], nothing_left["HD95_WT"]) == (0, 17.3)
    assert (nothing_left["Dice_TC"], nothing_left["HD95_ET_pp"]) == (1, 0)


def test_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"of one size, got \(1, 10, 10, 10\) and \(1, 9, 10, 10\)"):
        score_study(label_map(), label_map()[:, :9], ONE_MM, 1)


def test_the_full_grid_is_known_after_crop_and_turn(tmp_path, make_study):
    affine = np.array([[0.0, 0, 3, 0], [1.0, 0, 0, 5], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    make_study(tmp_path, "case", affine=affine, shape=(16, 18, 14))
    item = {"image": str(tmp_path), "label": str(tmp_path / "case_seg.nii.gz"), "label_scheme": "brats2018"}
    keys = ["image", "label"]
    cropped = Compose(
        [
            LoadStudyd("image"),
            LoadBratsLabeld("label"),
            Orientationd(keys, axcodes="LPS", labels=None),
            CropForegroundd(keys, source_key="image", select_fn=nonzero, allow_smaller=True),
        ]
    )(item)["label"]
    assert cropped.shape[1:] < (14, 16, 18)
    grid = full_grid(cropped)
    # the axes of 1, 2 and 3 mm run forward, up and to the right
    assert grid.spacing == pytest.approx((3, 1, 2))
    assert grid.diagonal == pytest.approx(((16 * 1) ** 2 + (18 * 2) ** 2 + (14 * 3) ** 2) ** 0.5)
    assert grid.class_voxels.tolist() == [16 * 18 * 14 - 64, 1, 56, 7]
    assert grid.unseen.tolist() == [0, 0, 0, 0]
    assert full_grid(cropped[:, :, :, : cropped.shape[3] // 2]).unseen.sum() > 0


def test_a_resampled_label_is_refused():
    label = MetaTensor(label_map(20), meta={"class_voxels": torch.tensor([990, 0, 0, 10])})
    with pytest.raises(ValueError, match="resampled"):
        full_grid(label)


def test_a_plain_label_is_the_whole_grid():
    grid = full_grid(label_map(20))
    assert grid.spacing == (1, 1, 1)
    assert grid.diagonal == pytest.approx(300**0.5)
    assert grid.class_voxels.tolist() == [980, 0, 0, 20]


def test_the_diagonal_of_brats_is_the_literatures(medmap_data):
    item = {"label": str(next(iter(sorted(medmap_data.rglob("*_seg.nii.gz"))))), "label_scheme": "brats2018"}
    assert full_grid(LoadBratsLabeld("label")(item)["label"]).diagonal == pytest.approx(373.13, abs=0.005)
