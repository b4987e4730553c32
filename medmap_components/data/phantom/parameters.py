"""The phantom's numbers: contrast of every class in every modality, kinds of tumour, and how scanners differ.

The intensities are in units of the z-score inside the brain: a table entry of 1.0 lies one standard deviation of the
brain's intensity above the brain's mean, before the look-alikes, bias field and noise shift the scale a little. The
tables were fitted to labelled pre-operative BraTS cases; `docs/phantom.md` shows how well they agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "BRATS_SHAPE",
    "BROAD_CONTRASTS",
    "CONTRASTS",
    "CONTRAST_SOURCES",
    "GENERATOR_VERSION",
    "LESION_KINDS",
    "SCANNERS",
    "TISSUES",
    "Contrast",
    "LesionKind",
    "Scanner",
]

GENERATOR_VERSION = 5
"""Counts changes that give other voxels for the same seed; cases written by another version are not reused."""

BRATS_SHAPE = (240, 240, 155)
"""The grid of BraTS, voxels of 1 mm."""

TISSUES = ("csf", "gm", "wm", "edema", "necrosis", "enhancing")
"""What a voxel can consist of: cerebrospinal fluid, grey and white matter, and the three tumour classes."""


class Contrast(NamedTuple):
    """How bright one tissue is in one modality.

    Attributes:
        mean: mean over cases.
        spread: standard deviation of a case's mean over cases.
        texture: standard deviation inside the tissue of one case, without noise and partial volume.
    """

    mean: float
    spread: float
    texture: float


CONTRASTS: dict[str, dict[str, Contrast]] = {
    "flair": {
        "csf": Contrast(-0.80, 0.22, 0.53),
        "gm": Contrast(0.12, 0.08, 0.17),
        "wm": Contrast(-0.08, 0.10, 0.14),
        "edema": Contrast(0.97, 0.22, 0.10),
        "necrosis": Contrast(0.78, 0.44, 0.22),
        "enhancing": Contrast(0.71, 0.50, 0.28),
    },
    "t1ce": {
        "csf": Contrast(-0.54, 0.34, 0.21),
        "gm": Contrast(-0.20, 0.07, 0.16),
        "wm": Contrast(0.15, 0.10, 0.11),
        "edema": Contrast(-0.21, 0.22, 0.10),
        "necrosis": Contrast(-0.28, 0.38, 0.15),
        "enhancing": Contrast(0.86, 0.34, 0.44),
    },
    "t1": {
        "csf": Contrast(-0.46, 0.36, 0.25),
        "gm": Contrast(-0.02, 0.05, 0.19),
        "wm": Contrast(0.31, 0.05, 0.07),
        "edema": Contrast(0.06, 0.17, 0.12),
        "necrosis": Contrast(0.06, 0.34, 0.14),
        "enhancing": Contrast(0.22, 0.30, 0.12),
    },
    "t2": {
        "csf": Contrast(0.72, 0.24, 0.50),
        "gm": Contrast(-0.36, 0.06, 0.11),
        "wm": Contrast(-0.56, 0.06, 0.04),
        "edema": Contrast(0.13, 0.28, 0.12),
        "necrosis": Contrast(0.20, 0.48, 0.20),
        "enhancing": Contrast(0.14, 0.36, 0.16),
    },
}
"""Contrast by modality and tissue."""

BROAD_CONTRASTS: dict[str, dict[str, tuple[float, float]]] = {
    "flair": {
        "csf": (-1.2, -0.4),
        "gm": (-0.1, 0.3),
        "wm": (-0.3, 0.1),
        "edema": (0.3, 1.5),
        "necrosis": (-0.6, 1.5),
        "enhancing": (0.0, 1.4),
    },
    "t1ce": {
        "csf": (-1.1, -0.2),
        "gm": (-0.4, 0.0),
        "wm": (0.0, 0.4),
        "edema": (-0.6, 0.2),
        "necrosis": (-1.0, 0.3),
        "enhancing": (0.3, 1.6),
    },
    "t1": {
        "csf": (-1.1, -0.2),
        "gm": (-0.2, 0.1),
        "wm": (0.1, 0.5),
        "edema": (-0.4, 0.3),
        "necrosis": (-0.9, 0.3),
        "enhancing": (-0.4, 0.6),
    },
    "t2": {
        "csf": (0.3, 1.4),
        "gm": (-0.5, -0.1),
        "wm": (-0.8, -0.3),
        "edema": (0.0, 0.9),
        "necrosis": (-0.2, 1.3),
        "enhancing": (-0.3, 0.9),
    },
}
"""Ranges of every tissue's mean in the same units, set by hand and wide, and fitted to no cases.

They follow from how the sequences weight relaxation times: fluid is dark on T1 and FLAIR and bright on T2; white matter
is brighter than grey on T1 and darker on T2; oedema is bright on FLAIR and T2; necrosis looks like fluid or like
protein-rich tissue; enhancing tumour is bright on T1ce.
"""

CONTRAST_SOURCES = ("fitted", "broad")
"""Where a case's contrasts come from: ``CONTRASTS``, or each drawn from its range in ``BROAD_CONTRASTS``."""


@dataclass(frozen=True)
class Scanner:
    """How one modality is acquired.

    Attributes:
        offset: mean of the brain over its standard deviation: the zero of the scanner's scale lies this far below 0.
        rim_darkening: range of how much the brain's surface is darkened by partial volume with the stripped background.
        thick_slice_rate: share of the cases whose slices are thick in one direction.
    """

    offset: float
    rim_darkening: tuple[float, float]
    thick_slice_rate: float


SCANNERS: dict[str, Scanner] = {
    "flair": Scanner(offset=1.60, rim_darkening=(0.5, 1.6), thick_slice_rate=0.55),
    "t1ce": Scanner(offset=1.70, rim_darkening=(0.45, 1.4), thick_slice_rate=0.25),
    "t1": Scanner(offset=1.75, rim_darkening=(0.4, 1.3), thick_slice_rate=0.55),
    "t2": Scanner(offset=1.15, rim_darkening=(0.7, 2.0), thick_slice_rate=0.55),
}
"""Acquisition by modality. Real cases have brain mean/sd of FLAIR 3.0, T1ce 3.8, T1 4.5 and T2 2.2."""


@dataclass(frozen=True)
class LesionKind:
    """One kind of tumour.

    Attributes:
        share: share of the cases.
        core_fraction: mean over cases of the tumour core's share of the whole tumour's volume.
        enhancement: how the core enhances: "ring" (a broken rim with septa), "solid" or "sparse" (a few spots or none).
        foci: range of the number of separate cores.
    """

    share: float
    core_fraction: float
    enhancement: str
    foci: tuple[int, int] = (1, 1)


LESION_KINDS: dict[str, LesionKind] = {
    "ring": LesionKind(share=0.58, core_fraction=0.33, enhancement="ring"),
    "solid": LesionKind(share=0.14, core_fraction=0.30, enhancement="solid"),
    "multifocal": LesionKind(share=0.10, core_fraction=0.33, enhancement="ring", foci=(2, 3)),
    "non_enhancing": LesionKind(share=0.18, core_fraction=0.52, enhancement="sparse"),
}
"""Kinds by name, with the shares of a surgical glioma series: most tumours enhance as a ring around necrosis."""
