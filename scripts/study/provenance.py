"""What a run's numbers come from: the code, the packages, the device."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CODE = ("bundles", "medmap_components", "scripts")


def code_version(repository: Path) -> str:
    """The commit, with "+changes" where the code differs from it; "unknown" outside of a git repository."""
    commit = _git(repository, "rev-parse", "HEAD")
    if not commit:
        return "unknown"
    changed = _git(repository, "status", "--porcelain", "--untracked-files=no", "--", *CODE)
    return commit + ("+changes" if changed else "")


def _git(repository: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@lru_cache
def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for name in ("torch", "monai", "pytorch-ignite", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


@lru_cache
def device_name(visible: str | None) -> str:
    """The GPU that a run is given, or the processor.

    Args:
        visible: the value of ``CUDA_VISIBLE_DEVICES`` for the run; None or empty for the CPU.
    """
    if not visible:
        return f"CPU {platform.processor() or platform.machine()}"
    query = ["nvidia-smi", f"--id={visible}", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"GPU {visible}"


def file_hash(*paths: Path) -> str:
    """SHA-256 of the files' contents, one after the other; empty where one is not there."""
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
