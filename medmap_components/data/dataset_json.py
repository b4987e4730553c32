"""Data sets that describe themselves in a ``dataset.json``: MSD and nnU-Net's raw data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from medmap_components.data.label_codes import scheme_of_names
from medmap_components.data.layouts import EXTENSION, role_of_sequence
from medmap_components.data.study_files import StudyFiles

__all__ = ["DatasetJson", "find_dataset_json", "is_label_folder", "numbered_channel"]

FILE_NAME = "dataset.json"
_NUMBERED = re.compile(r"^(?P<stem>.+)_(?P<number>\d{4})$")


@dataclass(frozen=True)
class DatasetJson:
    """What a ``dataset.json`` says about the images beside it.

    Attributes:
        path: the file.
        roles: the modality of each channel, None for one that is none of ours.
        label_scheme: how the labels are coded, as :func:`scheme_of_names` writes it; None where the names don't tell.
    """

    path: Path
    roles: tuple[str | None, ...]
    label_scheme: str | None

    def numbered_studies(self, paths: Iterable[Path]) -> tuple[list[StudyFiles], list[Path]]:
        """Studies of nnU-Net's raw data, ``<study>_0000.nii.gz`` and so on, and the files that are not named so."""
        studies: dict[str, StudyFiles] = {}
        others = []
        for path in paths:
            stem, number = numbered_channel(path)
            if number is None or number >= len(self.roles):
                others.append(path)
                continue
            study = studies.setdefault(stem, self._study(stem, path, "nnunet"))
            role = self.roles[number]
            if role is not None:
                study.modalities.setdefault(role, []).append(path)
        return list(studies.values()), others

    def channel_study(self, path: Path) -> StudyFiles:
        """The study of a file that holds all channels, as MSD has them."""
        study = self._study(EXTENSION.sub("", path.name), path, "msd")
        study.channels, study.channel_names = path, self.roles
        return study

    def _study(self, stem: str, path: Path, layout: str) -> StudyFiles:
        return StudyFiles(
            stem, path.parent, labels=labels_beside(path, stem), layout=layout, label_scheme=self.label_scheme
        )


def labels_beside(path: Path, stem: str) -> list[Path]:
    """The expert segmentation of an image in ``imagesTr``: the file of the same name in ``labelsTr``."""
    folder = re.sub(r"^images", "labels", path.parent.name)
    if folder == path.parent.name:
        return []
    candidates = [path.parent.parent / folder / f"{stem}{extension}" for extension in (".nii.gz", ".nii")]
    return [candidate for candidate in candidates if candidate.is_file()]


def is_label_folder(folder: Path) -> bool:
    """Whether a folder is the ``labelsTr`` beside an ``imagesTr``."""
    images = re.sub(r"^labels", "images", folder.name)
    return images != folder.name and (folder.parent / images).is_dir()


def numbered_channel(path: Path) -> tuple[str, int | None]:
    """Study and channel of a name such as ``case_0002.nii.gz``; the channel is None for any other name."""
    base = EXTENSION.sub("", path.name)
    match = _NUMBERED.match(base)
    return (match["stem"], int(match["number"])) if match else (base, None)


def find_dataset_json(folder: Path) -> DatasetJson | None:
    """The description of the images in a folder, from the folder itself or the one above; None if there is none.

    A ``dataset.json`` that names no channels describes something else and counts as none.

    Raises:
        ValueError: when the file can't be read, names no modality that is known, or names one twice.
    """
    for place in (folder, folder.absolute().parent):
        path = place / FILE_NAME
        if path.is_file():
            return _read(path, path.stat().st_mtime_ns)
    return None


@lru_cache(maxsize=64)
def _read(path: Path, _modified: int) -> DatasetJson | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read as JSON ({error}); repair it, or give layout.") from error
    channels: Any = content.get("channel_names") or content.get("modality") if isinstance(content, Mapping) else None
    if not isinstance(channels, Mapping) or not channels:
        return None
    names = [str(channels[key]) for key in sorted(channels, key=int)]
    roles = tuple(role_of_sequence(name) for name in names)
    known = [role for role in roles if role is not None]
    if not known or len(set(known)) < len(known):
        raise ValueError(
            f"{path} names the channels {names}, of which {known} are recognised; each of FLAIR, T1w, T1gd and T2w may "
            "be there once, and at least one must. Correct the names, or move other data out of this folder."
        )
    labels = content.get("labels")
    return DatasetJson(path, roles, scheme_of_names(labels) if isinstance(labels, Mapping) else None)
