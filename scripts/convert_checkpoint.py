"""Turn a checkpoint of mmFormer's or RFNet's authors into a bundle that segments with it.

Example:
    python scripts/convert_checkpoint.py model_last.pth --output_dir converted/mmformer
    python -m monai.bundle run --config_file converted/mmformer/configs/inference.json --dataset_dir FOLDER

The new bundle is a copy of bundles/<backbone>_base with the weights in models/model.pt, and with the preprocessing, the
blending of windows and (mmFormer) the token layout that these weights need as its defaults. docs/conversion.json says
where every tensor went. The file is read as tensors and plain values only; one that needs more is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from build_bundles import as_json

from medmap_components.engines import save_atomically
from medmap_components.networks.published_checkpoints import (
    PUBLISHED_BACKBONES,
    Checkpoint,
    Conversion,
    convert_checkpoint,
    read_checkpoint,
)

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
NOT_COPIED = ("models", "output", "eval", "weights.md", "__pycache__")
WINDOW = {"rfnet": 80}
"""The published window of a network whose weights do not tell it."""
PUBLISHED_SETTINGS = {"preprocessing_scheme": "published", "blending": "published"}
ABOUT_WEIGHTS = re.compile(r"\*\*Not trained on patients\.\*\*.*?\n(?=\n)", re.DOTALL)
UNTRAINED = "Not trained on patients."
NO_SCORES = "the bundle has not been trained on a data set of patients."
"""What a bundle's README and metadata say that is not true of the new one."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="file of the authors, such as model_last.pth")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the new bundle; must not exist")
    parser.add_argument(
        "--backbone", choices=list(PUBLISHED_BACKBONES), help="whose checkpoint it is (default: recognised)"
    )
    parser.add_argument("--bundle", type=Path, help="bundle to copy (default: bundles/<backbone>_base)")
    return parser.parse_args(arguments)


def settings_of(conversion: Conversion) -> dict[str, Any]:
    """What a bundle's configs must say for converted weights, key to value.

    Keys without a ``#`` are knobs at the top of ``train.json`` and ``inference.json``.
    """
    arguments = dict(conversion.arguments)
    side = arguments.pop("img_size", WINDOW.get(conversion.backbone))
    settings = {**PUBLISHED_SETTINGS, "crop_size": [side] * 3}
    del arguments["num_classes"]
    knobs = (
        {"token_layout": "token_layout"} if conversion.backbone == "mmformer" else {"base_channels": "base_channels"}
    )
    for name, value in arguments.items():
        settings[knobs.get(name, f"network_def#{name}")] = value
    return settings


