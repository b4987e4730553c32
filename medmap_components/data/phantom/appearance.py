"""What a scanner sees: tissues with textures and look-alikes, then slices, bias field, noise and an arbitrary scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from monai.transforms import Compose, RandBiasField, RandRicianNoise
from numpy.typing import NDArray
from scipy import ndimage

from medmap_components.data.phantom.anatomy import Anatomy, HeadGrid
from medmap_components.data.phantom.fields import (
    FloatArray,
    LabelArray,
    blur,
    ramp,
    smooth_field,
    weighted_sum,
)
from medmap_components.data.phantom.parameters import BROAD_CONTRASTS, CONTRASTS, SCANNERS, TISSUES, Scanner
from medmap_components.data.phantom.tumour import EDEMA, ENHANCING, NECROSIS
from medmap_components.modalities import MODALITIES

__all__ = ["LookAlikes", "acquire", "draw_look_alikes", "render_modalities", "tissue_shares"]

DARKER_TUMOUR_ON_T1 = {("t1", "edema"), ("t1", "necrosis"), ("t1ce", "edema"), ("t1ce", "necrosis")}
"""Water that makes these brighter on FLAIR and T2 makes them darker here."""

SHARED_VARIATION = 0.55
"""Correlation of a tissue's case-to-case deviation with the deviation that all modalities share."""

TUMOUR_LIKENESS = 0.7
"""Correlation over cases between deviations of oedema, core and enhancing tumour in one modality: a real tumour that
is bright there is so in all its parts."""

TUMOUR_TISSUES = ("edema", "necrosis", "enhancing")
"""The tissues that this holds for."""

T1_LIKENESS = 0.85
"""Correlation of a tissue's further deviation on T1ce with that on T1, unless it takes up contrast agent: apart from
the contrast agent, the two are the same kind of image."""

RESAMPLING_SIGMA_VOXELS = 0.5
"""Blur of the resampling to a common grid, as all BraTS images went through it."""

_NOISE_LEFT_BY_RESAMPLING = 0.514
"""Share of white noise's standard deviation that this blur leaves."""


@dataclass(frozen=True)
class LookAlikes:
    """Things that resemble a tumour in one modality and are none; all arrays ``(X, Y, Z)``.

    Attributes:
        vessels: enhancing vessels, dura and venous sinus: bright on T1ce, like enhancing tumour.
        white_matter_lesions: bright on FLAIR and less so on T2, like oedema.
        dark_rim: partial volume with the stripped background, before it is scaled per modality.
    """

    vessels: FloatArray
    white_matter_lesions: FloatArray
    dark_rim: FloatArray


def tissue_shares(
    rng: np.random.Generator, anatomy: Anatomy, label: LabelArray, grid: HeadGrid
) -> dict[str, FloatArray]:
    """How much of every voxel each tissue makes up, with soft borders and oedema that infiltrates the brain.

    Args:
        rng: the source of randomness.
        anatomy: the healthy tissues.
        label: the tumour, see ``grow_tumour``.
        grid: the head's box.

    Returns:
        Arrays ``(X, Y, Z)`` by name in ``TISSUES``.
    """
    spacing = grid.spacing
    infiltration = 0.84 + 0.20 * smooth_field(rng, grid.shape, 13, spacing)
    infiltration += 0.16 * smooth_field(rng, grid.shape, 5.5, spacing)
    edema = blur(label == EDEMA, rng.uniform(0.8, 1.7), spacing) * ramp(infiltration, 0.30, 1.0)
    necrosis = blur(label == NECROSIS, 0.8, spacing)
    enhancing = blur(label == ENHANCING, 0.7, spacing)
    healthy = ramp(1 - edema - necrosis - enhancing) / np.maximum(anatomy.total, 1e-3)
    return {
        "csf": anatomy.csf * healthy,
        "gm": anatomy.gm * healthy,
        "wm": anatomy.wm * healthy,
        "edema": edema,
        "necrosis": necrosis,
        "enhancing": enhancing,
    }


