"""A folder of studies laid out as MONAI Label's datastore wants it: one file per study, all in one folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medmap_components.data import find_studies
from medmap_components.modalities import MODALITIES
from medmap_components.transforms import LoadBratsLabel

__all__ = ["FINAL_LABELS", "lay_out_studies"]

logger = logging.getLogger(__name__)

FINAL_LABELS = Path("labels") / "final"
"""Where MONAI Label's datastore keeps the labels that it trains with."""

SOURCE_FILE = "source.txt"


def lay_out_studies(
    dataset_dir: Path, store: Path, shown: Sequence[str] = MODALITIES, with_labels: bool = False
) -> dict[str, Path]:
    """Makes a folder with one link for each study, named after the study.

    MONAI Label knows one file per image. A study's link leads to one of its modalities, or to its file with all of
    them. MONAI Label follows links before it hands a path to a bundle, and the bundle's loader finds the other
    modalities beside that file, under whatever names ``find_studies`` understands. Nothing is written to
    ``dataset_dir``; what MONAI Label saves goes into the store.

    Called again, it adds new studies and drops links to those that are gone. Labels in the store are never changed.

    Args:
        dataset_dir: the studies.
        store: the folder to make, outside of ``dataset_dir``.
        shown: which modality a viewer gets to see: the first of these that a study has. Default: in the order of
            ``MODALITIES``.
        with_labels: also copy the studies' expert segmentations, with values 0 to 3, for training. Default False.

    Returns:
        Study name to the file that stands for it.

    Raises:
        FileNotFoundError: if ``dataset_dir`` does not exist.
        ValueError: if it holds no study, contains ``store``, or if the store belongs to another folder.
    """
    dataset_dir, store = dataset_dir.resolve(), store.resolve()
    if store.is_relative_to(dataset_dir):
        raise ValueError(f"{store} lies in the folder of studies {dataset_dir}; give --workspace another place.")
    items = find_studies(dataset_dir, labels=False)
    _claim(store, dataset_dir)
    files = {}
    for item in items:
        file = _file_of(item["image"], [*shown, *MODALITIES])
        if file is None:
            logger.warning("left out %s: no modality is recognised in %s", item["study"], item["image"])
        else:
            files[str(item["study"])] = file
    wanted = {store / f"{study}{_extension(file)}": file for study, file in files.items()}
    for path in store.iterdir():
        if path.is_symlink() and path not in wanted:
            path.unlink()
    for link, file in wanted.items():
        if not link.is_symlink() or link.readlink() != file:
            link.unlink(missing_ok=True)
            link.symlink_to(file)
    if with_labels:
        _copy_labels(dataset_dir, store)
    return files


def _claim(store: Path, dataset_dir: Path) -> None:
    """Makes the store, or refuses one that was made for another folder."""
    note = store / SOURCE_FILE
    store.mkdir(parents=True, exist_ok=True)
    if note.is_file() and note.read_text(encoding="utf-8") != str(dataset_dir):
        raise ValueError(
            f"{store} holds links and labels of the studies in {note.read_text(encoding='utf-8')}; give another "
            f"--workspace for those in {dataset_dir}."
        )
    note.write_text(str(dataset_dir), encoding="utf-8")


def _file_of(source: str | Sequence[str] | Mapping[str, Any], order: Sequence[str]) -> Path | None:
    """The file that stands for a study; None where the study could not be recognised."""
    if not isinstance(source, Mapping):
        return None
    path = source.get("file") or next(source[modality] for modality in order if modality in source)
    return Path(path).absolute()


def _extension(file: Path) -> str:
    name = file.name.lower()
    return file.name[name.rindex(".nii") :]


def _copy_labels(dataset_dir: Path, store: Path) -> None:
    """Copies expert segmentations into the store, in the classes of the bundles; those that are there stay."""
    load_label = LoadBratsLabel()
    folder = store / FINAL_LABELS
    folder.mkdir(parents=True, exist_ok=True)
    for item in find_studies(dataset_dir, labels=True):
        target = folder / f"{item['study']}.nii.gz"
        if not target.exists():
            label = load_label(item["label"], item["label_scheme"], str(item["study"]))
            image = nib.Nifti1Image(np.asarray(label[0], np.uint8), np.asarray(label.affine))
            nib.save(image, target)
