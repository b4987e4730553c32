"""List what the bundles may call: every ``_target_`` and every expression of their configs, for review.

Examples:
    python scripts/list_targets.py
    python scripts/list_targets.py --check

A bundle's config is code: MONAI calls each ``_target_`` and evaluates each text that begins with ``$``. The list is
``docs/targets.md``; ``--check``, which the tests run, fails where it is not that of the configs.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
HEADING = """\
# What the bundles call

MONAI calls every `_target_` of a bundle's configs and evaluates every text that begins with `$`. These are all of them,
in all bundles of `bundles/`, listed by `python scripts/list_targets.py`. A bare name is looked up in MONAI alone.
"""


class Call(NamedTuple):
    """Something that a config makes MONAI run.

    Attributes:
        kind: heading of the table that it stands in.
        text: the target or the expression.
    """

    kind: str
    text: str


Uses = Mapping[Call, Mapping[str, set[str]]]
"""For each call, the config files that hold it, and in which bundles."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the list is not current")
    parser.add_argument("--bundles_dir", type=Path, default=REPOSITORY / "bundles", help="default: %(default)s")
    parser.add_argument(
        "--output_file", type=Path, default=REPOSITORY / "docs" / "targets.md", help="default: %(default)s"
    )
    return parser.parse_args(arguments)


def calls(content: Any) -> Iterator[Call]:
    """All that a config makes MONAI run, with repetitions."""
    if isinstance(content, str) and content.startswith("$"):
        yield Call("Imports" if content.startswith(("$import ", "$from ")) else "Expressions", content)
    elif isinstance(content, dict):
        target = content.get("_target_")
        if isinstance(target, str) and not target.startswith("$"):
            yield Call(_owner(target), target)
        for value in content.values():
            yield from calls(value)
    elif isinstance(content, list):
        for value in content:
            yield from calls(value)


def collect(bundles_dir: Path) -> Uses:
    """What the configs of all bundles of a folder call."""
    uses: dict[Call, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in sorted(bundles_dir.glob("*/configs/*.json")):
        for call in calls(json.loads(path.read_text(encoding="utf-8"))):
            uses[call][path.stem].add(path.parents[1].name)
    return uses


def describe(uses: Uses) -> str:
    """The list as Markdown: a table for each kind."""
    bundles = {name for files in uses.values() for names in files.values() for name in names}
    lines = [HEADING]
    for kind in sorted({call.kind for call in uses}, key=_order):
        lines += [f"## {kind}", "", "| called | in | of bundles |", "|---|---|---|"]
        for call in sorted(call for call in uses if call.kind == kind):
            files = uses[call]
            names = set().union(*files.values())
            text = call.text.replace("|", "\\|")
            lines.append(f"| `{text}` | {', '.join(sorted(files))} | {_shortened(names, bundles)} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the list; returns the exit code."""
    parsed = parse_arguments(arguments)
    wanted = describe(collect(parsed.bundles_dir))
    present = parsed.output_file.read_text(encoding="utf-8") if parsed.output_file.is_file() else ""
    if not parsed.check:
        parsed.output_file.write_text(wanted, encoding="utf-8")
        return 0
    if present == wanted:
        return 0
    print("\n".join(difflib.unified_diff(present.splitlines(), wanted.splitlines(), "listed", "called", "", "", 0, "")))
    print(f"{parsed.output_file} is not current; review the difference and run: python scripts/list_targets.py")
    return 1


def _owner(target: str) -> str:
    owner = target.partition(".")[0]
    return f"Targets of {'monai' if owner == target else owner}"


def _order(kind: str) -> tuple[bool, str]:
    return (not kind.startswith("Targets"), kind)


def _shortened(names: set[str], bundles: set[str]) -> str:
    """Names of bundles; all those of one backbone, or with one anchor, by its name."""
    if names == bundles:
        return "all"
    for place, pattern in ((0, "{}_*"), (2, "*_{}")):
        groups = {name.rpartition("_")[place] for name in names}
        if names == {name for name in bundles if name.rpartition("_")[place] in groups}:
            return ", ".join(pattern.format(group) for group in sorted(groups))
    return ", ".join(sorted(names))


if __name__ == "__main__":
    sys.exit(main())
