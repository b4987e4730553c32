"""A MONAI Label app that serves the bundles in its folder ``model``, and leaves out those that are broken.

Started by ``scripts/monai_label.sh``. MONAI Label's own app for bundles works too, but stops altogether when one bundle
cannot be built, asks the network for a list of models, and serves random weights where those of a bundle do not fit.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from medmap_datastore import StudyDatastore
from medmap_tasks import MedmapInferTask, MedmapTrainTask, why_left_out
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

import medmap_components

logger = logging.getLogger(__name__)

DESCRIPTION = "Segmentation of brain tumours from whichever MRI modalities a study has. Research only."


class MedmapApp(MONAILabelApp):
    """Serves the bundles in ``<app_dir>/model``.

    Args:
        app_dir: folder of this file, with the bundles in ``model``.
        studies: folder with one file per study, as ``lay_out_studies`` makes it.
        conf: what was given as ``--conf``: ``models``, names of the bundles to serve, with commas (default: all).
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        found = sorted(path for path in Path(app_dir, "model").iterdir() if _is_bundle(path))
        wanted = [name.strip() for name in conf.get("models", "").split(",") if name.strip()]
        self.bundles = [path for path in found if not wanted or path.name in wanted]
        self.left_out: dict[str, str] = {}
        super().__init__(app_dir, studies, conf, name="MedMAP bundles", version=medmap_components.__version__)
        reasons = [f"Left out: {name}: {reason}" for name, reason in self.left_out.items()]
        self.description = " ".join([DESCRIPTION, *reasons])

    def init_datastore(self) -> Datastore:
        """The studies; with links, whatever is behind them is safe from being changed or removed."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return StudyDatastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """One task for each bundle that works; why others do not is logged, and said in ``/info``."""
        tasks: dict[str, InferTask] = {}
        for bundle in self.bundles:
            search_path = list(sys.path)
            try:
                tasks[bundle.name] = MedmapInferTask(str(bundle), self.conf)
            except Exception as error:  # whatever is wrong with a bundle must not stop the others
                self.left_out[bundle.name] = why_left_out(bundle, error)
                logger.error("The bundle %s is left out: %s", bundle.name, self.left_out[bundle.name])
            finally:
                sys.path[:] = search_path
        return tasks

    def init_trainers(self) -> dict[str, TrainTask]:
        """One task for each bundle that is served and can be trained."""
        served = {name: MedmapTrainTask(task.bundle_path, self.conf) for name, task in self._infers.items()}
        return {name: task for name, task in served.items() if task.is_valid()}

    def init_strategies(self) -> dict[str, Strategy]:
        """Which study to label next."""
        return {"random": Random(), "first": First()}


def _is_bundle(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")
