"""Which layout the files of a folder are in, and which studies they make."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
from nibabel.filebasedimages import ImageFileError

from medmap_components.data.dataset_json import find_dataset_json, is_label_folder, numbered_channel
from medmap_components.data.layouts import CHANNEL_LAYOUTS, EXTENSION, check_layout, parse_file_name
from medmap_components.data.study_files import StudyFiles, group_studies
from medmap_components.modalities import MODALITIES

__all__ = ["channel_studies", "recognise_studies", "studies_in_folder"]

MSD_CHANNELS = ("flair", "t1", "t1ce", "t2")
"""Channel order of MSD Task01, as its ``dataset.json`` (release 2.0) names it."""

_MSD_NAME = re.compile(r"^BRATS_\d+$", re.IGNORECASE)


def studies_in_folder(
    folder: Path, paths: Sequence[Path], layout: str | None = None
) -> tuple[list[StudyFiles], list[Path]]:
    """The studies of one folder, by names and by the ``dataset.json`` of the folder or the one above.

    Args:
        folder: the folder.
        paths: NIfTI files in it.
        layout: key of the only layout that is taken into account; None (the default): all of them.

    Returns:
        The studies, and the files that no name makes sense of.

    Raises:
        ValueError: for an unknown layout, a ``dataset.json`` that makes no sense, or numbered files without one.
    """
    chosen = check_layout(layout)
    if is_label_folder(folder):
        return [], []
    if layout in CHANNEL_LAYOUTS:
        named = find_dataset_json(folder) if layout == "msd" else None
        images = [path for path in paths if parse_file_name(path).role is None]
        if named is not None:
            return [named.channel_study(path) for path in images], []
        return [_of_channels(path, str(layout)) for path in images], []
    if chosen is not None and chosen.suffixes:
        return group_studies(paths, layout)
    described = find_dataset_json(folder)
    numbered: list[StudyFiles] = []
    if described is not None:
        numbered, paths = described.numbered_studies(paths)
    else:
        _refuse_unnamed_numbers(paths, required=layout == "nnunet")
    if layout == "nnunet":
        return numbered, list(paths)
    found, others = group_studies(paths)
    if described is not None and folder.name.startswith("images"):
        return [*numbered, *found, *(described.channel_study(path) for path in others)], []
    return [*numbered, *found], others


def _of_channels(path: Path, layout: str) -> StudyFiles:
    study = StudyFiles(EXTENSION.sub("", path.name), path.parent, channels=path, layout=layout)
    if layout == "msd":
        study.channel_names, study.label_scheme = MSD_CHANNELS, "msd"
    return study


def _refuse_unnamed_numbers(paths: Iterable[Path], required: bool) -> None:
    """Refuses the files of nnU-Net's raw data where nothing names their numbers."""
    numbers: dict[str, list[Path]] = {}
    for path in paths:
        stem, number = numbered_channel(path)
        if number is not None and number < 2 * len(MODALITIES) and parse_file_name(path).role is None:
            numbers.setdefault(stem, []).append(path)
    unnamed = [files for files in numbers.values() if required or len(files) > 1]
    if unnamed:
        raise ValueError(
            f"{unnamed[0][0]} and others look like nnU-Net's raw data, whose numbers are named in a dataset.json, but "
            f"{unnamed[0][0].parent} and the folder above hold none; put it there. Numbers are never guessed."
        )


def channel_studies(paths: Iterable[Path]) -> tuple[list[StudyFiles], list[Path]]:
    """Files that hold four channels, as studies in the order of ``MODALITIES``, and the files that do not.

    Only headers are read.

    Args:
        paths: files that no name makes sense of.

    Raises:
        ValueError: for a file that looks like MSD by its name or folder, but has no ``dataset.json``: there the
            channels come in another order.
    """
    studies, others = [], []
    for path in paths:
        if _number_of_channels(path) == len(MODALITIES):
            refuse_ambiguous_channels(path)
            studies.append(_of_channels(path, "channels"))
        else:
            others.append(path)
    return studies, others


def refuse_ambiguous_channels(path: Path) -> None:
    """Refuses a four-channel file that may be MSD's, whose order of channels is not ours.

    Args:
        path: a file with four channels and without a ``dataset.json``.

    Raises:
        ValueError: when its name (``BRATS_001``) or its folder (``imagesTr``, ``imagesTs``) is one of MSD.
    """
    if path.parent.name in ("imagesTr", "imagesTs") or _MSD_NAME.match(EXTENSION.sub("", path.name)):
        raise ValueError(
            f"{path} looks like MSD Task01, but there is no dataset.json to name its channels, and their order differs "
            f"from ours. Put the data set's dataset.json beside the folder, or give layout 'msd' ({MSD_CHANNELS}) or "
            f"'channels' ({MODALITIES})."
        )


def _number_of_channels(path: Path) -> int:
    try:
        header_shape = nib.load(path).shape  # type: ignore[attr-defined]
    except (OSError, ValueError, EOFError, ImageFileError):
        return 0  # the loader says what is wrong with it
    shape = tuple(side for axis, side in enumerate(header_shape) if axis < 3 or side > 1)
    return int(shape[3]) if len(shape) == 4 else 0


def recognise_studies(
    folders: Mapping[Path, Sequence[Path]], layout: str | None = None
) -> tuple[list[StudyFiles], dict[Path, list[Path]]]:
    """The studies in many folders, with the labels of other folders put to them.

    Args:
        folders: NIfTI files by folder.
        layout: as in :func:`studies_in_folder`.

    Returns:
        The studies; and the files that belong to none, by folder, for folders without any study.

    Raises:
        ValueError: as :func:`studies_in_folder`.
    """
    studies: list[StudyFiles] = []
    strays: dict[Path, list[Path]] = {}
    for folder, paths in folders.items():
        found, others = studies_in_folder(folder, paths, layout)
        if layout is None:
            more, others = channel_studies(others)
            found = _with_own_labels([*found, *more])
        studies += found
        if others and not found:
            strays[folder] = others
    return _with_derived_labels(studies), strays


def _with_own_labels(studies: list[StudyFiles]) -> list[StudyFiles]:
    """Puts ``case_seg.nii.gz`` to the four channels of ``case.nii.gz`` in the same folder."""
    bare = {study.stem.casefold(): study for study in studies if not study.has_images}
    for study in studies:
        if study.channels is not None and study.stem.casefold() in bare:
            study.labels += bare.pop(study.stem.casefold()).labels
    return [study for study in studies if study.has_images or study.stem.casefold() in bare]


def _with_derived_labels(studies: list[StudyFiles]) -> list[StudyFiles]:
    """Puts the segmentations below BIDS' ``derivatives`` to their subjects and sessions."""
    derived = [study for study in studies if study.layout == "bids" and not study.has_images]
    for label in derived:
        same = [study for study in studies if study.layout == "bids" and study.has_images and _same(study, label)]
        if len(same) == 1:
            same[0].labels += label.labels
            label.labels = []
    return [study for study in studies if study.has_images or study.labels]


def _same(study: StudyFiles, label: StudyFiles) -> bool:
    first, second = study.stem.casefold(), label.stem.casefold()
    return first == second or first.split("_space-")[0] == second.split("_space-")[0]
