"""Where a bundle's training and validation data come from: a folder of studies, or the built-in phantom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medmap_components.data.phantom import FreshPhantoms, PhantomStudies
from medmap_components.data.studies import study_list

__all__ = ["bind_studies", "is_phantom"]


def bind_studies(
    section: str,
    dataset_dir: str | None = None,
    validation_fraction: float = 0.2,
    split_file: str | None = None,
    seed: int = 0,
    phantom: dict[str, Any] | None = None,
    label_scheme: str | None = None,
    layout: str | None = None,
) -> Sequence[dict[str, Any]]:
    """The studies of one section: those of a folder, or the built-in phantom where no folder is given.

    Nothing of the phantom is written before one of its cases is asked for.

    Args:
        section: ``"training"`` or ``"validation"``; of a folder also ``"test"`` or ``"all"``.
        dataset_dir: folder of labelled studies; None stands for the phantom.
        validation_fraction: part of the folder's studies that is held out for validation. Default: 0.2.
        split_file: JSON with the study names of ``"training"``, ``"validation"`` and, where there is one, ``"test"``;
            wins over the fraction.
        seed: seed of the split. Default: 0.
        phantom: keyword arguments of :class:`~medmap_components.data.phantom.PhantomStudies` but for the section; with
            ``"fresh": True`` training gets :class:`~medmap_components.data.phantom.FreshPhantoms`.
        label_scheme: how the folder's labels are coded, see ``find_studies``. Default: as the data set tells.
        layout: key of the folder's layout, see ``find_studies``. Default: recognised.

    Returns:
        Items with the keys ``"image"``, ``"label"``, ``"study"`` and ``"label_scheme"``.

    Raises:
        FileNotFoundError: if ``dataset_dir`` does not exist.
        ValueError: if it holds no labelled study, or if neither folder nor phantom is given.
    """
    if dataset_dir is not None:
        return study_list(
            dataset_dir=dataset_dir,
            section=section,
            validation_fraction=validation_fraction,
            split_file=split_file,
            seed=seed,
            label_scheme=label_scheme,
            layout=layout,
        )
    if phantom is None:
        raise ValueError(
            f"there is no {section} data: dataset_dir is not given, and the phantom is not to be mixed with real data; "
            f"pass --dataset_dir, or {section} studies of your own."
        )
    settings = dict(phantom)
    fresh = settings.pop("fresh", False) and section == "training"
    return (FreshPhantoms if fresh else PhantomStudies)(section=section, **settings)


def is_phantom(studies: Sequence[dict[str, Any]]) -> bool:
    """Whether studies are the built-in phantom, which decides between settings for it and the published ones.

    Args:
        studies: what a data set was bound to.
    """
    return bool(getattr(studies, "is_phantom", False))
