"""Files that are there in full or not at all, whenever the program is killed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes a file under another name and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads JSON; an absent file is an empty dictionary."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a table; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads a table.

    Raises:
        FileNotFoundError: when it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the output folder of run_study.py.")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compact(content: Any) -> str:
    """Settings in one cell of a table: JSON with sorted keys."""
    return json.dumps(content, sort_keys=True, ensure_ascii=False, default=dict)
