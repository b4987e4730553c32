"""How data sets name their files: which NIfTI belongs to which study and which modality."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from medmap_components.modalities import MODALITIES

__all__ = [
    "LABEL",
    "LAYOUTS",
    "FileName",
    "Layout",
    "StudyFiles",
    "expected_names",
    "group_studies",
    "is_nifti",
    "label_scheme_of",
    "parse_file_name",
]

LABEL = "label"
"""The role of an expert segmentation, beside the names in ``MODALITIES``."""

_EXTENSION = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_LOOKS_LIKE_LABEL = re.compile(r"seg|label", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """The naming of one family of data sets.

    Attributes:
        name: what the family is called, for messages.
        suffixes: for each modality and for ``LABEL``, the endings of the file name (lower case, without ``.nii``
            or ``.nii.gz``) that stand for it; the first one is the family's usual spelling.
        separator: what usually stands before the suffix; both ``_`` and ``-`` are read.
        label_scheme: how the family codes its labels, a name out of
            ``medmap_components.transforms.LABEL_SCHEMES``.
    """

    name: str
    suffixes: Mapping[str, tuple[str, ...]]
    separator: str
    label_scheme: str


def _layout(name: str, separator: str, label_scheme: str, **suffixes: str) -> Layout:
    table = {role: tuple(words.split()) for role, words in suffixes.items()}
    return Layout(name, MappingProxyType(table), separator, label_scheme)


LAYOUTS: tuple[Layout, ...] = (
    _layout(
        "BraTS 2018-2021", "_", "brats2018", flair="flair fla", t1ce="t1ce t1c t1gd", t1="t1", t2="t2", label="seg"
    ),
    _layout("BraTS 2023 and later", "-", "brats2023", flair="t2f", t1ce="t1c", t1="t1n", t2="t2w", label="seg"),
)
"""The layouts that are recognised. A further one is a further row."""


def _roles_by_suffix() -> dict[str, str]:
    roles: dict[str, str] = {}
    for layout in LAYOUTS:
        for role, suffixes in layout.suffixes.items():
            for suffix in suffixes:
                if roles.setdefault(suffix, role) != role:
                    raise ValueError(f"LAYOUTS gives the suffix {suffix!r} to both {roles[suffix]!r} and {role!r}.")
    return roles


_ROLES = _roles_by_suffix()
# Longest first, so that "t1ce" is never read as "t1" followed by something.
_SUFFIX = re.compile(
    r"^(?P<stem>|.*[_-])(?P<suffix>" + "|".join(sorted(map(re.escape, _ROLES), key=len, reverse=True)) + r")$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FileName:
    """What the name of a NIfTI file says.

    Attributes:
        path: the file.
        stem: the name without extension, and without the suffix and its separator where one is recognised.
        role: a name out of ``MODALITIES``, ``LABEL``, or None when the suffix is not recognised.
        suffix: the recognised suffix in lower case, or an empty string.
    """

    path: Path
    stem: str
    role: str | None = None
    suffix: str = ""


@dataclass
class StudyFiles:
    """The files of one study, found by name.

    Attributes:
        stem: what the files' names have in common; may be empty (``flair.nii.gz``).
        folder: where the files lie.
        modalities: per modality, the files that claim to be it; more than one is a mistake in the data set.
        labels: the expert segmentations; more than one is a mistake in the data set.
        suffixes: the suffixes of the modalities' files, which tell the naming.
    """

    stem: str
    folder: Path
    modalities: dict[str, list[Path]] = field(default_factory=dict)
    labels: list[Path] = field(default_factory=list)
    suffixes: set[str] = field(default_factory=set)

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


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file; hidden files (macOS leaves ``._*`` beside real ones) are not."""
    return not path.name.startswith(".") and _EXTENSION.search(path.name) is not None


def parse_file_name(path: str | Path) -> FileName:
    """Reads study and modality from a file name: the suffix after the last ``_`` or ``-``, in any case.

    Args:
        path: a NIfTI file; it need not exist.

    Returns:
        What the name says; ``role`` is None where nothing is recognised.
    """
    path = Path(path)
    base = _EXTENSION.sub("", path.name)
    match = _SUFFIX.match(base)
    if match is None:
        return FileName(path, base)
    suffix = match["suffix"].lower()
    return FileName(path, match["stem"][:-1], _ROLES[suffix], suffix)


def expected_names() -> str:
    """The recognised file names, in words, for messages."""
    rows = []
    for layout in LAYOUTS:
        words = "/".join(layout.suffixes[role][0] for role in (*MODALITIES, LABEL))
        rows.append(f"<study>{layout.separator}{{{words}}} ({layout.name})")
    return " or ".join(rows) + ", as .nii or .nii.gz"


def label_scheme_of(suffixes: Iterable[str]) -> str | None:
    """The label scheme that belongs to a naming, told by the suffixes that only one layout has.

    Args:
        suffixes: suffixes of modalities, such as ``{"t2f", "t1c"}``.

    Returns:
        The scheme's name, or None when the suffixes fit several layouts or contradict each other.
    """
    owners: Counter[str] = Counter()
    for suffix in suffixes:
        schemes = {
            layout.label_scheme
            for layout in LAYOUTS
            if any(suffix in layout.suffixes.get(modality, ()) for modality in MODALITIES)
        }
        if len(schemes) == 1:
            owners.update(schemes)
    return next(iter(owners)) if len(owners) == 1 else None


def group_studies(paths: Iterable[Path]) -> tuple[list[StudyFiles], list[Path]]:
    """Sorts the files of one folder into studies: files with the same stem belong together.

    Where the folder holds one study and that has no label file of a known name, the only other NIfTI is taken for it
    if its name speaks of a segmentation (case 355 of BraTS 2020 has ``W39_1998.09.19_Segm.nii``).

    Args:
        paths: files of one folder; what is not NIfTI is ignored.

    Returns:
        The studies that have at least one modality or label, sorted by stem, and the NIfTI files that belong to none.
    """
    studies: dict[str, StudyFiles] = {}
    others: list[Path] = []
    for name in sorted((parse_file_name(path) for path in paths if is_nifti(path)), key=lambda name: name.path.name):
        if name.role is None:
            others.append(name.path)
            continue
        study = studies.setdefault(name.stem.casefold(), StudyFiles(name.stem, name.path.parent))
        if name.role == LABEL:
            study.labels.append(name.path)
        else:
            study.modalities.setdefault(name.role, []).append(name.path)
            study.suffixes.add(name.suffix)
    found = sorted(studies.values(), key=lambda study: study.stem)
    if len(found) == 1 and not found[0].labels and len(others) == 1 and _LOOKS_LIKE_LABEL.search(others[0].name):
        found[0].labels.append(others.pop())
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
