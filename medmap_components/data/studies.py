"""Lists of studies from a folder."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmap_components.data.label_codes import scheme_of_table, scheme_of_values
from medmap_components.data.layouts import LAYOUTS, check_layout, expected_names, label_scheme_of
from medmap_components.data.recognition import recognise_studies
from medmap_components.data.splits import SECTIONS, TEST, read_split, split_names
from medmap_components.data.study_files import StudyFiles, folder_contents, nifti_by_folder
from medmap_components.modalities import MODALITIES

__all__ = ["StudyItem", "describe_studies", "find_studies", "study_list"]

StudyItem = dict[str, Any]
"""A study as MONAI's datasets take it: ``{"image": source, "study": name}``, where the source is ``{modality: path}``
or, for a file of several channels, ``{"file": path, "channels": [modality, ...]}``. For training there are also
``"label": path`` and ``"label_scheme": name``, for inference ``"layout": key``."""

_UNRECOGNISED = "unrecognised"


def find_studies(
    dataset_dir: str | Path, labels: bool = True, label_scheme: str | None = None, layout: str | None = None
) -> list[StudyItem]:
    """All studies in a folder and the folders below it.

    Studies may lie in folders of their own, nested in any way, or together in one folder: files of one folder whose
    names differ only in the suffix are one study. The layouts of ``LAYOUTS`` are told apart by names and by
    ``dataset.json``, and may be mixed. Missing files are missing modalities. Hidden files are ignored.
    A study is named after its files; where two folders hold the same name, the path below ``dataset_dir`` is put in
    front of it.

    Args:
        dataset_dir: where to look.
        labels: True (the default), for training and evaluation: only studies with an expert segmentation, and
            anything unreadable is left out with a warning. False, for inference: every study, without its label; a
            folder with images none of which is recognised becomes an item that the loader refuses by name, so that a
            run over many studies reports it and goes on.
        label_scheme: how the labels are coded, a name out of ``medmap_components.transforms.LABEL_SCHEMES``. None
            (the default) tells it by what the data set says (``dataset.json``, ``_dseg.tsv``), by the naming of the
            files, or by the values in all of the labels together.
        layout: key of the only layout that is read, one of ``LAYOUTS``. None (the default) recognises them.

    Returns:
        One item per study, sorted by name.

    Raises:
        FileNotFoundError: when ``dataset_dir`` is not a folder.
        ValueError: when ``dataset_dir`` is None or holds no study; for an unknown ``layout``, or files that could
            belong to several; and with ``labels`` also for two files of one modality, for studies none of which has a
            label, and where nothing tells the label scheme.
    """
    if dataset_dir is None:
        raise ValueError("dataset_dir is not given; pass --dataset_dir with the folder that holds the studies.")
    root = Path(dataset_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset_dir {root} is not a folder; give the folder that holds the studies.")
    check_layout(layout)
    studies, strays = recognise_studies(nifti_by_folder(_walk(root)), layout)
    readable = [study for study in studies if study.has_images]
    names = _unique_names(readable, root)
    if labels:
        unreadable = [str(folder) for folder in strays]
        unreadable += [str(study.folder / study.name) for study in studies if not study.has_images]
        _warn_left_out(unreadable, f"no modality is recognised (expected {expected_names()})")
        items = _labelled_items(readable, names, label_scheme, root)
    else:
        items = [_image_item(study, name) for study, name in zip(readable, names, strict=True)]
        items += _unreadable_items(root, studies, strays, set(names))
    if not items:
        raise ValueError(
            f"dataset_dir {root} holds no study{f' of the layout {layout!r}' if layout else ''}: expected "
            f"{expected_names()}, in one folder per study or all in one; "
            f"found {folder_contents(sorted(root.iterdir()))}."
        )
    return sorted(items, key=lambda item: str(item["study"]))


def study_list(
    dataset_dir: str | Path,
    section: str = "all",
    validation_fraction: float = 0.2,
    seed: int = 0,
    labels: bool = True,
    split_file: str | Path | None = None,
    label_scheme: str | None = None,
    layout: str | None = None,
) -> list[StudyItem]:
    """The studies of a folder that belong to training, to validation, or all of them.

    The split depends on names and seed alone, not on the order in which a file system lists them; studies of one
    patient stay together.

    Args:
        dataset_dir: as in :func:`find_studies`.
        section: ``"training"``, ``"validation"``, ``"test"`` (only with a split file that has it) or ``"all"`` (the
            default).
        validation_fraction: share of the studies for validation, from 0 to below 1. Default 0.2.
        seed: another seed, another split. Default 0.
        labels: as in :func:`find_studies`, default True.
        split_file: JSON ``{"training": [names], "validation": [names]}``, also with ``"test"``, that replaces the drawn
            split. None (the default): draw it.
        label_scheme: as in :func:`find_studies`, default by the data set itself.
        layout: as in :func:`find_studies`, default by recognition.

    Returns:
        One item per study, sorted by name. Validation is empty only where ``validation_fraction`` is 0 or the split
        file says so.

    Raises:
        FileNotFoundError: when the folder or the split file does not exist.
        ValueError: for an unknown section, a folder or split file that does not fit, or a single patient, which can't
            be split.
    """
    if section not in (*SECTIONS, TEST, "all"):
        raise ValueError(f"section must be 'training', 'validation', 'test' or 'all', got {section!r}.")
    items = find_studies(dataset_dir, labels, label_scheme, layout)
    if section == "all":
        return items
    names = [str(item["study"]) for item in items]
    split = read_split(split_file, names) if split_file else split_names(names, validation_fraction, seed)
    if section not in split:
        raise ValueError(
            f"section 'test' is not there: {f'split_file {split_file} has' if split_file else 'a drawn split has'} "
            "training and validation only; give a split_file that names a test part."
        )
    if section == "validation" and not split[section] and validation_fraction > 0 and not split_file:
        raise ValueError(
            f"dataset_dir {dataset_dir} holds a single patient, {names}, so nothing is left for validation; "
            "add patients, or set validation_fraction to 0."
        )
    chosen = set(split[section])
    return [item for item in items if item["study"] in chosen]


def _walk(root: Path) -> Iterator[Path]:
    """All files below a folder, links to folders followed once, hidden folders left out."""
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in seen else sorted(name for name in below if not name.startswith("."))
        if real not in seen:
            seen.add(real)
            yield from (Path(folder) / name for name in sorted(files))


def _unique_names(studies: Sequence[StudyFiles], root: Path) -> list[str]:
    counts = Counter(study.name for study in studies)
    names = []
    for study in studies:
        above = list(study.folder.relative_to(root).parts)
        if counts[study.name] > 1:
            names.append("_".join([*above, study.stem] if study.stem else above) or study.name)
        else:
            names.append(study.name)
    doubled = sorted(name for name, count in Counter(names).items() if count > 1)
    if doubled:
        raise ValueError(f"dataset_dir {root} holds several studies with the names {doubled}; rename their files.")
    return names


def _source(study: StudyFiles) -> dict[str, Any]:
    """What the loader reads a study from."""
    if study.channels is not None:
        return {"file": str(study.channels), "channels": list(study.channel_names)}
    return {modality: str(path) for modality, path in study.unique_modalities().items()}


def _image_item(study: StudyFiles, name: str) -> StudyItem:
    item = {"study": name, "layout": study.layout}
    try:
        return {"image": _source(study), **item}
    except ValueError:
        # The loader is given all of them and refuses the study by name, without stopping the others.
        return {"image": [str(path) for paths in study.modalities.values() for path in paths], **item}


def _labelled_items(
    studies: Sequence[StudyFiles], names: Sequence[str], scheme: str | None, root: Path
) -> list[StudyItem]:
    labelled, unlabelled = [], []
    for study, name in zip(studies, names, strict=True):
        label = study.unique_label()
        if label is None:
            unlabelled.append(name)
        else:
            labelled.append((study, name, label))
    schemes = _label_schemes([study for study, _, _ in labelled], scheme)
    items = [
        {"image": _source(study), "label": str(label), "study": name, "label_scheme": study_scheme}
        for (study, name, label), study_scheme in zip(labelled, schemes, strict=True)
    ]
    if unlabelled and not items:
        raise ValueError(
            f"dataset_dir {root} holds {len(unlabelled)} studies, {unlabelled[:10]}, but none has a label; "
            f"expected {expected_names()}."
        )
    _warn_left_out(unlabelled, "there is no label file (_seg or -seg)")
    return items


def _label_schemes(studies: Sequence[StudyFiles], given: str | None) -> list[str]:
    """How each study's label is coded: as the data set says, as the naming says, or as all values together say."""
    common = label_scheme_of({suffix for study in studies for suffix in study.suffixes if study.layout != "bids"})
    schemes = [given or study.label_scheme or _scheme_of_layout(study) for study in studies]
    schemes = [
        scheme or (common if study.suffixes and study.layout != "bids" else None)
        for scheme, study in zip(schemes, studies, strict=True)
    ]
    unknown = [study for study, scheme in zip(studies, schemes, strict=True) if scheme is None]
    by_values = scheme_of_values(path for study in unknown for path in study.labels)
    if unknown and by_values is None:
        study = unknown[0]
        raise ValueError(
            f"the files of study {study.name!r}, with the suffixes {sorted(study.suffixes)}, do not tell how its label "
            "is coded; set label_scheme to 'brats2018' (enhancing tumour is 4), 'brats2023' (it is 3), 'brats2024' (4 "
            "is the resection cavity) or 'msd' (1 oedema, 2 non-enhancing, 3 enhancing)."
        )
    return [scheme or str(by_values) for scheme in schemes]


