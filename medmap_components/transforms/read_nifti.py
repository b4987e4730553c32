"""Reading one NIfTI file, with every way in which that fails told in words."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data.utils import correct_nifti_header_if_necessary
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

__all__ = ["affines_agree", "describe_affine", "read_nifti", "read_volume"]

AFFINE_TOLERANCE = 1e-3
"""Largest difference, in mm, between entries of two affines that are taken to be the same."""

_READ_ERRORS = (EOFError, OSError, ValueError, zlib.error, ImageFileError, HeaderDataError, WrapStructError)


def read_nifti(path: Path, study: str) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Voxels and affine of a NIfTI file, as MONAI's NibabelReader gives them; axes of length 1 behind the third go.

    Unlike there, the checksum of a compressed file is verified: nibabel stops reading before it, and a damaged file
    that still unpacks would give wrong voxels without a word.

    Args:
        path: the file.
        study: name of the study, for messages.

    Returns:
        The array ``(X, Y, Z)`` or ``(X, Y, Z, C)`` in the file's own number type (float64 where the file has a scale),
        and the affine ``(4, 4)`` in MONAI's convention (RAS, mm).

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it can't be read, holds no numbers, or its affine is unusable.
    """
    if not path.is_file():
        raise FileNotFoundError(f"study {study!r}: the file {path} does not exist; correct the path or leave it out.")
    try:
        image = correct_nifti_header_if_necessary(_open(path))  # type: ignore[no-untyped-call]
        return _voxels(image, f"study {study!r}: {path}")
    except _READ_ERRORS as error:
        if isinstance(error, _UnusableError):
            raise
        raise ValueError(
            f"study {study!r}: {path} can't be read as NIfTI, it is truncated or damaged "
            f"({type(error).__name__}: {error}); copy or download the file again."
        ) from error


def read_volume(volume: Path | SpatialImage, study: str) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """As :func:`read_nifti`, of a file or of an image in memory."""
    if isinstance(volume, SpatialImage):
        return _voxels(volume, f"study {study!r}: an image in memory")
    return read_nifti(volume, study)


class _UnusableError(ValueError):
    """A file that can be read, but not used."""


def _voxels(image: Any, what: str) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    data = np.asanyarray(image.dataobj)
    if data.dtype.kind not in "iufb":
        raise _UnusableError(f"{what} holds {data.dtype} instead of plain numbers; convert the file.")
    data = data.squeeze(tuple(axis for axis in range(3, data.ndim) if data.shape[axis] == 1))
    affine = np.array(image.affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise _UnusableError(
            f"{what} has the unusable affine {describe_affine(affine)}; repair the header "
            "(sform or qform), for example by converting the study again."
        )
    return data, affine


def _open(path: Path) -> Any:
    if path.suffix.lower() != ".gz":
        return nib.load(path)
    content = gzip.decompress(path.read_bytes())
    # The header's first number is its own size: 540 bytes in NIfTI-2, in either byte order.
    is_nifti2 = content[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
    return (nib.Nifti2Image if is_nifti2 else nib.Nifti1Image).from_bytes(content)


def affines_agree(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether two affines place voxels alike, within ``AFFINE_TOLERANCE``."""
    return first.shape == second.shape and bool(np.allclose(first, second, rtol=0.0, atol=AFFINE_TOLERANCE))


def describe_affine(affine: NDArray[np.float64]) -> str:
    """The affine's entries on one line, rounded, for messages."""
    return str(np.round(affine, 4).tolist())
