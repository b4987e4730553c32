"""Build every bundle of bundles/ from its base, backbone and anchor fragments, or check that they are up to date.

Examples:
    python scripts/build_bundles.py
    python scripts/build_bundles.py --check

scripts/fragments/README.md describes the fragments. MONAI merges them; the bundles need neither them nor this script.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Any

from monai.bundle import ConfigParser

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = ("train", "inference", "evaluate", "multi_gpu_train", "metadata")
FIXED_FILES = {"LICENSE": REPOSITORY / "LICENSE"}
OPEN = "???"
"""What stands in a base fragment where every backbone or anchor has to put something."""
LINE_WIDTH = 120

WEIGHTS = "weights.md"
"""What weights that are shipped in a bundle are: written by hand, as no fragment knows."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; name what differs; exit code 1 if any")
    parser.add_argument(
        "--fragments_dir", type=Path, default=REPOSITORY / "scripts" / "fragments", help="default: %(default)s"
    )
    parser.add_argument("--bundles_dir", type=Path, default=REPOSITORY / "bundles", help="default: %(default)s")
    return parser.parse_args(arguments)


def bundle_files(fragments_dir: Path, backbone: str, anchor: str) -> dict[str, str]:
    """The files of one bundle.

    Args:
        fragments_dir: folder with ``base``, ``backbones`` and ``anchors``.
        backbone: name of a backbone's fragment.
        anchor: name of an anchor's fragment.

    Returns:
        Path inside the bundle to text.

    Raises:
        ValueError: if a setting stays open, a knob has no description, a text has an unknown placeholder, or the
            changelog lacks the version.
    """
    bundle = f"{backbone}_{anchor}"
    files = [fragments_dir / "backbones" / f"{backbone}.json", fragments_dir / "anchors" / f"{anchor}.json"]
    merged = ConfigParser.load_config_files([*sorted((fragments_dir / "base").glob("*.json")), *files])
    configs = {name: {**merged.get(f"{name}_knobs", {}), **merged[name]} for name in CONFIGS}
    still_open = [f"{name}#{place}" for name in CONFIGS for place in _open_places(configs[name])]
    if still_open:
        raise ValueError(f"bundle {bundle}: no fragment sets {still_open}; set them in {files[0]}.")

    docs = merged["docs"]
    words = {key: text for key, text in docs.items() if isinstance(text, str)}
    words |= {"bundle": bundle, "backbone_id": backbone, "anchor_id": anchor, "version": package_version()}
    for name in CONFIGS:
        configs[name] = _filled(configs[name], words, everywhere=name == "metadata")
    metadata = configs["metadata"]
    words["torch_version"] = metadata["pytorch_version"]
    if metadata["version"] not in metadata["changelog"]:
        raise ValueError(
            f"bundle {bundle}: version {metadata['version']} is not in its changelog; add it to "
            f"{fragments_dir / 'base' / 'metadata.json'}."
        )
    words["knob_table"] = _knob_table(bundle, merged["train_knobs"], docs["knobs"])
    readme = Template((fragments_dir / "base" / "README.md").read_text(encoding="utf-8")).substitute(words)
    return {
        **{f"configs/{name}.json": as_json(configs[name]) for name in CONFIGS},
        "configs/logging.conf": (fragments_dir / "base" / "logging.conf").read_text(encoding="utf-8"),
        "docs/README.md": "\n\n".join(_wrapped(paragraph) for paragraph in readme.strip().split("\n\n")) + "\n",
        **{name: source.read_text(encoding="utf-8") for name, source in FIXED_FILES.items()},
        "models/.gitkeep": "",
    }


def package_version() -> str:
    """The one version number: that of the package, which metadata and zips take over.

    It is read, not imported: the package in the environment may be another one than the repository's.
    """
    text = (REPOSITORY / "medmap_components" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', text, re.MULTILINE)
    if found is None:
        raise ValueError('medmap_components/__init__.py has no line like: __version__ = "1.2.3"; add it.')
    return found[1]


def as_json(content: Any) -> str:
    """JSON indented by 4, with lists of plain values on one line where they fit."""

    def joined(found: re.Match[str]) -> str:
        line = "[" + re.sub(r"\n\s+", " ", found[1]) + "]"
        return line if len(line) <= LINE_WIDTH * 2 // 3 else found[0]

    # a line break inside a string is escaped, so the pattern can only meet the layout
    return re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s+\]", joined, json.dumps(content, indent=4)) + "\n"


