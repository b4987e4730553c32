"""The files of a folder, sorted into studies by their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medmap_components.data.layouts import LABEL, is_nifti, layout_of_suffixes, parse_file_name
from medmap_components.modalities import MODALITIES

__all__ = ["StudyFiles", "folder_contents", "group_studies", "nifti_by_folder"]

_LOOKS_LIKE_LABEL = re.compile(r"seg|label", re.IGNORECASE)
_POST_TREATMENT = re.compile(r"^BraTS-GLI-\d{5}-1\d\d$", re.IGNORECASE)  # time points from 100 on: BraTS 2024


@dataclass
class StudyFiles:
    """The files of one study, found by name.

    Attributes:
        stem: what the files' names have in common; may be empty (``flair.nii.gz``).
        folder: where the files lie.
        modalities: per modality, the files that claim to be it; more than one is a mistake in the data set.
        labels: the expert segmentations; more than one is a mistake in the data set.
        suffixes: the suffixes of the modalities' files, which tell the naming.
        channels: one file that holds all modalities, in place of ``modalities``.
        channel_names: the modality of each of its channels, None for one that is none of them.
        layout: key of the layout, or an empty string where the names fit several.
        label_scheme: how the label is coded, where the data set itself says so.
    """

    stem: str
    folder: Path
    modalities: dict[str, list[Path]] = field(default_factory=dict)
    labels: list[Path] = field(default_factory=list)
    suffixes: set[str] = field(default_factory=set)
    channels: Path | None = None
    channel_names: tuple[str | None, ...] = MODALITIES
    layout: str = ""
    label_scheme: str | None = None

    @property
    def has_images(self) -> bool:
        """Whether there is anything to segment."""
        return bool(self.modalities) or self.channels is not None

    @property
    def name(self) -> str:
        """The study's name: the common stem, or the folder's name when the files have none."""
        return self.stem or self.folder.absolute().name

    def unique_modalities(self) -> dict[str, Path]:
        """One file per modality.

        Raises:
            ValueError: when two files claim to be the same modality.
        """
        for modality, paths in self.modalities.items():
            if len(paths) > 1:
                raise ValueError(
                    f"study {self.name!r} has {len(paths)} files for the modality {modality!r}: "
                    f"{[str(path) for path in paths]}; keep one of them."
                )
        return {name: self.modalities[name][0] for name in MODALITIES if name in self.modalities}

    def unique_label(self) -> Path | None:
        """The expert segmentation, or None when there is none.

        Raises:
            ValueError: when there are several.
        """
        if len(self.labels) > 1:
            raise ValueError(
                f"study {self.name!r} has {len(self.labels)} label files: {[str(path) for path in self.labels]}; "
                "keep one of them."
            )
        return self.labels[0] if self.labels else None


def _layout_of(study: StudyFiles, bids: bool) -> str:
    """The key of the layout that a study's names belong to, or an empty string."""
    if bids:
        return "bids"
    layout = layout_of_suffixes(study.suffixes)
    if layout is not None and layout.key == "brats2023" and _POST_TREATMENT.match(study.stem):
        return "brats2024"
    return layout.key if layout else ""


def group_studies(paths: Iterable[Path], layout: str | None = None) -> tuple[list[StudyFiles], list[Path]]:
    """Sorts the files of one folder into studies: files with the same stem belong together.

    Where the folder holds one study and that has no label file of a known name, the only other NIfTI is taken for it
    if its name speaks of a segmentation (case 355 of BraTS 2020 has ``W39_1998.09.19_Segm.nii``).

    Args:
        paths: files of one folder; what is not NIfTI is ignored.
        layout: key of the only layout whose names are read; None (the default) reads all.

    Returns:
        The studies that have at least one modality or label, sorted by stem, and the NIfTI files that belong to none.
    """
    studies: dict[str, StudyFiles] = {}
    others: list[Path] = []
    bids: set[str] = set()
    names = (parse_file_name(path, layout) for path in paths if is_nifti(path))
    for name in sorted(names, key=lambda name: name.path.name):
        if name.role is None:
            others.append(name.path)
            continue
        study = studies.setdefault(name.stem.casefold(), StudyFiles(name.stem, name.path.parent))
        if name.bids:
            bids.add(study.stem)
        if name.role == LABEL:
            study.labels.append(name.path)
        else:
            study.modalities.setdefault(name.role, []).append(name.path)
            study.suffixes.add(name.suffix)
    found = sorted(studies.values(), key=lambda study: study.stem)
    if len(found) == 1 and not found[0].labels and len(others) == 1 and _LOOKS_LIKE_LABEL.search(others[0].name):
        found[0].labels.append(others.pop())
    for study in found:
        study.layout = layout or _layout_of(study, study.stem in bids)
    return found, others


def folder_contents(files: Iterable[Path], limit: int = 6) -> str:
    """A short list of file names for messages, such as ``['a.txt', 'b.txt'] and 3 more``."""
    names = sorted(path.name for path in files)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{names[:limit]}{more}" if names else "nothing"


def nifti_by_folder(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    """The NIfTI files among ``paths``, by the folder they lie in, both sorted."""
    folders: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in sorted(paths):
        if is_nifti(path):
            folders[path.parent].append(path)
    return dict(folders)
