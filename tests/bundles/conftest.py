"""The bundles under test, settings that make them tiny, and one tiny training run that many tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai.bundle
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parents[1] for path in REPOSITORY.glob("bundles/*/configs/metadata.json"))

# A further backbone needs a row here: the settings of its network that make it small.
TINY_NETWORKS: dict[str, dict[str, Any]] = {
    "mmformer": {
        "network_def#base_channels": 2,
        "network_def#embed_dim": 16,
        "network_def#mlp_dim": 32,
        "network_def#num_heads": 2,
    }
}
TINY_CROP = [32, 32, 32]
TINY_TRAINING: dict[str, Any] = {
    "crop_size": TINY_CROP,
    "epochs": 1,
    "batch_size": 1,
    "val_interval": 1,
    "num_workers": 0,
}
TINY_PHANTOM: dict[str, Any] = {"phantom_cases": [2, 2], "phantom_size": TINY_CROP, "phantom_spacing": 6}


def innermost(error: BaseException) -> BaseException:
    """The exception below the layers that MONAI's config parser and ``Compose`` wrap around it."""
    while str(error).startswith(("Failed to", "applying transform")) and error.__cause__ is not None:
        error = error.__cause__
    return error


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder, and ways to run it with tiny settings.

    Attributes:
        root: the folder.
        phantom_dir: where phantom cases are kept, so that they are made once.
    """

    root: Path
    phantom_dir: Path

    def config(self, name: str) -> Path:
        return self.root / "configs" / f"{name}.json"

    def read(self, name: str) -> dict[str, Any]:
        return json.loads(self.config(name).read_text(encoding="utf-8"))

    @property
    def tiny_network(self) -> dict[str, Any]:
        return TINY_NETWORKS[self.read("metadata")["backbone"]]

    def tiny_training(self, **overrides: Any) -> dict[str, Any]:
        """Overrides for a tiny run; on the phantom unless they give data."""
        tiny = {**TINY_TRAINING, **self.tiny_network}
        if not {"dataset_dir", "train#dataset#data"} & overrides.keys():
            tiny.update(TINY_PHANTOM)
            tiny["phantom_settings#folder"] = str(self.phantom_dir)
        return {**tiny, **overrides}

    def run(self, name: str, run_id: str | None = None, overlays: Sequence[Path] = (), **overrides: Any) -> None:
        """What ``python -m monai.bundle run`` does, in this process and without touching its logging.

        Raises what is at the bottom of a failure: a traceback shows that first, and MONAI's wrapping after it.
        """
        search_path = list(sys.path)
        try:
            files = [str(self.config(name)), *map(str, overlays)]
            monai.bundle.run(run_id=run_id, config_file=files, logging_file=False, **overrides)
        except RuntimeError as error:
            raise innermost(error) from None
        finally:
            sys.path[:] = search_path

    def train(self, output_dir: Path, **overrides: Any) -> Path:
        self.run("train", "training", **self.tiny_training(output_dir=str(output_dir), **overrides))
        return output_dir

    def infer(self, dataset_dir: Path, output_dir: Path, checkpoint: Path, **overrides: Any) -> Path:
        self.run(
            "inference",
            dataset_dir=str(dataset_dir),
            output_dir=str(output_dir),
            checkpoint=str(checkpoint),
            **{**self.tiny_network, **overrides},
        )
        return output_dir

    def workflow(self, name: str, kind: str, **overrides: Any) -> monai.bundle.ConfigWorkflow:
        return monai.bundle.ConfigWorkflow(
            config_file=str(self.config(name)), workflow_type=kind, logging_file=False, **overrides
        )


@pytest.fixture(scope="session", params=BUNDLES, ids=lambda root: root.name)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Each bundle of the repository in turn."""
    return Bundle(request.param, tmp_path_factory.getbasetemp() / "phantom")


@pytest.fixture(scope="session")
def trained(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a tiny training run on the phantom, one epoch. Not to be changed."""
    return bundle.train(tmp_path_factory.mktemp(f"trained_{bundle.root.name}"))


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def command_line() -> Command:
    """Runs ``python <arguments>`` in a folder, with the repository importable, and returns what came out."""

    def run(*arguments: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def as_options() -> Callable[[dict[str, Any]], list[str]]:
    """Turns overrides into options of the command line."""

    def convert(overrides: dict[str, Any]) -> list[str]:
        return [part for key, value in overrides.items() for part in (f"--{key}", str(value))]

    return convert
