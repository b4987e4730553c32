"""The built-in data set: phantom cases as a sequence of data items, made on disk when they are first asked for."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, overload

from tqdm import tqdm

from medmap_components.data.phantom.anatomy import check_grid
from medmap_components.data.phantom.generate import write_phantom_case
from medmap_components.data.phantom.parameters import CONTRAST_SOURCES, GENERATOR_VERSION
from medmap_components.modalities import MODALITIES

__all__ = ["PhantomStudies"]

logger = logging.getLogger("medmap_components")

SECTIONS = ("training", "validation")
"""What a data set is split into; each has its own range of seeds."""

SEEDS_PER_SECTION = 500_000
"""Cases that a section can have before its seeds would meet those of the next."""

_announced: set[str] = set()


class PhantomStudies(Sequence[dict[str, Any]]):
    """Synthetic phantom studies as data items, for training without any data of one's own.

    Nothing is written when the object is made. Item ``i`` is made on disk when it is first asked for (about a second at
    96^3), and read from there ever after; several processes and threads may ask at once. The first object in a process
    warns loudly that this is no patient data.

    Args:
        folder: where the cases go, in a sub-folder named after the settings, so that others are never mixed in.
        section: "training" or "validation"; their cases never coincide.
        size: the grid in voxels, one number or three.
        spacing: voxel size, mm. The grid must cover a head: 192 mm along all axes is enough.
        num_training: number of cases in the training section.
        num_validation: number of cases in the validation section.
        seed: chooses other cases altogether.
        contrasts: "fitted" (the default) or "broad", see :func:`make_phantom_case`.

    Raises:
        ValueError: for an unknown section, or numbers out of range, or a grid that cannot hold a head.
    """

    is_phantom = True

    def __init__(
        self,
        folder: str | os.PathLike[str],
        section: str = "training",
        *,
        size: int | Sequence[int] = (96, 96, 96),
        spacing: float = 2.0,
        num_training: int = 24,
        num_validation: int = 8,
        seed: int = 0,
        contrasts: str = "fitted",
    ) -> None:
        counts = {"training": num_training, "validation": num_validation}
        if section not in SECTIONS:
            raise ValueError(f"section must be one of {list(SECTIONS)}, got {section!r}.")
        if not 0 < counts[section] <= SEEDS_PER_SECTION:
            raise ValueError(f"num_{section} must lie between 1 and {SEEDS_PER_SECTION}, got {counts[section]}.")
        if seed < 0:
            raise ValueError(f"seed must be 0 or larger, got {seed}.")
        if contrasts not in CONTRAST_SOURCES:
            raise ValueError(f"contrasts must be one of {list(CONTRAST_SOURCES)}, got {contrasts!r}.")
        self.shape: tuple[int, ...] = (size,) * 3 if isinstance(size, int) else tuple(int(side) for side in size)
        self.spacing = float(spacing)
        check_grid(self.shape, self.spacing)
        self.section = section
        self.contrasts = contrasts
        self._count = counts[section]
        self._first_seed = (seed * len(SECTIONS) + SECTIONS.index(section)) * SEEDS_PER_SECTION
        kind = "" if contrasts == "fitted" else f"_{contrasts}"
        grid = "x".join(str(side) for side in self.shape)
        self.folder = (
            Path(folder) / f"phantom_v{GENERATOR_VERSION}_{grid}_{self.spacing:g}mm_seed{seed}{kind}" / section
        ).absolute()
        self._announce()

    def _announce(self) -> None:
        if not _announced:
            logger.warning(
                "\n*** No data set was given: using the built-in SYNTHETIC PHANTOM. ***\n"
                "*** Its cases lie in %s.\n"
                "*** They show that the software works. Dice on them says nothing about patients.",
                self.folder.parent,
            )
        _announced.add(str(self.folder))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} phantom studies.")
        name = self.case_name(index % len(self))
        folder = write_phantom_case(
            self.folder,
            name,
            seed=self.case_seed(index % len(self)),
            shape=self.shape,
            spacing=self.spacing,
            contrasts=self.contrasts,
        )
        return {
            "image": {modality: str(folder / f"{name}_{modality}.nii.gz") for modality in MODALITIES},
            "label": str(folder / f"{name}_seg.nii.gz"),
            "study": name,
            "label_scheme": "brats2018",
        }

    def case_name(self, index: int) -> str:
        """The name of a study, such as ``Phantom_validation_003``."""
        return f"Phantom_{self.section}_{index:03d}"

    def case_seed(self, index: int) -> int:
        """The seed that a study is made from."""
        return self._first_seed + index

    def prepare(self, progress: bool = True, num_workers: int = 0) -> PhantomStudies:
        """Make all studies that are not on disk yet.

        Args:
            progress: whether to show a progress bar.
            num_workers: number of processes that share the work; 0 works in this one.

        Returns:
            This object, so that a configuration can write ``PhantomStudies(...).prepare()``.
        """
        bar = tqdm(total=len(self), desc=f"phantom, {self.section}", unit="case", disable=not progress)
        with bar:
            if num_workers == 0:
                for index in range(len(self)):
                    self[index]
                    bar.update()
                return self
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
                for _ in pool.map(self.__getitem__, range(len(self))):
                    bar.update()
        return self