def draw_look_alikes(rng: np.random.Generator, anatomy: Anatomy, grid: HeadGrid) -> LookAlikes:
    """Draw one case's look-alikes.

    Args:
        rng: the source of randomness.
        anatomy: the healthy tissues.
        grid: the head's box.

    Returns:
        The look-alikes' maps.
    """
    spacing, (x, _, z) = grid.spacing, grid.positions
    unevenness = ramp(1 + 0.8 * smooth_field(rng, grid.shape, 6, spacing), 0, 3)
    dark_rim = ramp(1 - anatomy.depth / rng.uniform(2.5, 4.5)) * unevenness
    return LookAlikes(
        _vessels(rng, anatomy, grid, x, z), _white_matter_lesions(rng, anatomy, grid, x, z), dark_rim.astype(np.float32)
    )


def _vessels(rng: np.random.Generator, anatomy: Anatomy, grid: HeadGrid, x: FloatArray, z: FloatArray) -> FloatArray:
    """Thin vessels in the sulci, the sagittal sinus with the falx, and patches of dura left at the surface."""
    spacing = grid.spacing
    thin_sheets = np.abs(smooth_field(rng, grid.shape, 7, spacing)) < 0.05
    some_regions = np.abs(smooth_field(rng, grid.shape, 26, spacing)) < 1.2
    in_sulci = thin_sheets & some_regions & (blur(anatomy.csf, 1.2, spacing) > 0.22)
    sinus = (np.abs(x) < 2.0) & (z > 0.22 * grid.extent[2]) & (anatomy.csf > 0.3)
    dura = (anatomy.depth < rng.uniform(1.5, 3)) & (smooth_field(rng, grid.shape, 14, spacing) > rng.uniform(0.3, 1.2))
    return blur(in_sulci | sinus, 0.6, spacing) + blur(dura, 0.5, spacing)


def _white_matter_lesions(
    rng: np.random.Generator, anatomy: Anatomy, grid: HeadGrid, x: FloatArray, z: FloatArray
) -> FloatArray:
    """Small lesions in the white matter around the ventricles, in about two cases of three."""
    severity = float(rng.choice([0, 0.5, 1, 1.6], p=[0.35, 0.3, 0.2, 0.15]))
    near_ventricle = (blur(anatomy.csf, 3.5, grid.spacing) > 0.10) & (anatomy.wm > 0.7)
    central = (np.abs(x) < 0.28 * grid.extent[0]) & (np.abs(z) < 0.25 * grid.extent[2])
    spots = smooth_field(rng, grid.shape, 5.5, grid.spacing) > 1.1
    return severity * blur(near_ventricle & central & spots, 0.9, grid.spacing)


def render_modalities(
    rng: np.random.Generator,
    shares: dict[str, FloatArray],
    look_alikes: LookAlikes,
    grid: HeadGrid,
    contrasts: str = "fitted",
) -> dict[str, FloatArray]:
    """The noise-free image of every modality in units of the brain's standard deviation.

    Args:
        rng: the source of randomness.
        shares: see ``tissue_shares``.
        look_alikes: see ``draw_look_alikes``.
        grid: the head's box.
        contrasts: a name in ``CONTRAST_SOURCES``. Default "fitted".

    Returns:
        Arrays ``(X, Y, Z)`` by modality.
    """
    maps = [shares[tissue] for tissue in TISSUES]
    fine, slow = (smooth_field(rng, grid.shape, feature, grid.spacing) for feature in (3.2, 11))
    shared_texture = 0.7 * (fine + slow)
    means_by_modality = _draw_case_means(rng) if contrasts == "fitted" else _draw_broad_means(rng)
    images = {}
    for modality in MODALITIES:
        share = rng.uniform(0.3, 0.9, len(TISSUES))
        texture = np.array([CONTRASTS[modality][tissue].texture for tissue in TISSUES])
        own_texture = smooth_field(rng, grid.shape, 4.5, grid.spacing)
        image = weighted_sum(means_by_modality[modality], maps)
        image += shared_texture * weighted_sum((texture * share).tolist(), maps)
        image += own_texture * weighted_sum((texture * np.sqrt(1 - share**2)).tolist(), maps)
        _add_look_alikes(rng, image, modality, look_alikes)
        images[modality] = image
    return images


