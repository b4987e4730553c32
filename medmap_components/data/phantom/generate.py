"""One phantom case, in memory and on disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medmap_components.data.phantom.anatomy import finish_anatomy, place_head, sample_tissues, warp_head
from medmap_components.data.phantom.appearance import acquire, draw_look_alikes, render_modalities, tissue_shares
from medmap_components.data.phantom.fields import LabelArray
from medmap_components.data.phantom.parameters import (
    BRATS_SHAPE,
    CONTRAST_SOURCES,
    GENERATOR_VERSION,
    LESION_KINDS,
    SCANNERS,
)
from medmap_components.data.phantom.tumour import grow_tumour, plan_tumour, tumour_distance
from medmap_components.modalities import MODALITIES, modality_mask

__all__ = ["PhantomCase", "make_phantom_case", "write_phantom_case"]


class PhantomCase(NamedTuple):
    """One synthetic study.

    Attributes:
        images: int16 ``(X, Y, Z)`` by modality; 0 outside of the brain, positive inside.
        label: uint8 ``(X, Y, Z)``: 0 background, 1 necrotic or non-enhancing core, 2 oedema, 4 enhancing tumour.
        affine: ``(4, 4)``, voxel to world in mm; axes run to left, posterior and superior, as in BraTS.
        info: what the case was made with: seed, kind, volumes in mL.
    """

    images: dict[str, NDArray[np.int16]]
    label: LabelArray
    affine: NDArray[np.float64]
    info: dict[str, Any]


def make_phantom_case(
    seed: int,
    shape: Sequence[int] = BRATS_SHAPE,
    spacing: float = 1.0,
    kind: str | None = None,
    contrasts: str = "fitted",
) -> PhantomCase:
    """Make one synthetic brain-tumour study in four modalities.

    The same arguments give the same case on every machine (up to the last bit of floating-point rounding, which the
    integers of the result absorb all but everywhere).

    Args:
        seed: chooses the case, 0 or larger.
        shape: the grid in voxels.
        spacing: voxel size in mm, the same along all axes. The grid must cover a head, about 152 x 193 x 155 mm.
        kind: a name in ``LESION_KINDS``: "ring", "solid", "multifocal" or "non_enhancing"; None draws one.
        contrasts: "fitted" (the default): as labelled BraTS cases have them; "broad": drawn from wide ranges that
            follow from how the sequences work, see ``BROAD_CONTRASTS``. Anatomy and tumour are the same in both.

    Returns:
        The case.

    Raises:
        ValueError: for a negative seed, unknown kind or contrasts, or a grid that cannot hold a head.
    """
    _check_arguments(seed, kind, contrasts)
    # one independent stream per part, so that a change in one part leaves the others' draws alone
    head_rng, tumour_rng, tissue_rng, scanner_rng = np.random.default_rng(seed).spawn(4)
    grid = place_head(head_rng, shape, spacing)
    matrix, sources = warp_head(head_rng, grid)
    plan = plan_tumour(tumour_rng, grid, sources, kind)
    distance = tumour_distance(tumour_rng, plan, grid, matrix, sources)
    anatomy = finish_anatomy(head_rng, sample_tissues(sources, grid.extent), grid)
    label = grow_tumour(tumour_rng, plan, grid, anatomy, distance)
    shares = tissue_shares(tissue_rng, anatomy, label, grid)
    look_alikes = draw_look_alikes(tissue_rng, anatomy, grid)
    clean_images = render_modalities(tissue_rng, shares, look_alikes, grid, contrasts)

    images = {}
    for modality in MODALITIES:
        images[modality] = np.zeros(tuple(shape), dtype=np.int16)
        image = acquire(scanner_rng, clean_images[modality], SCANNERS[modality], spacing)
        images[modality][grid.box] = image * anatomy.brain
    full_label = np.zeros(tuple(shape), dtype=np.uint8)
    full_label[grid.box] = label
    info = {
        "seed": int(seed),
        "kind": plan.kind,
        "planned_whole_tumour_ml": round(plan.whole_ml, 3),
        "planned_core_ml": round(plan.whole_ml * plan.core_fraction, 3),
        "foci": len(plan.foci),
    }
    return PhantomCase(images, full_label, _brats_affine(shape, spacing), info)


def _check_arguments(seed: int, kind: str | None, contrasts: str) -> None:
    if seed < 0:
        raise ValueError(f"seed must be 0 or larger, got {seed}.")
    if kind is not None and kind not in LESION_KINDS:
        raise ValueError(f"kind {kind!r} is unknown; choose among {list(LESION_KINDS)}, or None to draw one.")
    if contrasts not in CONTRAST_SOURCES:
        raise ValueError(f"contrasts must be one of {list(CONTRAST_SOURCES)}, got {contrasts!r}.")


def _brats_affine(shape: Sequence[int], spacing: float) -> NDArray[np.float64]:
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[1, 3] = (shape[1] - 1) * spacing
    return affine


def write_phantom_case(
    folder: str | os.PathLike[str],
    name: str,
    *,
    seed: int,
    shape: Sequence[int] = BRATS_SHAPE,
    spacing: float = 1.0,
    kind: str | None = None,
    contrasts: str = "fitted",
    modalities: Sequence[str] = MODALITIES,
    with_label: bool = True,
) -> Path:
    """Write one case in the naming of BraTS: ``<folder>/<name>/<name>_flair.nii.gz`` and so on.

    The case is written to a hidden folder beside it and then renamed, so a case is there in full or not at all, also
    when several processes write it at once. A case that is already there with the same settings is left as it is; one
    with other settings is replaced. The settings lie in ``<name>_phantom.json`` beside the images.

    Args:
        folder: where the case's own folder goes; made if it does not exist.
        name: the study's name.
        seed: see ``make_phantom_case``.
        shape: see ``make_phantom_case``.
        spacing: see ``make_phantom_case``.
        kind: see ``make_phantom_case``.
        contrasts: see ``make_phantom_case``.
        modalities: which modalities to write, to make incomplete studies.
        with_label: whether to write ``<name>_seg.nii.gz``.

    Returns:
        The case's folder.

    Raises:
        ValueError: for arguments that ``make_phantom_case`` refuses, or unknown modalities.
    """
    mask = modality_mask(modalities)
    written = [modality for modality, wanted in zip(MODALITIES, mask, strict=True) if wanted]
    settings = {
        "generator_version": GENERATOR_VERSION,
        "seed": int(seed),
        "shape": [int(size) for size in shape],
        "spacing_mm": float(spacing),
        "kind": kind,
        "files": [*written, "seg"] if with_label else written,
    }
    target = Path(folder) / name
    if contrasts != "fitted":
        settings["contrasts"] = contrasts
    if _is_complete(target, settings):
        return target
    case = make_phantom_case(seed, shape, spacing, kind, contrasts)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=target.parent))
    try:
        _save(case, scratch / name, settings)
        _move_into_place(scratch, target, settings)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _settings_file(case_folder: Path) -> Path:
    return case_folder / f"{case_folder.name}_phantom.json"


def _is_complete(case_folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a case with these settings is there with all its files."""
    try:
        stored = json.loads(_settings_file(case_folder).read_text())
    except (OSError, ValueError):
        return False
    files = [case_folder / f"{case_folder.name}_{part}.nii.gz" for part in settings["files"]]
    return bool(stored.get("settings") == settings) and all(file.is_file() for file in files)


def _save(case: PhantomCase, case_folder: Path, settings: dict[str, Any]) -> None:
    case_folder.mkdir()
    volumes: dict[str, NDArray[Any]] = {**case.images, "seg": case.label}
    for part in settings["files"]:
        image = nib.Nifti1Image(volumes[part], case.affine)  # type: ignore[no-untyped-call]
        image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
        nib.save(image, case_folder / f"{case_folder.name}_{part}.nii.gz")
    _settings_file(case_folder).write_text(json.dumps({"settings": settings, "info": case.info}, indent=2) + "\n")


def _move_into_place(scratch: Path, target: Path, settings: dict[str, Any]) -> None:
    """Rename the finished case to its name; what lay there with other settings goes away with the scratch folder."""
    for _ in range(3):
        if target.exists():
            if _is_complete(target, settings):
                return  # another process was faster
            # not found: another process has just moved it away
            with contextlib.suppress(FileNotFoundError):
                target.rename(Path(tempfile.mkdtemp(dir=scratch)) / "old")
        try:
            (scratch / target.name).rename(target)
        except OSError:
            continue  # another process has just put its case there
        return
    raise FileExistsError(f"{target} is being rewritten by other processes with other settings; use another folder.")
