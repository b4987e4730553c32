"""Segmenting from Python what the command segments from a folder: the same config, the same steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import DataLoader, MetaTensor
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from torch import Tensor

from medmap_components.engines.knobs import refuse_unknown_keys
from medmap_components.engines.studies import RESULT_KEY, StudyDataset, StudyError
from medmap_components.modalities import MODALITIES

__all__ = ["Segmentation", "Segmenter", "segment"]

_NOT_HERE = ("SaveImaged", "EngineProgressBar", "set_determinism")
"""What the command does and a call does not: write files, draw a bar, seed the caller's random numbers."""


class Segmentation(NamedTuple):
    """The segmentation of one study.

    Attributes:
        labels: uint8 ``(X, Y, Z)`` in the study's own grid: 0 background, 1 necrotic core, 2 oedema, 3 enhancing tumour
            (4 with ``et_label=4``).
        affine: ``(4, 4)`` of that grid, mm, RAS, as nibabel has it.
        info: ``modalities_used``, ``modalities_missing``, ``volumes_ml`` of the regions, ``spacing_mm``, ``warnings``
            and ``cleanup``.
        probabilities: float32 ``(3, X, Y, Z)`` of whole tumour, tumour core and enhancing tumour; None unless
            ``save_probabilities=True``.
    """

    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    info: dict[str, Any]
    probabilities: NDArray[np.float32] | None = None


class Segmenter:
    """A bundle's network with all that goes before and after it, made once for many studies.

    Everything comes from the bundle's ``inference.json``: what is set there holds here, and ``settings`` override it as
    options of the command line do.

    Args:
        bundle: the bundle's folder.
        checkpoint: a file of weights. None (the default) takes those that the command would take.
        modalities: use these only. None (the default) uses all that a study has.
        settings: settings of ``inference.json``, such as ``overlap``, ``et_label``, ``save_probabilities``, ``device``.

    Raises:
        FileNotFoundError: when ``bundle`` has no ``configs/inference.json``.
        ValueError: for a setting that it does not have.
    """

    def __init__(
        self,
        bundle: str | Path,
        checkpoint: str | Path | None = None,
        modalities: Sequence[str] | None = None,
        **settings: Any,
    ) -> None:
        file = Path(bundle) / "configs" / "inference.json"
        if not file.is_file():
            raise FileNotFoundError(f"bundle {bundle} has no configs/inference.json; give the folder of a bundle.")
        config = ConfigParser.load_config_file(file)
        refuse_unknown_keys((key.split("#")[0] for key in settings), config)
        given = {"checkpoint": None if checkpoint is None else str(checkpoint), "modalities": modalities}
        overrides = {
            "handlers": _without(config["handlers"]),
            "initialize": _without(config["initialize"]),
            "postprocessing#transforms": _without(config["postprocessing"]["transforms"]),
            "report": None,
            "dataset#data": [{"study": "none yet", "image": ""}],
            **{key: value for key, value in given.items() if value is not None},
            **settings,
        }
        workflow = ConfigWorkflow(config_file=str(file), workflow_type="infer", logging_file=False, **overrides)
        workflow.initialize()
        self._evaluator = workflow.parser.get_parsed_content("evaluator")
        self._preprocessing = workflow.parser.get_parsed_content("preprocessing")

    def __call__(
        self,
        study: Any,
        affine: NDArray[Any] | None = None,
        spacing: Sequence[float] | None = None,
        name: str | None = None,
    ) -> Segmentation:
        """Segments one study; see :func:`segment` for the arguments.

        Args:
            study: files or arrays.
            affine: the grid of arrays.
            spacing: the voxel size of arrays, where there is no affine.
            name: the study's name, for messages.
        """
        item = {"image": _in_memory(study, affine, spacing), "study": name} if name else {
            "image": _in_memory(study, affine, spacing)
        }  # fmt: skip
        self._evaluator.data_loader = DataLoader(StudyDataset([item], self._preprocessing), batch_size=1)
        try:
            self._evaluator.run()
        except StudyError as error:
            raise ValueError(next(iter(error.failures.values()))) from None
        output = self._evaluator.state.output[0]
        labels, probabilities = output["pred"], output.get("probabilities")
        return Segmentation(
            np.asarray(labels[0].cpu(), dtype=np.uint8),
            np.asarray(labels.affine, dtype=np.float64),
            output[RESULT_KEY],
            None if probabilities is None else np.asarray(probabilities.cpu(), dtype=np.float32),
        )


