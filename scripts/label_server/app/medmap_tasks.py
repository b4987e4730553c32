"""What MONAI Label does with one of our bundles: segment a study, and go on training with labelled ones."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import shutil
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask

from medmap_components.engines.about_weights import copy_description
from medmap_components.engines.weights import free_name, load_strictly

__all__ = ["MedmapInferTask", "MedmapTrainTask", "why_left_out"]

logger = logging.getLogger(__name__)

NEEDED_FILES = ("configs/metadata.json", "configs/inference.json", "models/model.pt")
NOT_FOR_REQUESTS = {"_desc_", "dataset_dir", "output_dir", "resume", "start_from", "epochs"}
"""Settings of train.json that a request for training cannot change; MONAI Label sets the data and the epochs."""

LOADER = "medmap_components.engines.WeightsLoader"


class MedmapInferTask(BundleInferTask):
    """Segments with a bundle.

    Args:
        path: the bundle's folder.
        conf: the app's.

    Raises:
        FileNotFoundError: if the bundle lacks a file that it needs.
        ValueError: if its weights are those of another network.
    """

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        for name in NEEDED_FILES:
            if not Path(path, name).is_file():
                raise FileNotFoundError(f"there is no {name} in {path}; place the bundle again, with its weights")
        super().__init__(path, conf, load_strict=True)
        load_strictly(str(Path(path, "models", "model.pt")), self.network, "weights")

    def config(self) -> dict[str, Any]:
        """Options for clients; training adds files of weights to choose from."""
        files = sorted((path.name for path in Path(self.bundle_path, "models").glob("*.pt")), key=len)
        self._config["model_filename"] = files
        return dict(super().config())

    def __call__(self, request: dict[str, Any], callbacks: dict[Any, Any] | None = None) -> tuple[str | None, Any]:
        """Segments one study.

        Raises:
            HTTPException: 422 with the reason, if the study cannot be segmented.
        """
        try:
            file, result = super().__call__(request, callbacks)
        except Exception as error:
            for cause in _chain(error):
                if isinstance(cause, ValueError | FileNotFoundError):
                    raise HTTPException(422, str(cause)) from error
            raise
        return file, result


class MedmapTrainTask(BundleTrainTask):
    """Goes on training a bundle with the labelled studies of the datastore.

    The weights that come out are served from then on; those that it started from stay beside them, as
    ``models/model.1.pt`` and so on, and a request can choose them with ``model_filename``. Settings at the top of the
    bundle's train.json, such as ``crop_size`` or ``batch_size``, can be given in the request.

    Args:
        path: the bundle's folder.
        conf: the app's.
    """

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        self.request: dict[str, Any] = {}
        super().__init__(path, conf, load_strict=True)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Trains, then serves what came out.

        Raises:
            RuntimeError: if training left no weights behind.
        """
        self.request = request
        produced = Path(self.bundle_config.get_parsed_content("output_dir")) / "model.pt"
        before = _stamp(produced)
        result: dict[str, Any] = super().__call__(request, datastore)
        if _stamp(produced) == before:
            raise RuntimeError(f"training left no weights in {produced}; what went wrong stands above in the log.")
        _serve(produced, Path(self.bundle_path, "models", "model.pt"))
        return result

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[dict[str, Any]]) -> None:
        """Starts from the bundle's weights. They must fit, where MONAI Label would go on with what fits.

        ACN trains two networks of which the bundle keeps one; both start from its weights.
        """
        train_handlers[:] = [handler for handler in train_handlers if handler["_target_"] != LOADER]
        networks = [name for name in ("network", "full_path_def") if name in self.bundle_config.config]
        for name in networks if pretrained else []:
            train_handlers.insert(0, {"_target_": LOADER, "path": model_pytorch, "network": f"@{name}"})

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        settings = set(takewhile(lambda key: key != "device", self.bundle_config.config)) - NOT_FOR_REQUESTS
        overrides |= {key: value for key, value in self.request.items() if key in settings}
        # widths, voxel size and, where it belongs to the weights, crop are read off what is served
        overrides.setdefault("start_from", str(Path(self.bundle_path, "models", "model.pt")))
        return overrides


def why_left_out(bundle: Path, error: Exception) -> str:
    """Why a bundle cannot be served, and what to do about it.

    Args:
        bundle: its folder.
        error: what building it raised.
    """
    reasons = [str(cause) for cause in _chain(error)]
    missing = _missing_packages(bundle)
    if missing:
        return f"{reasons[-1]}. Install what it needs: pip install {' '.join(missing)}"
    return reasons[-1]


def _missing_packages(bundle: Path) -> list[str]:
    """Requirements in the bundle's metadata that are neither installed nor part of the bundle."""
    metadata = bundle / "configs" / "metadata.json"
    if not metadata.is_file():
        return []
    wanted = json.loads(metadata.read_text(encoding="utf-8")).get("required_packages_version", {})
    return [f"{name}=={version}" for name, version in wanted.items() if not _is_there(bundle, name)]


def _is_there(bundle: Path, package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return (bundle / package.replace("-", "_")).is_dir()
    return True


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, and what caused it, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _stamp(path: Path) -> tuple[int, int] | None:
    """Tells one version of a file from another."""
    if not path.is_file():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _serve(produced: Path, served: Path) -> None:
    """Puts new weights in the place of those that are served, which are kept. At no time is there no file."""
    kept = free_name(served)
    shutil.copy2(served, kept)
    copy_description(served, kept)
    partial = served.with_name(f".{served.name}.partial")
    shutil.copyfile(produced, partial)
    copy_description(produced, served)
    os.replace(partial, served)
    logger.info("%s now holds what was trained; the weights before that are kept as %s", served, kept)