def _draw_case_means(rng: np.random.Generator) -> dict[str, list[float]]:
    """This case's mean of every tissue by modality; what is unusual in one modality tends to be so in the others."""
    shared = _deviations(rng)
    own = {modality: _deviations(rng) for modality in MODALITIES}
    without_uptake = np.array([tissue != "enhancing" for tissue in TISSUES])
    alike = T1_LIKENESS * own["t1"] + np.sqrt(1 - T1_LIKENESS**2) * own["t1ce"]
    own["t1ce"] = np.where(without_uptake, alike, own["t1ce"])
    means = {}
    for modality in MODALITIES:
        contrasts = [CONTRASTS[modality][tissue] for tissue in TISSUES]
        sign = np.array([-1 if (modality, tissue) in DARKER_TUMOUR_ON_T1 else 1 for tissue in TISSUES])
        deviation = SHARED_VARIATION * sign * shared + np.sqrt(1 - SHARED_VARIATION**2) * own[modality]
        means[modality] = [c.mean + c.spread * float(d) for c, d in zip(contrasts, deviation, strict=True)]
    return means


def _draw_broad_means(rng: np.random.Generator) -> dict[str, list[float]]:
    """Means of every tissue by modality, each drawn by itself; T1ce follows T1 but for what takes up contrast agent."""
    means = {m: [float(rng.uniform(*BROAD_CONTRASTS[m][tissue])) for tissue in TISSUES] for m in MODALITIES}
    for index, tissue in enumerate(TISSUES):
        if tissue != "enhancing":
            low, high = BROAD_CONTRASTS["t1"][tissue]
            place = (means["t1"][index] - low) / (high - low) + rng.normal(0, 0.15)
            means["t1ce"][index] = float(np.interp(place, (0, 1), BROAD_CONTRASTS["t1ce"][tissue]))
    return means


def _deviations(rng: np.random.Generator) -> NDArray[np.float64]:
    """Standard normal deviations of all tissues; those of the tumour's parts go together."""
    own, whole_tumour = rng.standard_normal(len(TISSUES)), rng.standard_normal()
    of_tumour = np.array([tissue in TUMOUR_TISSUES for tissue in TISSUES])
    together = np.sqrt(TUMOUR_LIKENESS) * whole_tumour + np.sqrt(1 - TUMOUR_LIKENESS) * own
    return np.where(of_tumour, together, own)


def _add_look_alikes(rng: np.random.Generator, image: FloatArray, modality: str, look_alikes: LookAlikes) -> None:
    vessel_brightness = np.float32(rng.uniform(1.2, 3.4))
    rim = np.float32(rng.uniform(*SCANNERS[modality].rim_darkening))
    if modality == "t1ce":
        image += vessel_brightness * look_alikes.vessels
    if modality == "flair":
        image += np.float32(1.4) * look_alikes.white_matter_lesions
    if modality == "t2":
        image += np.float32(0.8) * look_alikes.white_matter_lesions
    image -= rim * look_alikes.dark_rim


def acquire(rng: np.random.Generator, image: FloatArray, scanner: Scanner, spacing: float) -> NDArray[np.int16]:
    """Take an image as a scanner would: thick slices, bias field, Rician noise, resampling and an arbitrary gain.

    Args:
        rng: the source of randomness.
        image: ``(X, Y, Z)``, see ``render_modalities``.
        scanner: the modality's entry in ``SCANNERS``.
        spacing: voxel size, mm.

    Returns:
        ``(X, Y, Z)``, positive integers.
    """
    thick = rng.random() < scanner.thick_slice_rate
    slice_axis = int(rng.choice([2, 2, 2, 1, 0]))
    slice_sigma = rng.uniform(0.6, 1.6)
    if thick:
        image = ndimage.gaussian_filter1d(image, slice_sigma / spacing, axis=slice_axis)
    image = np.maximum(image + np.float32(scanner.offset * rng.uniform(0.85, 1.2)), np.float32(0.04))
    bias, noise = rng.uniform(0.03, 0.10), rng.uniform(0.02, 0.065) / _NOISE_LEFT_BY_RESAMPLING
    disturb = Compose(
        [
            RandBiasField(prob=1, degree=3, coeff_range=(-bias, bias)),
            RandRicianNoise(prob=1, std=noise, sample_std=False),
        ]
    )
    disturb.set_random_state(seed=int(rng.integers(2**31)))
    disturbed = np.asarray(disturb(image[None]))[0]
    gain = np.exp(rng.uniform(np.log(60), np.log(600)))
    resampled = ndimage.gaussian_filter(disturbed, RESAMPLING_SIGMA_VOXELS)
    integers: NDArray[np.int16] = np.clip(np.rint(resampled * np.float32(gain)), 1, 32767).astype(np.int16)
    return integers
