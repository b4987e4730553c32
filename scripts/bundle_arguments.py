"""Arguments that the scripts share which run bundles: which, with which weights, on what."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which bundles run, on what, and with which settings."""
    parser.add_argument("bundles", nargs="+", metavar="[NAME=]BUNDLE", help="folder of a bundle")
    parser.add_argument("--checkpoint", nargs="+", help="weights, one per bundle (default: the bundle's own)")
    parser.add_argument("--dataset_dir", help="folder of labelled studies (default: the phantom)")
    parser.add_argument("--section", default="all", help="all (default), training, validation or test")
    parser.add_argument("--output_file", type=Path, required=True, help="picture to write")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings of the config files"
    )


def check_bundle_arguments(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """Ends the program where checkpoints or settings do not fit."""
    if parsed.checkpoint and len(parsed.checkpoint) != len(parsed.bundles):
        parser.error(f"--checkpoint takes one file per bundle, got {len(parsed.checkpoint)} for {len(parsed.bundles)}")
    wrong = [setting for setting in parsed.set if "=" not in setting]
    if wrong:
        parser.error(f"--set takes KEY=VALUE, got {wrong}")


def settings_of(parsed: argparse.Namespace, index: int) -> tuple[str, str, dict[str, Any]]:
    """Name, folder and settings of the bundle at a place of the command line."""
    name, separator, folder = parsed.bundles[index].partition("=")
    if not separator:
        name, folder = Path(parsed.bundles[index]).resolve().name, parsed.bundles[index]
    settings: dict[str, Any] = {key: literal(value) for key, _, value in (pair.partition("=") for pair in parsed.set)}
    if parsed.dataset_dir is not None:
        settings |= {"dataset_dir": parsed.dataset_dir, "section": parsed.section}
    if parsed.checkpoint:
        settings["checkpoint"] = parsed.checkpoint[index]
    return name, folder, settings


def literal(value: str) -> Any:
    """A number, list or other literal where the text is one, else the text."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
