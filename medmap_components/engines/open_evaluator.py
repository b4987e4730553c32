"""A bundle's own evaluation as an object, for programs that draw or measure what its network does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow
from monai.data import DataLoader, Dataset

from medmap_components.engines.subset_evaluator import SubsetEvaluator

__all__ = ["open_evaluator"]


def open_evaluator(bundle_dir: str | Path, study: str | None = None, **overrides: Any) -> SubsetEvaluator:
    """Builds the evaluator of ``train.json`` and ``evaluate.json`` with all their settings, and nothing that writes.

    Of the handlers only the one that loads the weights is kept; add those that you need and call ``run``.

    Args:
        bundle_dir: the bundle's folder.
        study: evaluate this study alone. None (the default): all of the section that the config names.
        **overrides: settings of the config files, as on the command line of ``monai.bundle``.

    Raises:
        FileNotFoundError: when the bundle lacks one of the two files, or the weights are missing.
        ValueError: for an unknown setting or study.
    """
    files = [Path(bundle_dir) / "configs" / f"{name}.json" for name in ("train", "evaluate")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} does not exist; give the folder of a bundle, such as bundles/mmformer_pmix."
            )
    load = {"_target_": "medmap_components.engines.WeightsLoader", "path": "@checkpoint", "network": "@network"}
    workflow = ConfigWorkflow(
        config_file=[str(file) for file in files],
        workflow_type="train",
        logging_file=False,
        **{"validate#handlers": [load], **overrides},
    )
    workflow.initialize()
    evaluator: SubsetEvaluator = workflow.parser.get_parsed_content("validate#evaluator")
    if study is not None:
        _keep_study(evaluator, study)
    return evaluator


def _keep_study(evaluator: SubsetEvaluator, study: str) -> None:
    dataset: Any = evaluator.data_loader.dataset  # type: ignore[union-attr]
    names: Sequence[str] = [str(dataset.data[index]["study"]) for index in range(len(dataset))]
    if study not in names:
        raise ValueError(f"study {study!r} is not among the {len(names)} studies: {names[:10]}.")
    chosen = Dataset([dataset.data[names.index(study)]], transform=dataset.transform)
    evaluator.data_loader = DataLoader(chosen, batch_size=1)
    evaluator.state.epoch_length = 1