def _scheme_of_layout(study: StudyFiles) -> str | None:
    if study.layout == "bids":
        return scheme_of_table(study.labels[0])
    return next((layout.label_scheme for layout in LAYOUTS if layout.key == study.layout), None)


def describe_studies(items: Sequence[Mapping[str, Any]], shown: int = 3) -> str:
    """What was recognised as what, one line per layout, for the log before the work starts.

    Args:
        items: studies as :func:`find_studies` gives them for inference.
        shown: names given as examples per line. Default 3.
    """
    titles = {"": "by names that fit several layouts", _UNRECOGNISED: "NOT RECOGNISED"}
    titles |= {layout.key: layout.name for layout in LAYOUTS}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(str(item.get("layout", "")), []).append(item)
    lines = []
    for key, group in sorted(groups.items()):
        names = ", ".join(str(item["study"]) for item in group[:shown])
        more = f" and {len(group) - shown} more" if len(group) > shown else ""
        channels = sorted({", ".join(map(str, item["image"]["channels"])) for item in group if "file" in item["image"]})
        order = f" (channels: {'; '.join(channels)})" if channels else ""
        incomplete = sum("file" not in item["image"] and len(item["image"]) < len(MODALITIES) for item in group)
        missing = f", {incomplete} of them incomplete" if incomplete and key != _UNRECOGNISED else ""
        lines.append(f"  {len(group)} x {titles.get(key, key)}{order}{missing}: {names}{more}")
    return "\n".join(lines)


def _unreadable_items(
    root: Path, studies: Sequence[StudyFiles], strays: dict[Path, list[Path]], taken: set[str]
) -> list[StudyItem]:
    """Items for images that no name makes sense of; a single file may still hold four channels."""
    items: dict[str, StudyItem] = {}
    for study in studies:
        if not study.has_images and study.name not in taken:
            items[study.name] = {"image": str(study.labels[0]), "study": study.name}
    for folder, files in strays.items():
        if folder == root:
            items.update({_stem(path): {"image": str(path), "study": _stem(path)} for path in files})
        else:
            name = "_".join(folder.relative_to(root).parts)
            items[name] = {"image": str(files[0] if len(files) == 1 else folder), "study": name}
    return [{**item, "layout": _UNRECOGNISED} for name, item in items.items() if name not in taken]


def _stem(path: Path) -> str:
    return path.name[: path.name.lower().rindex(".nii")]


def _warn_left_out(names: Sequence[str], reason: str) -> None:
    if names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        warnings.warn(f"left out {len(names)} studies, {list(names[:10])}{more}: {reason}.", stacklevel=3)
