"""Importing the scripts, and a small bundle with weights."""

from __future__ import annotations

import functools
import http.server
import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WEIGHTS = {"conv.weight": torch.arange(4.0)}


@pytest.fixture(scope="session")
def load_script() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module below scripts by name, as python does that runs a script there."""
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle of two configs, with weights unless told otherwise."""

    def make(name: str = "toy_pmix", version: str = "1.2.3", weights: bool = True) -> Path:
        folder = tmp_path / "made" / version / name
        contents = {
            "metadata": {"version": version},
            "train": {"crop_size": 128, "epochs": 7, "network_def": {"width": 8}},
            "inference": {"crop_size": 128, "spacing_mm": 1.0, "network_def": {"width": 8}},
        }
        (folder / "configs").mkdir(parents=True)
        (folder / "models").mkdir()
        for config, content in contents.items():
            (folder / "configs" / f"{config}.json").write_text(json.dumps(content))
        if weights:
            torch.save(WEIGHTS, folder / "models" / "model.pt")
        return folder

    return make


@pytest.fixture(scope="session")
def serve_folder() -> Iterator[Callable[[Path], str]]:
    """Serves a folder on loopback and gives its address."""
    servers = []

    def serve(folder: Path) -> str:
        handler = functools.partial(_Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Says nothing."""
