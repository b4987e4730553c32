"""What an evaluation's numbers depend on, recorded so that only like is compared with like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from medmap_components.inferers import SubsetSlidingWindowInferer
from medmap_components.metrics.scores import Conventions
from medmap_components.metrics.subset_tables import CaseScore

__all__ = ["RunIdentity", "make_protocol", "protocol_differences", "read_protocol", "write_protocol"]


_HASHED: dict[str, str] = {
    "references_sha256": "the references of some studies differ in their numbers of voxels",
    "situations_sha256": "some studies showed other modalities in some subsets",
}


class RunIdentity(NamedTuple):
    """Which weights were evaluated.

    Attributes:
        bundle: name.
        seed: that they were trained with; None where it is not known.
        checkpoint: their file; None where it is not known.
        settings: how images were prepared for them and computed with, name to value; recorded as it is.
    """

    bundle: str
    seed: int | None = None
    checkpoint: str | None = None
    settings: Mapping[str, Any] = MappingProxyType({})

    def title(self) -> str:
        """For headings."""
        return self.bundle if self.seed is None else f"{self.bundle}, seed {self.seed}"


def make_protocol(
    identity: RunIdentity,
    inferer: SubsetSlidingWindowInferer,
    conventions: Conventions,
    cases: Sequence[CaseScore],
    references: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """The content of ``protocol.json``.

    Args:
        identity: what was evaluated.
        inferer: how it was run over the windows.
        conventions: of the metrics.
        cases: the scores, for which study was scored in which situation.
        references: study to voxels per class of its reference.

    Returns:
        ``"run"``, which may differ between evaluations that are compared; ``"protocol"``, which may not; ``"cases"``.
    """
    overlap = inferer.overlap if isinstance(inferer.overlap, Sequence) else [float(inferer.overlap)] * 3
    window = np.broadcast_to(np.asarray(inferer.roi_size), 3).tolist()
    checkpoint = Path(identity.checkpoint) if identity.checkpoint else None
    return {
        "run": {
            "bundle": identity.bundle,
            "seed": identity.seed,
            "checkpoint": None if checkpoint is None else str(checkpoint),
            "checkpoint_sha256": _file_hash(checkpoint) if checkpoint and checkpoint.is_file() else None,
            "window": window,
            "settings": dict(identity.settings),
            "versions": {name: version(name) for name in ("monai", "torch", "numpy")},
        },
        "protocol": {
            "subsets": [subset.name for subset in inferer.subsets],
            "overlap": [float(share) for share in overlap],
            "blending": str(inferer.blending),
            **conventions.described(),
            "num_cases": len(references),
            "cases_sha256": _text_hash(sorted(references)),
            "references_sha256": _text_hash([f"{name}:{list(references[name])}" for name in sorted(references)]),
            "situations_sha256": _text_hash(sorted(f"{case.study}:{case.subset}:{case.shown}" for case in cases)),
        },
        "cases": sorted(references),
    }


def write_protocol(path: str | Path, protocol: Mapping[str, Any]) -> None:
    """Writes ``protocol.json``."""
    Path(path).write_text(json.dumps(protocol, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_protocol(path: str | Path) -> dict[str, Any]:
    """Reads ``protocol.json``.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the output folder of an evaluation, which holds it.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict) or not {"run", "protocol", "cases"} <= content.keys():
        raise ValueError(f"{path} must hold 'run', 'protocol' and 'cases', got {str(content)[:200]}.")
    return content


def protocol_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What keeps two evaluations from being compared, in words; nothing if they can be.

    Args:
        first: content of a ``protocol.json``.
        second: content of another one.
    """
    only = [sorted(set(one["cases"]) - set(other["cases"])) for one, other in ((first, second), (second, first))]
    if any(only):
        return [
            f"cases: {len(only[0])} are only in the first {only[0][:5]}, "
            f"{len(only[1])} only in the second {only[1][:5]}"
        ]
    ours, theirs = first["protocol"], second["protocol"]
    differences = []
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            what = _HASHED.get(key, f"{ours.get(key)!r} and {theirs.get(key)!r}")
            differences.append(f"{key}: {what}")
    return differences


def _text_hash(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
