"""How data sets name their files: what a NIfTI's name says about study and modality."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from medmap_components.modalities import MODALITIES

__all__ = [
    "LABEL",
    "LAYOUTS",
    "FileName",
    "Layout",
    "check_layout",
    "expected_names",
    "is_nifti",
    "label_scheme_of",
    "parse_file_name",
    "role_of_sequence",
]

LABEL = "label"
"""The role of an expert segmentation, beside the names in ``MODALITIES``."""

EXTENSION = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """The naming of one family of data sets.

    Attributes:
        key: what ``layout`` is set to in order to read a folder in this naming and in no other.
        name: what the family is called, for messages.
        suffixes: for each modality and for ``LABEL``, the endings of the file name (lower case, without ``.nii``
            or ``.nii.gz``) that stand for it; the first one is the family's usual spelling. Empty for the families
            that number their channels and describe them in ``dataset.json``.
        separator: what usually stands before the suffix; both ``_`` and ``-`` are read.
        label_scheme: how the family codes its labels, a name out of
            ``medmap_components.transforms.LABEL_SCHEMES``; None where only the data set itself tells.
    """

    key: str
    name: str
    suffixes: Mapping[str, tuple[str, ...]]
    separator: str = "_"
    label_scheme: str | None = None


def _layout(key: str, name: str, separator: str = "_", label_scheme: str | None = None, **suffixes: str) -> Layout:
    table = {role: tuple(words.split()) for role, words in suffixes.items()}
    return Layout(key, name, MappingProxyType(table), separator, label_scheme)


_BRATS_2023 = {"flair": "t2f", "t1ce": "t1c", "t1": "t1n", "t2": "t2w", "label": "seg"}

LAYOUTS: tuple[Layout, ...] = (
    _layout(
        *("brats2018", "BraTS 2018-2021", "_", "brats2018"),
        **{"flair": "flair fla", "t1ce": "t1ce t1c t1gd", "t1": "t1", "t2": "t2", "label": "seg"},
    ),
    _layout("brats2023", "BraTS 2023", "-", "brats2023", **_BRATS_2023),
    _layout("brats2024", "BraTS 2024", "-", "brats2024", **_BRATS_2023),
    _layout("bids", "BIDS", flair="flair", t1ce="ce-gadolinium_t1w", t1="t1w", t2="t2w", label="dseg"),
    _layout("msd", "MSD Task01", label_scheme="msd"),
    _layout("nnunet", "nnU-Net raw"),
    _layout("channels", "one file with four channels"),
)
"""The layouts that are recognised."""

CHANNEL_LAYOUTS = ("msd", "channels")
"""Layouts in which one file holds all modalities."""

_BY_KEY = {layout.key: layout for layout in LAYOUTS}
_SIMILAR = {"brats2024": "brats2023"}  # same names; told apart by the study's name alone


def check_layout(layout: str | None) -> Layout | None:
    """The layout of a key; None for None.

    Raises:
        ValueError: for an unknown key.
    """
    if layout is not None and layout not in _BY_KEY:
        raise ValueError(f"layout {layout!r} is unknown; choose among {list(_BY_KEY)}, or leave it out.")
    return None if layout is None else _BY_KEY[layout]


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
_BIDS_NAME = re.compile(
    r"^(?P<stem>sub-[a-z0-9]+(?:_ses-[a-z0-9]+)?)(?P<entities>(?:_[a-z0-9]+-[^_]+)*)_(?P<suffix>flair|t1w|t2w|dseg)$",
    re.IGNORECASE,
)

_SEQUENCES = {
    "flair": "flair fla t2f t2flair",
    "t1ce": "t1ce t1c t1gd t1wgd t1wce t1post t1contrast t1wcontrast t1cew cet1 cet1w gdt1 t1km",
    "t1": "t1 t1w t1n t1native t1pre",
    "t2": "t2 t2w",
}
_ROLE_OF_SEQUENCE = {word: role for role, words in _SEQUENCES.items() for word in words.split()}


def role_of_sequence(name: str) -> str | None:
    """The modality that a sequence's name in a ``dataset.json`` stands for, such as ``"T1-Gd"``; None if unknown."""
    return _ROLE_OF_SEQUENCE.get(re.sub(r"[^a-z0-9]", "", name.lower().replace("weighted", "w")))


