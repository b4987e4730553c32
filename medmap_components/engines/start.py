"""Early refusal of weights that a training cannot begin with."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["check_start"]


def check_start(path: str | os.PathLike[str] | None, output_dir: str | os.PathLike[str], resume: bool = False) -> None:
    """Makes sure that the weights that a training is to begin with are there, and still will be when they are read.

    A run that trains a teacher first reads them hours after it began.

    Args:
        path: file of the weights. None: the training begins with random ones.
        output_dir: the training's output folder, whose earlier weights are set aside when it begins.
        resume: whether it goes on with what is in that folder, so that nothing is set aside. Default False.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file lies in ``output_dir`` and would be renamed.
    """
    if path is None:
        return
    if not Path(path).is_file():
        raise FileNotFoundError(f"There are no weights at {path}; correct --start_from, or leave it out.")
    if not resume and Path(path).resolve().parent == Path(output_dir).resolve():
        raise ValueError(
            f"start_from {path} lies in output_dir, whose weights are set aside under another name when a training "
            "begins; give another --output_dir."
        )
