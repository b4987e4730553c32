"""How a data set codes its labels, from what the data set itself says: names, look-up tables, values."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

__all__ = ["scheme_of_names", "scheme_of_table", "scheme_of_values"]

_NAMES = (
    # (pattern of the label's name, class); the first that fits counts, so "non-enhancing" is not "enhancing"
    (r"background|unlabell?ed|outside", 0),
    (r"resection|cavity|\brc\b", 0),
    (r"o?edema|snfh|hyperintens|\bed\b", 2),
    (r"non[- _]?enhanc|necro|\bncr\b|\bnet\b|\bnetc\b", 1),
    (r"enhanc|\bet\b|\bgd\b", 3),
)
_REGIONS = ((r"whole|\bwt\b", 2), (r"core|\btc\b", 1), (r"enhanc|\bet\b", 3))


def scheme_of_names(labels: Mapping[Any, Any]) -> str | None:
    """The label scheme of a table of names and values, as ``medmap_components.transforms.BratsLabels`` takes it.

    Args:
        labels: ``{"1": "edema"}`` as MSD writes it, ``{"edema": 1}`` as nnU-Net writes it, or nnU-Net's regions
            ``{"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}``.

    Returns:
        Such as ``"0=0,1=2,2=1,3=3"``, value to class; None where a name is not understood.
    """
    pairs = [(name, value) if isinstance(value, int | list) else (value, name) for name, value in labels.items()]
    table: dict[int, int] = {0: 0}
    for name, value in sorted(pairs, key=lambda pair: -len(pair[1]) if isinstance(pair[1], list) else 0):
        is_region = any(isinstance(other, list) for _, other in pairs)
        found = _class_of(str(name), (_NAMES[0], *_REGIONS) if is_region else _NAMES)
        if found is None:
            return None
        # larger regions first: what belongs to a smaller one as well is overwritten by that
        for one in value if isinstance(value, list) else [value]:
            table[int(one)] = found
    return ",".join(f"{value}={table[value]}" for value in sorted(table))


def _class_of(name: str, patterns: Iterable[tuple[str, int]]) -> int | None:
    words = name.lower().replace("_", " ")
    return next((label for pattern, label in patterns if re.search(pattern, words)), None)


def scheme_of_table(segmentation: Path) -> str | None:
    """The label scheme of a BIDS segmentation, from its look-up table.

    Args:
        segmentation: ``<name>_dseg.nii.gz``; the table is ``<name>_dseg.tsv`` beside it, or a ``dseg.tsv`` in one of
            the three folders above (columns ``index`` and ``name``).

    Returns:
        As :func:`scheme_of_names`; None without a table, or where a name in it is not understood.
    """
    own = segmentation.with_name(re.sub(r"\.nii(\.gz)?$", ".tsv", segmentation.name))
    places = [own, *(folder / "dseg.tsv" for folder in segmentation.absolute().parents[:4])]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    try:
        return scheme_of_names({int(row["index"]): row["name"] for row in rows})
    except (KeyError, TypeError, ValueError):
        return None


def scheme_of_values(segmentations: Iterable[Path]) -> str | None:
    """The label scheme told by the values that occur in a whole data set.

    Args:
        segmentations: all label files of the data set; each is read.

    Returns:
        ``"brats2018"`` where 4 occurs and 3 does not; None otherwise: {1, 2, 3} may be BraTS 2023 or MSD, which differ
        in 1 and 2.
    """
    values: set[int] = set()
    for path in segmentations:
        voxels = np.asanyarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
        values.update(np.unique(np.round(voxels)).astype(int).tolist())
    return "brats2018" if 4 in values and values <= {0, 1, 2, 4} else None
