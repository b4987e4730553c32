"""Write labelled studies small: cropped to the brain, resampled and stored as 16-bit integers, in the naming of BraTS.

A folder of full studies takes about 9 MB a study; at 2 mm it takes about 1 MB, so that a study of many trainings can be
sent to a machine with a GPU, and a training reads it in a fraction of the time. The new folder is read like any other.

Images are resampled among brain voxels only, as the bundles do it (spacing_mm), labels by the nearest voxel. Each image
is scaled so that its brain reaches from 1 to 4095; the unit of MRI intensities is arbitrary. Scores on the new folder
are those on its own grid, which at another spacing is not that of the expert's segmentation.

Examples:
    python scripts/compact_studies.py --dataset_dir FOLDER --output_dir compact --spacing 2
    python scripts/compact_studies.py --dataset_dir FOLDER --output_dir compact_1mm
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Orientationd, ResampleToMatchd
from numpy.typing import NDArray
from tqdm import tqdm

from medmap_components.data import find_studies
from medmap_components.modalities import MODALITIES
from medmap_components.transforms import EXISTS_KEY, LabelsToBrats, LoadBratsLabeld, LoadStudyd, nonzero
from medmap_components.transforms.spacing import SpacingIfNeededd

LARGEST = 4095


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of labelled studies, in any layout")
    parser.add_argument("--output_dir", type=Path, required=True, help="gets a folder per study; must be empty or new")
    parser.add_argument("--spacing", type=float, help="voxel size in mm (default: as it is)")
    parsed = parser.parse_args(arguments)
    if parsed.spacing is not None and not parsed.spacing > 0:
        parser.error(f"--spacing must be positive (mm), got {parsed.spacing}")
    if parsed.output_dir.is_dir() and any(parsed.output_dir.iterdir()):
        parser.error(f"--output_dir {parsed.output_dir} is not empty; give a new folder, or empty that one")
    return parsed


def preparation(spacing: float | None) -> Compose:
    """What is done to a study: reading, resampling if asked for, cropping to the brain."""
    keys = ["image", "label"]
    resampling = [SpacingIfNeededd("image", spacing), ResampleToMatchd("label", key_dst="image", mode="nearest")]
    return Compose(
        [
            LoadStudyd("image"),
            LoadBratsLabeld("label"),
            Orientationd(keys, axcodes="LPS", labels=None),
            *(resampling if spacing else []),
            CropForegroundd(keys, source_key="image", select_fn=nonzero, allow_smaller=True),
        ]
    )


def scaled(image: NDArray[np.float32]) -> NDArray[np.int16]:
    """An image of any unit as integers: its brain from 1 to ``LARGEST``, background, which is zero, as zero."""
    brain = image != 0
    low, high = image[brain].min(), image[brain].max()
    return np.where(brain, 1 + np.rint((image - low) / (high - low) * (LARGEST - 1)), 0).astype(np.int16)


def write_study(item: dict[str, Any], prepare: Compose, output_dir: Path) -> int:
    """Writes one study and returns its size in bytes."""
    done: dict[str, Any] = prepare(item)
    # where two folders hold the same name, the study's name holds their paths
    image, name = done["image"], str(item["study"]).replace("/", "_")
    volumes = {
        modality: scaled(channel)
        for modality, channel, exists in zip(MODALITIES, image.numpy(), image.meta[EXISTS_KEY], strict=True)
        if exists
    }
    label: MetaTensor = LabelsToBrats()(done["label"])
    volumes["seg"] = label.numpy()[0].astype(np.int16)
    folder = output_dir / name
    folder.mkdir(parents=True)
    files = {part: folder / f"{name}_{part}.nii.gz" for part in volumes}
    for part, volume in volumes.items():
        nib.save(nib.Nifti1Image(volume, np.asarray(image.affine)), files[part])
    return sum(file.stat().st_size for file in files.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the studies that the command line asks for; returns the exit code."""
    parsed = parse_arguments(arguments)
    try:
        items, prepare = find_studies(parsed.dataset_dir), preparation(parsed.spacing)
        sizes = [write_study(item, prepare, parsed.output_dir) for item in tqdm(items, desc="studies", unit="study")]
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"compact_studies: {error}", file=sys.stderr)
        return 1
    print(f"{len(sizes)} studies, {sum(sizes) / 1e6:.1f} MB, lie in {parsed.output_dir.resolve()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
