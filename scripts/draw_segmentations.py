"""Draws what a folder of studies was segmented into: modalities, missing ones, contours, and the reference if any.

python scripts/draw_segmentations.py --dataset_dir STUDIES --prediction_dir SEGMENTATIONS --output_file picture.png
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np
from monai.transforms import Compose, Orientationd
from numpy.typing import NDArray

from medmap_components.data import find_studies
from medmap_components.metrics import region_dice
from medmap_components.modalities import MODALITIES, subset_name
from medmap_components.transforms import LoadBratsLabeld, LoadStudyd, masks_of
from medmap_components.visualize import StudyPicture, draw_studies

logger = logging.getLogger("draw_segmentations")


def draw(
    dataset_dir: str,
    prediction_dir: str,
    output_file: str,
    reference_dir: str | None = None,
    max_studies: int = 6,
    title: str = "",
) -> None:
    """Draws one row per study that has a segmentation.

    Args:
        dataset_dir: the folder that was segmented.
        prediction_dir: the output folder of the inference, with ``<study>/<study>_seg.nii.gz``.
        output_file: the picture to write.
        reference_dir: labelled studies of the same names, where the labels are not in ``dataset_dir`` itself.
        max_studies: at most so many rows. Default: 6.
        title: heading of the figure.

    Raises:
        FileNotFoundError: if no study of ``dataset_dir`` has a segmentation in ``prediction_dir``.
    """
    references = _references(reference_dir or dataset_dir)
    rows = []
    for item in find_studies(dataset_dir, labels=False):
        name = str(item["study"])
        prediction = Path(prediction_dir) / name / f"{name}_seg.nii.gz"
        if prediction.is_file() and len(rows) < max_studies:
            rows.append(_row(item, prediction, references.get(name)))
    if not rows:
        raise FileNotFoundError(
            f"none of the studies in {dataset_dir} has a segmentation <study>/<study>_seg.nii.gz in {prediction_dir}; "
            "run the bundle's inference with these two folders first."
        )
    logger.info("Picture: %s", draw_studies(rows, output_file, title=title))


def _references(folder: str) -> dict[str, dict[str, Any]]:
    try:
        return {str(item["study"]): item for item in find_studies(folder, labels=True)}
    except ValueError:  # no study of the folder has a label
        return {}


def _row(item: dict[str, Any], prediction_file: Path, reference_item: dict[str, Any] | None) -> StudyPicture:
    wanted = {"image": item["image"], "prediction": str(prediction_file), "study": item["study"]}
    keys = ["image", "prediction"]
    steps: list[Any] = [LoadStudyd(keys="image"), LoadBratsLabeld(keys="prediction", scheme_key="none")]
    if reference_item is not None:
        wanted |= {"reference": reference_item["label"], "label_scheme": reference_item["label_scheme"]}
        steps.append(LoadBratsLabeld(keys="reference"))
        keys.append("reference")
    loaded = Compose([*steps, Orientationd(keys=keys, axcodes="LPS", labels=None)])(wanted)
    mask, _ = masks_of(loaded["image"])
    title = f"{item['study']}\n{subset_name(mask.tolist())}"
    if reference_item is not None:
        dice = region_dice(loaded["prediction"], loaded["reference"])
        title += "\nDice " + "  ".join(f"{name} {value:.2f}" for name, value in dice.items())
    images = {
        name: np.asarray(channel)
        for name, channel, there in zip(MODALITIES, loaded["image"], mask, strict=True)
        if there
    }
    spacing = nib.affines.voxel_sizes(np.asarray(loaded["image"].affine)).tolist()
    reference = _labels(loaded["reference"]) if reference_item is not None else None
    return StudyPicture(title, images, _labels(loaded["prediction"]), reference, spacing)


def _labels(volume: Any) -> NDArray[np.integer[Any]]:
    return np.asarray(volume)[0].astype(np.uint8)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    fire.Fire(draw)