@dataclass(frozen=True)
class FileName:
    """What the name of a NIfTI file says.

    Attributes:
        path: the file.
        stem: the name without extension, and without the suffix and its separator where one is recognised.
        role: a name out of ``MODALITIES``, ``LABEL``, or None when the suffix is not recognised.
        suffix: the recognised suffix in lower case, or an empty string.
        bids: whether the name is one of BIDS.
    """

    path: Path
    stem: str
    role: str | None = None
    suffix: str = ""
    bids: bool = False


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file; hidden files (macOS leaves ``._*`` beside real ones) are not."""
    return not path.name.startswith(".") and EXTENSION.search(path.name) is not None


def parse_file_name(path: str | Path, layout: str | None = None) -> FileName:
    """Reads study and modality from a file name: the suffix after the last ``_`` or ``-``, in any case.

    Names of BIDS (``sub-01_ses-2_ce-gadolinium_T1w``) are read by their entities: subject and session, with the space
    where it is named, make the study; a contrast agent makes a T1w image T1ce; acquisition, run and the others count
    for nothing.

    Args:
        path: a NIfTI file; it need not exist.
        layout: key of the only layout whose suffixes are taken; None (the default) takes those of all.

    Returns:
        What the name says; ``role`` is None where nothing is recognised.
    """
    path = Path(path)
    base = EXTENSION.sub("", path.name)
    bids = _BIDS_NAME.match(base) if layout in (None, "bids") else None
    if bids is not None:
        entities = dict(part.split("-", 1) for part in bids["entities"].lower().split("_")[1:])
        suffix = bids["suffix"].lower()
        role = "t1ce" if suffix == "t1w" and entities.get("ce", "none") != "none" else _ROLES[suffix]
        space = f"_space-{entities['space']}" if "space" in entities else ""
        return FileName(path, bids["stem"] + space, role, suffix, bids=True)
    match = _SUFFIX.match(base)
    if match is None or (layout is not None and not _belongs(match["suffix"].lower(), _BY_KEY[layout])):
        return FileName(path, base)
    suffix = match["suffix"].lower()
    return FileName(path, match["stem"][:-1], _ROLES[suffix], suffix)


def _belongs(suffix: str, layout: Layout) -> bool:
    return any(suffix in suffixes for suffixes in layout.suffixes.values())


def expected_names() -> str:
    """The recognised file names, in words, for messages."""
    rows = []
    for layout in LAYOUTS:
        if layout.suffixes and layout.key not in _SIMILAR:
            words = "/".join(layout.suffixes[role][0] for role in (*MODALITIES, LABEL))
            rows.append(f"<study>{layout.separator}{{{words}}} ({layout.name})")
    return " or ".join(rows) + ", as .nii or .nii.gz, or the folders of MSD Task01 or nnU-Net with their dataset.json"


def label_scheme_of(suffixes: Iterable[str]) -> str | None:
    """The label scheme that belongs to a naming, told by the suffixes that only one layout has.

    Args:
        suffixes: suffixes of modalities, such as ``{"t2f", "t1c"}``.

    Returns:
        The scheme's name, or None when the suffixes fit several layouts or contradict each other.
    """
    layout = layout_of_suffixes(suffixes)
    return layout.label_scheme if layout else None


def layout_of_suffixes(suffixes: Iterable[str]) -> Layout | None:
    """The layout that is told by the suffixes which only one has; None where they fit several or contradict."""
    owners: Counter[str] = Counter()
    for suffix in suffixes:
        layouts = [layout for layout in LAYOUTS if layout.key not in _SIMILAR and _belongs(suffix, layout)]
        telling = [layout.key for layout in layouts if layout.label_scheme] or [layout.key for layout in layouts]
        if len(telling) == 1:
            owners.update(telling)
    return _BY_KEY[next(iter(owners))] if len(owners) == 1 else None
