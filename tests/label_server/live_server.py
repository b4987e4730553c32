"""A MONAI Label server that runs for real on loopback, and what its clients ask of it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import requests

REPOSITORY = Path(__file__).resolve().parents[2]
START_S, ANSWER_S, TRAINING_S = 900, 900, 1800  # a busy machine is not a failure


class LiveServer:
    """Starts ``scripts/serve_label.py`` and talks to it.

    Args:
        arguments: of the script, without host and port.
        log: file for what the server prints.
    """

    def __init__(self, arguments: list[object], log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        command = [sys.executable, REPOSITORY / "scripts" / "serve_label.py", *arguments, "--port", port]
        with log.open("w") as output:
            self.process = subprocess.Popen([*map(str, command)], stdout=output, stderr=subprocess.STDOUT)

    def wait_until_ready(self) -> None:
        """Returns when the server answers."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                requests.get(f"{self.url}/info/", timeout=ANSWER_S).raise_for_status()
                return
            except requests.ConnectionError:
                time.sleep(0.5)
        raise TimeoutError(self.log.read_text())

    def stop(self) -> None:
        """Ends the server."""
        self.process.terminate()
        self.process.wait(timeout=60)

    def ask(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        """One request; whatever comes back."""
        return requests.request(method, f"{self.url}{path}", timeout=ANSWER_S, **kwargs)

    def info(self) -> dict[str, Any]:
        return self.ask("GET", "/info/").json()

    def segment(self, model: str, study: str, output: str = "image", **params: Any) -> requests.Response:
        """Asks for a segmentation; further arguments are what a client's options say."""
        path = f"/infer/{model}?image={study}&output={output}"
        return self.ask("POST", path, files={"params": (None, json.dumps(params))})

    def label_map(self, folder: Path, model: str, study: str, **params: Any) -> nib.Nifti1Image:
        """The segmentation of a study, as a file that a client would have saved."""
        response = self.segment(model, study, **params)
        assert response.status_code == 200, response.text
        file = folder / f"{model}_{study}.nii.gz"
        file.write_bytes(response.content)
        return nib.load(file)

    def train(self, model: str, **request: Any) -> dict[str, Any]:
        """Trains to the end and gives what the server says of it."""
        self.ask("POST", f"/train/{model}", json=request).raise_for_status()
        deadline = time.monotonic() + TRAINING_S
        while time.monotonic() < deadline:
            task = self.ask("GET", "/train/").json()
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                return task
            time.sleep(1)
        raise TimeoutError(self.log.read_text())