def configured(config: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the settings in it, in place; ``#`` leads into a section."""
    for key, value in settings.items():
        *sections, name = key.split("#")
        part = config
        for section in sections:
            part = part[section]
        part[name] = value
    return config


def write_bundle(conversion: Conversion, report: Mapping[str, Any], source: Path, target: Path) -> None:
    """Copies a bundle and makes the converted weights and their settings its own.

    Args:
        conversion: the weights.
        report: goes to ``docs/conversion.json``.
        source: the bundle to copy.
        target: the new folder.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns(*NOT_COPIED))
    for file in (partial / "configs").glob("*.json"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(f"bundles/{source.name}/", f"{target.as_posix()}/"), encoding="utf-8")
    for name in ("train", "inference"):
        _edit(partial / "configs" / f"{name}.json", lambda config: configured(config, report["settings"]))
    _edit(partial / "configs" / "metadata.json", lambda metadata: _described(metadata, report))
    readme = partial / "docs" / "README.md"
    text = readme.read_text(encoding="utf-8")
    said = textwrap.fill(f"**{_provenance(report)}** Research software, not a medical device.", 120) + "\n"
    text = ABOUT_WEIGHTS.sub(said, text).replace(NO_SCORES, "the weights were taken over, and not scored.")
    readme.write_text(text, encoding="utf-8")
    (partial / "docs" / "conversion.json").write_text(as_json(report), encoding="utf-8")
    save_atomically(conversion.weights, partial / "models" / "model.pt")
    partial.rename(target)


def make_report(path: Path, checkpoint: Checkpoint, conversion: Conversion) -> dict[str, Any]:
    """What was done, for ``docs/conversion.json``."""
    return {
        "checkpoint": path.name,
        "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "epoch": checkpoint.epoch,
        "published_network": PUBLISHED_BACKBONES[conversion.backbone].commit,
        "backbone": conversion.backbone,
        "settings": settings_of(conversion),
        "missing": [],
        "dropped": conversion.dropped,
        "left_in_the_file": list(checkpoint.left),
        "renamed": {ours: list(theirs) for ours, theirs in conversion.renamed.items()},
    }


def described(report: Mapping[str, Any]) -> str:
    """The report in a few lines."""
    theirs = sum(len(group) for group in report["renamed"].values())
    lines = [
        f"{report['checkpoint']}: {report['backbone']}, as in {report['published_network']}"
        + ("" if report["epoch"] is None else f", epoch {report['epoch']}"),
        f"renamed: {theirs} tensors, into {len(report['renamed'])} of ours",
        f"dropped: {len(report['dropped'])} tensors that change nothing" + _some(report["dropped"]),
        "missing: none",
        f"not needed in the file: {', '.join(report['left_in_the_file']) or 'nothing'}",
        "set in train.json and inference.json: "
        + ", ".join(f"{key}={json.dumps(value)}" for key, value in report["settings"].items()),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts as the command line asks; returns the exit code."""
    parsed = parse_arguments(arguments)
    try:
        if parsed.output_dir.exists():
            raise ValueError(f"{parsed.output_dir} exists already; give another --output_dir or remove it.")
        checkpoint = read_checkpoint(parsed.checkpoint)
        conversion = convert_checkpoint(checkpoint, parsed.backbone)
        source = parsed.bundle or BUNDLES / f"{conversion.backbone}_base"
        _check_source(source, conversion.backbone)
        report = make_report(parsed.checkpoint, checkpoint, conversion)
        write_bundle(conversion, report, source, parsed.output_dir)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(described(report))
    print(f"bundle: {parsed.output_dir}; docs/conversion.json says where every tensor went")
    print("The weights stay under the terms of their authors.")
    return 0


def _check_source(source: Path, backbone: str) -> None:
    file = source / "configs" / "metadata.json"
    if not file.is_file():
        raise FileNotFoundError(f"{source} is no bundle: it has no configs/metadata.json.")
    metadata = json.loads(file.read_text(encoding="utf-8"))
    if (metadata.get("backbone"), metadata.get("anchor")) != (backbone, "base"):
        raise ValueError(
            f"{source} is {metadata.get('backbone')} with the anchor {metadata.get('anchor')!r}; the checkpoint is of "
            f"{backbone} and has no anchor: give a copy of bundles/{backbone}_base."
        )


def _described(metadata: dict[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of the new bundle."""
    metadata["name"] += ", weights of its authors"
    metadata["description"] = metadata["description"].replace(UNTRAINED, _provenance(report))
    metadata["image_classes"] = (
        "four channels: FLAIR, T1ce, T1, T2, z-scored over the brain of all modalities together, background -mean/std, "
        "0 where a modality is missing"
    )
    for part in (
        *metadata["network_data_format"]["inputs"].values(),
        *metadata["network_data_format"]["outputs"].values(),
    ):
        part["spatial_shape"] = report["settings"]["crop_size"]
    return metadata


def _provenance(report: Mapping[str, Any]) -> str:
    return (
        f"The weights were converted from {report['checkpoint']} (SHA-256 {report['checkpoint_sha256'][:16]}...), a "
        f"checkpoint of {report['published_network']}, and stay under the terms of its authors; conversion.json has "
        "the details."
    )


def _edit(file: Path, change: Any) -> None:
    file.write_text(as_json(change(json.loads(file.read_text(encoding="utf-8")))), encoding="utf-8")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f" ({shown})" if names else ""


if __name__ == "__main__":
    sys.exit(main())
