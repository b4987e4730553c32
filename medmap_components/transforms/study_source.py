"""What a study can be read from: which file, or which volume in memory, is which modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nibabel.spatialimages import SpatialImage

from medmap_components.data.layouts import LABEL, expected_names, is_nifti, parse_file_name
from medmap_components.data.recognition import refuse_ambiguous_channels, studies_in_folder
from medmap_components.data.study_files import StudyFiles, folder_contents
from medmap_components.modalities import MODALITIES

__all__ = ["StudySource", "StudyVolumes", "Volume", "resolve_source"]

Volume = Path | SpatialImage
"""A NIfTI file, or an image of nibabel in memory."""

StudySource = str | Path | SpatialImage | Mapping[str, Any] | Sequence[str | Path | None]
"""What a study can be read from; see :class:`~medmap_components.transforms.LoadStudy`."""


class StudyVolumes(NamedTuple):
    """Where the voxels of one study are.

    Attributes:
        name: the study's name.
        modalities: one volume ``(X, Y, Z)`` per modality; empty where ``channels`` holds them all.
        channels: one volume ``(X, Y, Z, C)`` with several modalities, or None.
        channel_names: the modality of each channel, None for one that is to be passed over.
    """

    name: str
    modalities: dict[str, Volume]
    channels: Volume | None = None
    channel_names: tuple[str | None, ...] = MODALITIES


def resolve_source(source: StudySource, study: str | None = None, layout: str | None = None) -> StudyVolumes:
    """Finds the volumes of a study.

    Args:
        source: as :class:`~medmap_components.transforms.LoadStudy` takes it.
        study: the study's name; None (the default) takes it from the file names.
        layout: key of the only layout that a path or folder is read in; None (the default) recognises it.

    Raises:
        FileNotFoundError: when a path does not exist.
        ValueError: when no modality is recognised, or one several times.
    """
    if isinstance(source, SpatialImage):
        return StudyVolumes(study or "unnamed", {}, source)
    if isinstance(source, Mapping):
        return _from_channels(source, study) if "file" in source else _from_mapping(source, study)
    if not isinstance(source, str | Path):
        listed = [Path(path) for path in source if path is not None]
        return _from_list(listed, study or _common_name(listed))
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, study, layout)
    name = study or _common_name([path])
    if not path.is_file():
        raise FileNotFoundError(f"study {name!r}: {path} does not exist; give a file or the folder of one study.")
    if parse_file_name(path).role == LABEL:
        raise ValueError(
            f"study {name!r}: {path} is a segmentation by its name; give a modality or the study's folder."
        )
    return _from_file(path, study, name, layout)


def _from_channels(source: Mapping[str, Any], study: str | None) -> StudyVolumes:
    volume = source["file"] if isinstance(source["file"], SpatialImage) else Path(source["file"])
    name = study or ("unnamed" if isinstance(volume, SpatialImage) else _common_name([volume]))
    names = tuple(source.get("channels", MODALITIES))
    known = [modality for modality in names if modality is not None]
    if not known or len(set(known)) < len(known) or not set(known) <= set(MODALITIES):
        raise ValueError(
            f"study {name!r}: channels is {list(names)}; name each out of {list(MODALITIES)} at most once."
        )
    return StudyVolumes(name, {}, volume, names)


def _from_mapping(source: Mapping[str, Any], study: str | None) -> StudyVolumes:
    volumes: dict[str, Volume] = {
        str(modality).lower(): volume if isinstance(volume, SpatialImage) else Path(volume)
        for modality, volume in source.items()
        if volume is not None
    }
    name = study or _common_name([volume for volume in volumes.values() if isinstance(volume, Path)])
    unknown = sorted(set(volumes) - set(MODALITIES))
    if unknown or not volumes:
        problem = f"names the unknown modalities {unknown}" if unknown else "has no readable modality: it names no file"
        raise ValueError(f"study {name!r} {problem}; map at least one of {list(MODALITIES)} to a file.")
    return StudyVolumes(name, {modality: volumes[modality] for modality in MODALITIES if modality in volumes})


def _from_list(paths: Sequence[Path], study: str) -> StudyVolumes:
    roles = [parse_file_name(path).role for path in paths]
    if len(paths) == len(MODALITIES) and not any(roles):
        return StudyVolumes(study, dict(zip(MODALITIES, paths, strict=True)))
    listed = [str(path) for path in paths]
    unknown = [str(path) for path, role in zip(paths, roles, strict=True) if role not in MODALITIES]
    if unknown or not paths:
        raise ValueError(
            f"study {study!r} has no readable modality in {unknown or listed}: expected {expected_names()}, "
            "or exactly four files in the order flair, t1ce, t1, t2, or a mapping of modality to file."
        )
    doubled = [role for role in MODALITIES if roles.count(role) > 1]
    if doubled:
        raise ValueError(f"study {study!r} has several files for {doubled} in {listed}; keep one of each.")
    files = dict(zip((str(role) for role in roles), paths, strict=True))
    return StudyVolumes(study, {modality: files[modality] for modality in MODALITIES if modality in files})


def _from_folder(folder: Path, study: str | None, layout: str | None) -> StudyVolumes:
    contents = sorted(folder.iterdir())
    groups, others = studies_in_folder(folder, [path for path in contents if is_nifti(path)], layout)
    groups = [group for group in groups if group.has_images]
    if len(groups) == 1:
        return _volumes_of(groups[0], study)
    name = study or folder.absolute().name
    if groups:
        raise ValueError(
            f"study {name!r}: the folder {folder} holds files of {len(groups)} studies, "
            f"{[group.name for group in groups]}; give one modality's path, or a mapping of modality to file."
        )
    if len(others) == 1:
        refuse_ambiguous_channels(others[0])
        return StudyVolumes(study or parse_file_name(others[0]).stem, {}, others[0])
    raise ValueError(
        f"study {name!r} has no readable modality: expected {expected_names()} in {folder}, "
        f"found {folder_contents(contents)}; rename the files, or give a mapping of modality to file."
    )


def _from_file(path: Path, study: str | None, name: str, layout: str | None) -> StudyVolumes:
    """The study that a file belongs to: its siblings by name, or the file alone with all channels."""
    neighbours = [other for other in path.parent.iterdir() if is_nifti(other)]
    groups, _ = studies_in_folder(path.parent, neighbours, layout)
    for group in groups:
        if path == group.channels or path in [file for files in group.modalities.values() for file in files]:
            return _volumes_of(group, study)
    refuse_ambiguous_channels(path)
    return StudyVolumes(name, {}, path)


def _volumes_of(study: StudyFiles, name: str | None) -> StudyVolumes:
    if study.channels is not None:
        return StudyVolumes(name or study.name, {}, study.channels, study.channel_names)
    return StudyVolumes(name or study.name, dict(study.unique_modalities()))


def _common_name(paths: Sequence[Path]) -> str:
    """The name of the study that the first path belongs to."""
    if not paths:
        return "unnamed"
    return parse_file_name(paths[0]).stem or paths[0].absolute().parent.name
