"""An environment without the package, and a server on the loopback interface that stands in for GitHub."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Python runs this when it starts. Whatever is asked of another host over HTTPS goes to the stand-in, by its own hooks.
TO_THE_STAND_IN = """
import os
import urllib.request

stand_in = os.environ["STAND_IN"]

class ToStandIn(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return urllib.request.urlopen(f"{stand_in}/{request.host}{request.selector}")

urllib.request.install_opener(urllib.request.build_opener(ToStandIn))

import requests.adapters

send = requests.adapters.HTTPAdapter.send

def send_to_stand_in(self, request, **options):
    request.url = request.url.replace("https://", f"{stand_in}/")
    return send(self, request, **options)

requests.adapters.HTTPAdapter.send = send_to_stand_in
"""


class Server:
    """Serves a folder on the loopback interface.

    Attributes:
        folder: what is served; a host's files lie in a folder of its name.
        url: where.
        asked: the paths that were asked for, oldest first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                asked.append(self.path)

        self.http = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(self.folder))
        )
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The stand-in, for the whole session."""
    server = Server(tmp_path_factory.mktemp("served"))
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


BarePython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def bare_python(server: Server, tmp_path_factory: pytest.TempPathFactory) -> BarePython:
    """Runs Python with all that this environment has but our package; fails the test where the command fails."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)
    here = next(folder.glob("lib/python*/site-packages"))
    # Folders that a .pth file names are searched, but .pth files in them are not read: an editable install stays out.
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    (here / "dependencies.pth").write_text("\n".join([*dependencies, "import to_the_stand_in"]) + "\n")
    # not as sitecustomize: a system's own module of that name comes first
    (here / "to_the_stand_in.py").write_text(TO_THE_STAND_IN)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"STAND_IN": server.url, "no_proxy": "127.0.0.1"}

    def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [str(folder / "bin" / "python"), "-W", "ignore", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=1800, check=False
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done

    absent = "import importlib.util, sys; sys.exit(importlib.util.find_spec('medmap_components') is not None)"
    run("-c", absent, cwd=folder)
    return run
