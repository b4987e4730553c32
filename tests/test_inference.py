"""Segmenting from Python."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import medmap_components
from medmap_components import Segmenter, segment
from medmap_components.modalities import MODALITIES
from tests.bundles.conftest import FIRST, Bundle
from tests.bundles.threshold_network import ThresholdNetwork
from tests.conftest import LPS

NETWORK = {
    "network_def": {"_target_": "tests.bundles.threshold_network.ThresholdNetwork", "width": 3},
    "crop_size": [32, 32, 32],
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("threshold") / "model.pt"
    torch.save(ThresholdNetwork().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def segmenter(weights) -> Segmenter:
    return Segmenter(FIRST, weights, **NETWORK)


@pytest.fixture
def arrays(tiny_arrays) -> dict[str, np.ndarray]:
    """A tiny study in whose tumour FLAIR is bright, and T1ce in a part of it."""
    arrays = tiny_arrays((20, 22, 18))
    arrays["flair"][7:13, 8:14, 6:12] += 200
    arrays["t1ce"][10:13, 11:14, 9:12] += 200
    return arrays


def test_a_call_gives_what_the_command_saves(weights, arrays, make_nifti, tmp_path):
    for modality in ("flair", "t1ce", "t2"):
        make_nifti(tmp_path / "in" / "case" / f"case_{modality}.nii.gz", arrays[modality])
    Bundle(FIRST, tmp_path).run(
        "inference",
        dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        checkpoint=str(weights),
        save_probabilities=True,
        report_pictures=False,
        **NETWORK,
    )
    result = segment(tmp_path / "in" / "case", FIRST, weights, save_probabilities=True, **NETWORK)
    saved = nib.load(tmp_path / "out" / "case" / "case_seg.nii.gz")
    assert len(np.unique(result.labels)) >= 3
    np.testing.assert_array_equal(result.labels, np.asarray(saved.dataobj))
    np.testing.assert_allclose(result.affine, saved.affine)
    assert result.info["modalities_missing"] == ["t1"]
    probabilities = nib.load(tmp_path / "out" / "case" / "case_probabilities.nii.gz")
    assert probabilities.get_data_dtype() == np.float32
    assert probabilities.shape == (20, 22, 18, 3)
    np.testing.assert_allclose(np.moveaxis(np.asarray(probabilities.dataobj), -1, 0), result.probabilities, atol=1e-6)
    # whole tumour holds the core, the core holds the enhancing part
    whole, core, enhancing = result.probabilities
    assert (whole >= core - 1e-6).all()
    assert (core >= enhancing - 1e-6).all()


def test_all_ways_to_give_voxels_agree(segmenter, arrays):
    stack = np.stack([arrays[modality] for modality in MODALITIES])
    expected = segmenter({name: nib.Nifti1Image(arrays[name], LPS) for name in MODALITIES})
    assert (expected.labels > 0).any()
    ways = [
        (stack, {"affine": LPS}),
        (stack.astype(np.int64), {"affine": LPS}),
        (torch.from_numpy(stack), {"affine": LPS}),
        (MetaTensor(torch.from_numpy(stack), affine=torch.from_numpy(LPS)), {}),
        ({name.upper(): arrays[name] for name in MODALITIES}, {"spacing": (1.0, 1.0, 1.0)}),
        (nib.Nifti1Image(np.moveaxis(stack, 0, -1), LPS), {}),
    ]
    for study, grid in ways:
        result = segmenter(study, **grid)
        np.testing.assert_array_equal(result.labels, expected.labels)
        assert result.info["modalities_used"] == list(MODALITIES)


def test_absent_modalities_are_none_zero_or_left_out(segmenter, weights, arrays):
    two = {"flair": arrays["flair"], "t1ce": arrays["t1ce"]}
    expected = segmenter(two, spacing=(1, 1, 1))
    assert expected.info["modalities_missing"] == ["t1", "t2"]
    zeros = {**two, "t1": None, "t2": np.zeros_like(arrays["t2"])}
    restricted = Segmenter(FIRST, weights, modalities=["t1ce", "flair"], **NETWORK)
    for result in (segmenter(zeros, spacing=(1, 1, 1)), restricted(arrays_of(arrays), spacing=(1, 1, 1))):
        np.testing.assert_array_equal(result.labels, expected.labels)
        assert result.info == expected.info


def arrays_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: arrays[name] for name in MODALITIES}


def test_volumes_are_those_of_the_labels(segmenter, arrays):
    result = segmenter(arrays_of(arrays), spacing=(1.0, 1.0, 1.0))
    assert result.info["volumes_ml"]["WT"] == pytest.approx((result.labels > 0).sum() / 1000)
    assert result.info["volumes_ml"]["ET"] == pytest.approx((result.labels == 3).sum() / 1000)


@pytest.mark.parametrize(
    ("study", "grid", "message"),
    [
        (np.ones((4, 9, 9, 9)), {}, "give affine"),
        (np.ones((3, 9, 9, 9)), {"spacing": (1, 1, 1)}, r"\(3, 9, 9, 9\)"),
        (np.ones((4, 9, 9, 9)), {"spacing": (1, 1)}, "three positive sizes"),
        (np.zeros((4, 9, 9, 9)), {"spacing": (1, 1, 1)}, "no readable modality"),
        ({"flair": np.ones((9, 9))}, {"spacing": (1, 1, 1)}, r"\(9, 9\)"),
    ],
)
def test_voxels_that_cannot_be_used_are_refused(segmenter, study, grid, message):
    with pytest.raises(ValueError, match=message):
        segmenter(study, **grid)


def test_wrong_bundles_and_settings_are_refused(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"inference\.json"):
        Segmenter(tmp_path, weights)
    with pytest.raises(ValueError, match=r"overlapp.*overlap"):
        Segmenter(FIRST, weights, overlapp=0.1)
    with pytest.raises(AttributeError, match="segmentation_of"):
        medmap_components.segmentation_of  # noqa: B018