def segment(
    study: Any,
    bundle: str | Path,
    checkpoint: str | Path | None = None,
    modalities: Sequence[str] | None = None,
    affine: NDArray[Any] | None = None,
    spacing: Sequence[float] | None = None,
    **settings: Any,
) -> Segmentation:
    """Segments one study, as ``python -m monai.bundle run --config_file <bundle>/configs/inference.json`` does.

    For many studies make a :class:`Segmenter`, which keeps the network.

    Args:
        study: what ``medmap_components.transforms.LoadStudy`` reads (a folder, a path, ``{modality: path}``), or
            voxels: ``{modality: array (X, Y, Z)}``, an array ``(4, X, Y, Z)`` in the order FLAIR, T1ce, T1, T2, or the
            same as images of nibabel. Entries of None, and channels of zeros, are missing modalities.
        bundle: the bundle's folder.
        checkpoint: a file of weights. None (the default) takes those that the command would take.
        modalities: use these only. None (the default) uses all that the study has.
        affine: of arrays, ``(4, 4)``, mm, RAS, as nibabel has it. MetaTensors and images of nibabel bring their own.
        spacing: voxel size of arrays in mm, where there is no affine: the axes are then taken to run to the patient's
            left, back and head, as in BraTS.
        settings: settings of the bundle's ``inference.json``, such as ``overlap``, ``et_label``,
            ``save_probabilities``, ``layout``, ``device``.

    Returns:
        The label map in the study's own grid, its affine, what there is to say about it, and the probabilities if
        asked for.

    Raises:
        FileNotFoundError: when a file, the bundle or its weights do not exist.
        ValueError: for a study that can't be segmented, arrays without affine and spacing, or an unknown setting.

    Example::

        from medmap_components import segment

        result = segment({"flair": "a_FLAIR.nii.gz", "t2": "a_T2.nii.gz"}, bundle="bundles/mmformer_pmix")
        print(result.info["volumes_ml"], result.info["warnings"])
    """
    return Segmenter(bundle, checkpoint, modalities, **settings)(study, affine, spacing)


def _without(parts: Sequence[Any]) -> list[Any]:
    return [part for part in parts if not any(name in str(part) for name in _NOT_HERE)]


def _in_memory(study: Any, affine: NDArray[Any] | None, spacing: Sequence[float] | None) -> Any:
    """The study with arrays turned into images of nibabel; paths stay as they are."""
    if isinstance(study, Mapping):
        return {
            str(modality).lower(): _image(value, affine, spacing) if _is_array(value) else value
            for modality, value in study.items()
        }
    if not _is_array(study):
        return study
    if study.ndim != 4 or study.shape[0] != len(MODALITIES):
        raise ValueError(
            f"study is an array of the shape {tuple(study.shape)}; give (4, X, Y, Z) in the order {list(MODALITIES)}, "
            "or a mapping of modality to array (X, Y, Z)."
        )
    return {
        modality: _image(channel, affine if affine is not None else _affine_of(study), spacing)
        for modality, channel in zip(MODALITIES, study, strict=True)
    }


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | Tensor)


def _affine_of(array: Any) -> NDArray[Any] | None:
    return np.asarray(array.affine, dtype=float) if isinstance(array, MetaTensor) else None


def _image(array: Any, affine: NDArray[Any] | None, spacing: Sequence[float] | None) -> SpatialImage:
    affine = _affine_of(array) if affine is None else np.asarray(affine, dtype=float)
    if affine is None and spacing is not None:
        if len(spacing) != 3 or min(spacing) <= 0:
            raise ValueError(f"spacing must be three positive sizes in mm, got {list(spacing)}.")
        affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    if affine is None:
        raise ValueError("arrays do not say where their voxels are: give affine (4 x 4, mm, RAS) or spacing (mm).")
    voxels = array.detach().cpu().numpy() if isinstance(array, Tensor) else array
    # nibabel takes no bool and no 64-bit integers; the loader computes in float32 anyway
    return nib.Nifti1Image(voxels.astype(np.float32), affine)  # type: ignore[no-untyped-call]
