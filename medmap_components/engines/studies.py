"""Inference over a folder of studies in which one bad study does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.utils.enums import CommonKeys
from torch import Tensor

from medmap_components.data import describe_studies
from medmap_components.engines.mixed_precision import MissingModalityEvaluator
from medmap_components.modalities import MODALITIES, subset_name
from medmap_components.transforms import masks_of

__all__ = ["StudyDataset", "StudyError", "StudyEvaluator"]

logger = logging.getLogger(__name__)

FAILURE_KEY = "failure"
STUDY_KEY = "study"
LAYOUT_KEY = "layout"
RESULT_KEY = "result"


class Report(Protocol):
    """What :class:`StudyEvaluator` reports to; see :class:`~medmap_components.engines.StudyReport`."""

    def done(self) -> set[str]:
        """Studies that need not be done again."""

    def start(self) -> None:
        """Before the first study."""

    def add(self, study: str, layout: str, result: Mapping[str, Any], image: Tensor, labels: Tensor) -> None:
        """After a study that was segmented."""

    def add_failure(self, study: str, layout: str, reason: str) -> None:
        """After a study that was not."""

    def finish(self) -> None:
        """After the last study."""


class StudyError(SystemExit):
    """Raised after a folder was worked through, when some of its studies could not be segmented.

    It is a ``SystemExit``, so that a command ends with the list of failed studies and exit code 1, and not with a
    traceback through MONAI's config parser.

    Attributes:
        failures: study name to what was wrong with it.
    """

    def __init__(self, failures: Mapping[str, str], total: int) -> None:
        self.failures = dict(failures)
        lines = "\n".join(f"  {study}: {reason}" for study, reason in self.failures.items())
        super().__init__(f"{len(self.failures)} of {total} studies could not be segmented; the others were.\n{lines}")


class StudyDataset(Dataset):
    """MONAI's ``Dataset``, but a study that cannot be read becomes an item that says so instead of an exception.

    Args:
        data: the studies, dictionaries with the key ``"study"``; must not be empty.
        transform: what reads and prepares a study.
        report: a report whose finished studies are left out. Default: none.

    Raises:
        ValueError: if ``data`` is empty.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Any = None, report: Report | None = None) -> None:
        if len(data) == 0:
            raise ValueError("data holds no study; give a dataset_dir with at least one.")
        done = report.done() if report is not None else set()
        left = [item for item in data if item.get(STUDY_KEY) not in done]
        if len(left) < len(data):
            logger.info("%d of %d studies are done already, by the report.", len(data) - len(left), len(data))
        super().__init__(data=left, transform=transform)

    @property
    def items(self) -> Sequence[Mapping[str, Any]]:
        """The studies, before they are read."""
        items: Sequence[Mapping[str, Any]] = self.data
        return items

    def _transform(self, index: int) -> Any:
        item = self.data[index]
        study = str(item.get(STUDY_KEY, index)) if isinstance(item, Mapping) else str(index)
        try:
            return {**super()._transform(index), STUDY_KEY: study}
        except Exception as error:
            layout = item.get(LAYOUT_KEY, "") if isinstance(item, Mapping) else ""
            return {STUDY_KEY: study, LAYOUT_KEY: layout, FAILURE_KEY: root_message(error)}


class StudyEvaluator(MissingModalityEvaluator):
    """A :class:`MissingModalityEvaluator` over a :class:`StudyDataset`, one study a batch.

    The log says first what was recognised as what, and then, for each study, the modalities that it was segmented from
    ("all" where none is missing). A study that cannot be read, segmented or saved is noted and passed over. After the
    last one, :meth:`run` lists the failed ones and raises, so that the exit code of a command says so.

    Args:
        report: what is told about each study. Default: nothing.
        **kwargs: those of :class:`MissingModalityEvaluator`.
    """

    def __init__(self, report: Report | None = None, **kwargs: Any) -> None:
        self.report = report
        self.failures: dict[str, str] = {}
        self.succeeded: list[str] = []
        super().__init__(**kwargs)
        if report is not None:
            # behind the handlers: where the weights don't load, an earlier report stays as it is
            self.add_event_handler(Events.STARTED, report.start)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Works through all studies.

        Raises:
            StudyError: at the end, if some studies failed.
        """
        self.failures, self.succeeded = {}, []
        dataset = getattr(self.data_loader, "dataset", None)
        if isinstance(dataset, StudyDataset) and any(LAYOUT_KEY in item for item in dataset.items):
            logger.info("Found:\n%s", describe_studies(dataset.items))
        if isinstance(dataset, StudyDataset) and len(dataset) == 0:
            return
        super().run(global_epoch)
        if self.report is not None:
            self.report.finish()
        total = len(self.failures) + len(self.succeeded)
        if self.failures:
            raise StudyError(self.failures, total)
        logger.info("All %d studies were segmented.", total)

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Tensor]) -> dict[str, Any]:
        study = _name_of(batchdata)
        layout = str(batchdata.get(LAYOUT_KEY, [""])[0])
        if FAILURE_KEY in batchdata:
            return self._note(study, layout, str(batchdata[FAILURE_KEY][0]))
        try:
            output: dict[str, Any] = super()._iteration(engine, batchdata)
        except Exception as error:
            logger.debug("%s failed", study, exc_info=True)
            return self._note(study, layout, root_message(error))
        self.succeeded.append(study)
        logger.info("%s was segmented from %s", study, _modalities_of(batchdata))
        if self.report is not None:
            item: Mapping[str, Any] = engine.state.output[0]
            self.report.add(study, layout, item[RESULT_KEY], item[CommonKeys.IMAGE], item[CommonKeys.PRED])
        return output

    def _note(self, study: str, layout: str, reason: str) -> dict[str, Any]:
        logger.error("%s was left out: %s", study, reason)
        self.failures[study] = reason
        if self.report is not None:
            self.report.add_failure(study, layout, reason)
        return {}


def root_message(error: BaseException) -> str:
    """The message of an exception without the layers that MONAI's ``Compose`` wraps around it."""
    while str(error).startswith("applying transform") and error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _modalities_of(batchdata: Mapping[str, Any]) -> str:
    image = batchdata.get(CommonKeys.IMAGE)
    if not isinstance(image, Tensor) or image.ndim < 2 or image.shape[1] != len(MODALITIES):
        return "its image"
    return subset_name(masks_of(image)[0][0].tolist())


def _name_of(batchdata: Mapping[str, Any]) -> str:
    names = batchdata[STUDY_KEY]
    if len(names) != 1:
        raise ValueError(f"StudyEvaluator takes one study a batch, got {len(names)}: {names}; set batch_size to 1.")
    return str(names[0])