def names(fragments_dir: Path, kind: str) -> list[str]:
    """The names of the backbones or of the anchors that have a fragment."""
    return sorted(path.stem for path in (fragments_dir / kind).glob("*.json"))


def differences(wanted: dict[Path, str], bundles_dir: Path) -> Iterator[tuple[Path, list[str]]]:
    """Files that are missing, differ, or that no fragment makes, each with the lines that tell how."""
    for path, text in wanted.items():
        present = path.read_text(encoding="utf-8").splitlines() if path.is_file() else None
        if present is None:
            yield path, ["missing"]
        elif present != text.splitlines():
            yield path, list(difflib.unified_diff(present, text.splitlines(), "there", "built", lineterm="", n=0))[2:]
    for folder in ("configs", "docs"):
        for path in sorted(bundles_dir.glob(f"*/{folder}/*")):
            if path not in wanted and path.name != WEIGHTS:
                yield path, ["no fragment makes this file"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build or check as the command line asks; returns the exit code."""
    parsed = parse_arguments(arguments)
    pairs = [(b, a) for b in names(parsed.fragments_dir, "backbones") for a in names(parsed.fragments_dir, "anchors")]
    wanted = {
        parsed.bundles_dir / f"{backbone}_{anchor}" / name: text
        for backbone, anchor in pairs
        for name, text in bundle_files(parsed.fragments_dir, backbone, anchor).items()
    }
    different = list(differences(wanted, parsed.bundles_dir))
    for path, how in different:
        print(f"{'differs' if parsed.check or path not in wanted else 'written'}: {path}")
        if parsed.check:
            print(textwrap.indent("\n".join(how[:8]), "    "))
        elif path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
    print(f"{len(pairs)} bundles, {len(different)} of {len(wanted)} files {'differ' if parsed.check else 'changed'}")
    if parsed.check and different:
        print("Change the fragments in scripts/fragments and run: python scripts/build_bundles.py")
        return 1
    return 0


def _open_places(content: Any, place: str = "") -> Iterator[str]:
    if content == OPEN:
        yield place
    elif isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _open_places(value, f"{place}#{key}" if place else str(key))


def _filled(content: Any, words: dict[str, str], everywhere: bool) -> Any:
    """The config with the ``$placeholders`` of its texts filled in: of all texts, or of ``_desc_`` alone."""
    if isinstance(content, str):
        return Template(content).substitute(words) if everywhere else content
    if isinstance(content, list):
        return [_filled(value, words, everywhere) for value in content]
    if isinstance(content, dict):
        return {key: _filled(value, words, everywhere or key == "_desc_") for key, value in content.items()}
    return content


def _knob_table(bundle: str, knobs: dict[str, Any], described: dict[str, str]) -> str:
    rows = ["| setting | effect | default |", "|---|---|---|"]
    for knob, value in knobs.items():
        if knob == "_desc_":
            continue
        if knob not in described:
            raise ValueError(f"bundle {bundle}: the knob {knob!r} has no description; add docs#knobs#{knob}.")
        rows.append(f"| `{knob}` | {described[knob]} | {_default(value)} |")
    return "\n".join(rows)


def _default(value: Any) -> str:
    """A knob's default for readers: ``$A if @phantom else B`` says both, and what is read off weights says so."""
    if isinstance(value, dict) and "default" in value:
        return f"that of `start_from`, else {_default(value['default'])}"
    text = value if isinstance(value, str) else ""
    either = re.fullmatch(r"\$(.+) if @phantom( or @start_from .+)? else (.+)", text)
    if either:
        return f"{either[3]}, phantom{' and narrow `start_from`' if either[2] else ''}: {either[1]}"
    return f"`{value}`" if isinstance(value, str) else json.dumps(value)


def _wrapped(paragraph: str) -> str:
    """Prose is wrapped anew; tables, code, lists and headings are left as they are."""
    if any(line.startswith(("|", "    ", "#", "- ")) for line in paragraph.splitlines()):
        return paragraph
    return textwrap.fill(paragraph, LINE_WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
