"""Write requirements.lock: the versions of requirements.txt and of all that they need, with the hashes of PyPI's files.

Example:
    pip install uv && python scripts/lock_requirements.py

It holds for Python 3.11 and later on every system. PyTorch is left out with the CUDA libraries that only it needs: a
build for CPUs alone comes from elsewhere, with other hashes. Install it first, then the rest:

    pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    pip install --no-deps --require-hashes --requirement requirements.lock
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
HEADER = """\
# Made by scripts/lock_requirements.py from requirements.txt. Install torch first, then:
#   pip install --no-deps --require-hashes --requirement requirements.lock
"""
LEFT_OUT = re.compile(r"(torch|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python_version", default="3.11", help="the oldest one (default %(default)s)")
    return parser.parse_args(arguments)


def without_torch(resolved: str) -> str:
    """The resolved requirements, each with its hashes, but those of PyTorch."""
    entries = re.findall(r"^\S.*(?:\n[ \t]+.*)*", resolved, re.MULTILINE)
    return "\n".join(entry for entry in entries if not LEFT_OUT.match(entry)) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Resolve and write."""
    parsed = parse_arguments(arguments)
    options = ["--universal", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
    command = [sys.executable, "-m", "uv", "pip", "compile", "requirements.txt", *options]
    command += ["--python-version", parsed.python_version]
    resolved = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    (REPOSITORY / "requirements.lock").write_text(HEADER + without_torch(resolved), encoding="utf-8")


if __name__ == "__main__":
    main()
