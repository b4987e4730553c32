"""What can't be segmented is refused before the work, and what may go wrong is said."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform, Transform

from medmap_components.modalities import MODALITIES, MODALITY_LABELS
from medmap_components.transforms.masks import masks_of

__all__ = ["WARNINGS_KEY", "CheckStudy", "CheckStudyd", "warnings_of"]

WARNINGS_KEY = "study_warnings"
"""Key in ``MetaTensor.meta``: what is doubtful about a study, one sentence a line, empty where nothing is."""

LARGEST_BRAIN_ML = 2200.0
"""More tissue than this is more than a brain. Brains with their fluid, as skull-stripping leaves them, have 1.0 to
2.0 litres (1.25 to 1.73 in the thirteen real cases of the tests); a whole head has 3.5 and more."""

SMALLEST_EXTENT_MM = 100.0
"""A brain is longer than this along every axis: about 130 mm from side to side, 120 from top to bottom."""

THICK_SLICE_MM = 3.0


class CheckStudy(Transform):
    """Refuses a study that can't be segmented, and notes what makes a result doubtful in ``meta["study_warnings"]``.

    Whether a volume is skull-stripped is told by how much of it is not zero. The networks take what is not zero for
    brain (normalisation, cropping), and the background of a stripped volume is zero. More than 2.2 litres that are not
    zero can't be a brain: either skin, bone and neck are there, or the background is not zero. A slab of a head that
    holds less than that is not noticed.

    Args:
        min_size: fewest voxels along an axis, default 8; fewer are single slices, in which no network of three
            dimensions sees anything.
        spacing_range: smallest and largest voxel size in mm. Default 0.2 to 10: outside of it the header gives other
            units than mm, or the slices lie too far apart.

    Returns:
        When called with an image ``(M, X, Y, Z)`` as :class:`LoadStudy` gives it: the same image with the warnings.

    Raises:
        ValueError: for a study that is refused.
    """

    def __init__(self, min_size: int = 8, spacing_range: tuple[float, float] = (0.2, 10.0)) -> None:
        self.min_size = min_size
        self.smallest, self.largest = spacing_range

    def __call__(self, image: MetaTensor, study: str = "unnamed") -> MetaTensor:
        """Checks one study.

        Args:
            image: the study as it was read.
            study: its name, for messages.
        """
        shape = tuple(int(side) for side in image.shape[1:])
        spacing = np.asarray(affine_to_spacing(image.affine), dtype=float)
        if min(shape) < self.min_size:
            raise ValueError(
                f"study {study!r} has the shape {shape}: at least {self.min_size} voxels are needed along every axis; "
                "single slices can't be segmented."
            )
        if spacing.min() < self.smallest or spacing.max() > self.largest:
            raise ValueError(
                f"study {study!r} has voxels of {_by(spacing)} mm; {self.smallest:g} to {self.largest:g} mm can be "
                "handled. Correct the header if it has other units, or acquire thinner slices."
            )
        notes = [*_about_extent(shape, spacing), *_about_tissue(image, float(np.prod(spacing)))]
        image.meta[WARNINGS_KEY] = "\n".join(notes)
        return image


class CheckStudyd(MapTransform):
    """Dictionary version of :class:`CheckStudy`; to be put right behind the loader.

    Args:
        keys: where the images are.
        min_size: as in :class:`CheckStudy`, default 8.
        spacing_range: as in :class:`CheckStudy`, default 0.2 to 10 mm.
        study_key: where the study's name is, for messages.
        allow_missing_keys: leave out keys that an item lacks instead of raising. Default False.
    """

    def __init__(
        self,
        keys: KeysCollection,
        min_size: int = 8,
        spacing_range: tuple[float, float] = (0.2, 10.0),
        study_key: str = "study",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.study_key = study_key
        self.check = CheckStudy(min_size, spacing_range)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Checks the images of one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.check(item[key], str(item.get(self.study_key, "unnamed")))
        return item


def warnings_of(image: Any) -> list[str]:
    """The warnings that an image carries; none for a plain tensor."""
    text = image.meta.get(WARNINGS_KEY, "") if isinstance(image, MetaTensor) else ""
    return [line for line in str(text).splitlines() if line]


def _by(values: Any) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _about_extent(shape: tuple[int, ...], spacing: Any) -> list[str]:
    extent = np.asarray(shape) * spacing
    notes = []
    if extent.min() < SMALLEST_EXTENT_MM:
        notes.append(
            f"The volume covers {_by(np.round(extent))} mm only, less than a brain: a part of the brain, or a wrong "
            "voxel size in the header."
        )
    if spacing.max() > THICK_SLICE_MM:
        notes.append(f"The slices are {spacing.max():.3g} mm thick; small lesions may be missed.")
    return notes


def _about_tissue(image: MetaTensor, voxel_mm3: float) -> list[str]:
    mask, _ = masks_of(image)
    there = [index for index, use in enumerate(mask.tolist()) if use]
    shares = {MODALITY_LABELS[MODALITIES[index]]: float((image[index] != 0).float().mean()) for index in there}
    whole_ml = float(np.prod(image.shape[1:])) * voxel_mm3 / 1000
    too_much = [name for name, share in shares.items() if share * whole_ml > LARGEST_BRAIN_ML]
    if not too_much:
        return []
    if all(shares[name] > 0.98 for name in too_much):
        what = "the background is not zero"
    else:
        what = "skin, skull or neck are still there"
    amount = max(shares[name] for name in too_much) * whole_ml / 1000
    return [
        f"{', '.join(too_much)} look not skull-stripped: {amount:.1f} litres are not zero, a brain has at most "
        f"{LARGEST_BRAIN_ML / 1000:g} ({what}). The networks expect the brain alone, background 0."
    ]
