"""A real case, turned and resampled, comes out as the original: by fixed weights, and by those that are shipped."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

from medmap_components import Segmenter
from medmap_components.data import find_studies
from medmap_components.modalities import MODALITIES, REGIONS
from tests.bundles.conftest import FIRST
from tests.bundles.threshold_network import ThresholdNetwork


class Setting(NamedTuple):
    case: str
    side: int
    """Millimetres around the tumour that the network gets to see."""
    regions: tuple[str, ...]
    """What must survive a resampling of the study; a threshold on single voxels blurs where its classes are small."""


SETTINGS = {
    "thresholds": Setting("BraTS2021_01476", 72, ("WT",)),  # at 1 mm
    "demonstration": Setting("BraTS2021_00620", 144, ("WT", "TC", "ET")),  # at 3 mm; found: 131, 26 and 24 mL
    "demonstration, small core": Setting("BraTS2021_01476", 144, ("WT",)),
}


@pytest.fixture(scope="module", params=list(SETTINGS))
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def segmenter(kind, tmp_path_factory) -> Segmenter:
    if kind != "thresholds":
        bundle = FIRST.parent / "unet_pmix"
        return Segmenter(bundle, bundle / "models" / "model.pt")
    weights = tmp_path_factory.mktemp("threshold") / "model.pt"
    torch.save(ThresholdNetwork().state_dict(), weights)
    network = {"_target_": "tests.bundles.threshold_network.ThresholdNetwork"}
    return Segmenter(FIRST, weights, network_def=network, crop_size=[80, 80, 80], overlap=0.25)


@pytest.fixture(scope="module")
def images(medmap_data: Path, kind) -> dict[str, nib.Nifti1Image]:
    """A part of a real case around its tumour, which keeps the test short."""
    setting = SETTINGS[kind]
    (item,) = [item for item in find_studies(medmap_data) if item["study"] == setting.case]
    tumour = np.asarray(nib.load(item["label"]).dataobj) > 0
    middle = [int(np.flatnonzero(tumour.any(axis=axes)).mean()) for axes in ((1, 2), (0, 2), (0, 1))]
    part = tuple(slice(max(0, place - setting.side // 2), place + setting.side // 2) for place in middle)
    loaded = {name: nib.load(item["image"][name]).slicer[part] for name in MODALITIES}
    return {name: nib.Nifti1Image(np.float32(image.dataobj), image.affine) for name, image in loaded.items()}


@pytest.fixture(scope="module")
def original(segmenter, images) -> np.ndarray:
    labels = segmenter(images).labels
    assert (labels > 0).sum() > 20_000
    return labels


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.mark.parametrize("axes", ["RAS", "SAR", "ILP"])
def test_flipped_and_permuted_copies_give_the_very_same_labels(segmenter, images, original, axes: str):
    own = io_orientation(images["flair"].affine)
    result = segmenter({n: image.as_reoriented(ornt_transform(own, axcodes2ornt(axes))) for n, image in images.items()})
    assert "".join(nib.aff2axcodes(result.affine)) == axes
    back = nib.Nifti1Image(result.labels, result.affine).as_reoriented(ornt_transform(axcodes2ornt(axes), own))
    np.testing.assert_array_equal(np.asarray(back.dataobj), original)


def resampled(image: nib.Nifti1Image, spacing: tuple[float, float, float]) -> nib.Nifti1Image:
    """The same field of view in other voxels; the brain's rim stays sharp, as in a stripped scan of that resolution."""
    voxels = np.asarray(image.dataobj)
    shape = tuple(int(np.ceil(side / step)) for side, step in zip(voxels.shape, spacing, strict=True))
    values = ndimage.affine_transform(voxels, spacing, output_shape=shape, order=3, mode="nearest")
    brain = ndimage.affine_transform((voxels != 0).astype(np.float32), spacing, output_shape=shape, order=1)
    affine = image.affine @ np.diag([*spacing, 1.0])
    return nib.Nifti1Image(np.where(brain >= 0.5, np.maximum(values, 1), 0).astype(np.float32), affine)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.0), (0.8, 0.8, 1.2), (0.5, 1.0, 0.7)], ids=str)
def test_anisotropic_copies_agree_with_the_original(kind, segmenter, images, original, spacing):
    result = segmenter({name: resampled(image, spacing) for name, image in images.items()})
    assert result.info["spacing_mm"] == pytest.approx(spacing)
    scale = [1 / step for step in spacing]
    classes = [
        ndimage.affine_transform(np.float32(result.labels == label), scale, output_shape=original.shape, order=1)
        for label in range(4)
    ]
    back = np.stack(classes).argmax(axis=0)
    agreement = {name: dice(np.isin(back, classes), np.isin(original, classes)) for name, classes in REGIONS.items()}
    agreement = {name: agreement[name] for name in SETTINGS[kind].regions}
    assert min(agreement.values()) >= 0.97, agreement
