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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parents[1] for path in REPOSITORY.glob("bundles/*/configs/metadata.json"))

# The bundle whose behaviour stands for that of its family, or of all.
FIRST = REPOSITORY / "bundles" / "mmformer_pmix"
OTHER_FAMILIES = [REPOSITORY / "bundles" / name for name in ("kdnet_pmix", "acn_pmix")]
OVERLAYS = REPOSITORY / "tests" / "data"


def overlay(name: str) -> dict[str, Any]:
    """The settings in a file of tests/data; none where it is absent."""
    path = OVERLAYS / f"{name}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {key: value for key, value in content.items() if key != "_desc_"}


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
    def backbone(self) -> str:
        return self.root.name.rpartition("_")[0]

    @property
    def anchor(self) -> str:
        return self.root.name.rpartition("_")[2]

    @property
    def tiny_network(self) -> dict[str, Any]:
        """Settings that make the network small, in training and at inference."""
        return overlay(f"tiny_{self.backbone}")

    def tiny_training(self, **overrides: Any) -> dict[str, Any]:
        """Overrides for a tiny run, on phantom cases that all tests share unless data are given."""
        tiny = {**overlay("tiny"), **self.tiny_network, **overlay(f"tiny_{self.backbone}_training")}
        return {**tiny, "phantom_settings#folder": str(self.phantom_dir), **overrides}

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
            **{"report_pictures": False, **self.tiny_network, **overrides},
        )
        return output_dir

    def workflow(self, name: str, kind: str, **overrides: Any) -> monai.bundle.ConfigWorkflow:
        return monai.bundle.ConfigWorkflow(
            config_file=str(self.config(name)), workflow_type=kind, logging_file=False, **overrides
        )


CHOICES = {
    "every": BUNDLES,
    "one of each backbone": [root for root in BUNDLES if root.name.endswith("_pmix")],
    "one of each family": [FIRST, *OTHER_FAMILIES],
    "one of each other family": OTHER_FAMILIES,
    "distillation": [root for root in BUNDLES if root.name == "kdnet_pmix"],
    "first": [FIRST],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of ``bundle`` runs with the bundles that the marker ``bundles`` chooses, with the first one without it."""
    if "bundle" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("bundles")
        roots = CHOICES[marker.args[0] if marker else "first"]
        metafunc.parametrize("bundle", roots, indirect=True, ids=[root.name for root in roots], scope="session")


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the repository; which ones is said by the marker ``bundles``."""
    return Bundle(request.param, tmp_path_factory.getbasetemp() / "phantom")


@pytest.fixture(scope="session")
def trained(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a tiny training run on the phantom, one epoch. Not to be changed."""
    return bundle.train(tmp_path_factory.mktemp(f"trained_{bundle.root.name}"))


@pytest.fixture(scope="session")
def logged_curves() -> Callable[[Path], dict[str, list[float]]]:
    """Reads the curves in a TensorBoard folder: name to values."""

    def read(folder: Path) -> dict[str, list[float]]:
        curves: dict[str, list[float]] = {}
        for file in sorted(folder.glob("events.*")):
            events = EventAccumulator(str(file)).Reload()
            for tag in events.Tags()["scalars"]:
                curves.setdefault(tag, []).extend(event.value for event in events.Scalars(tag))
        return curves

    return read


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
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def as_options() -> Callable[[dict[str, Any]], list[str]]:
    """Turns overrides into options of the command line."""

    def convert(overrides: dict[str, Any]) -> list[str]:
        return [part for key, value in overrides.items() for part in (f"--{key}", str(value))]

    return convert
