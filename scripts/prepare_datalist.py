"""Write split files for training: a published list, or a cross-validation of a folder.

Examples:
    python scripts/prepare_datalist.py published brats2018-1 --dataset_dir FOLDER --output_file split.json
    python scripts/prepare_datalist.py folds --dataset_dir FOLDER --output_dir splits

A bundle takes a split file by --split_file. The file is JSON {"training": [names], "validation": [names]}; published
lists also have "test", which evaluate.json scores with --section test.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from medmap_components.data import PUBLISHED_SPLITS, find_studies, fold_names, published_split


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    published = kinds.add_parser("published", help="a list that the literature uses")
    published.add_argument("list", choices=list(PUBLISHED_SPLITS), help="the three lists of 2018 overlap")
    published.add_argument("--output_file", type=Path, required=True)
    published.add_argument(
        "--dataset_dir", type=Path, help="check the list against the labelled studies of this folder"
    )
    published.add_argument(
        "--allow_missing", action="store_true", help="write the part of the list that the folder has, not refuse"
    )
    folds = kinds.add_parser("folds", help="disjoint folds of a folder's labelled studies")
    folds.add_argument("--dataset_dir", type=Path, required=True)
    folds.add_argument("--output_dir", type=Path, required=True, help="gets fold_0.json, fold_1.json, ...")
    folds.add_argument("--folds", type=int, default=5, help="default: %(default)s")
    folds.add_argument("--seed", type=int, default=0, help="another seed, another division (default %(default)s)")
    parsed = parser.parse_args(arguments)
    if parsed.kind == "published" and parsed.allow_missing and parsed.dataset_dir is None:
        parser.error("--allow_missing needs --dataset_dir")
    return parsed


def names_in(folder: Path) -> list[str]:
    """The labelled studies of a folder."""
    return [str(item["study"]) for item in find_studies(folder)]


def present(split: Mapping[str, list[str]], there: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The part of a split that is there, and the names that are not."""
    known = set(there)
    kept = {section: [name for name in names if name in known] for section, names in split.items()}
    return kept, sorted({name for names in split.values() for name in names} - known)


def write(path: Path, split: Mapping[str, list[str]]) -> None:
    """Writes a split file and prints how many studies each part has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(split, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: " + ", ".join(f"{len(names)} {section}" for section, names in split.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what the command line asks for; returns the exit code."""
    parsed = parse_arguments(arguments)
    try:
        if parsed.kind == "folds":
            for index, split in enumerate(fold_names(names_in(parsed.dataset_dir), parsed.folds, parsed.seed)):
                write(parsed.output_dir / f"fold_{index}.json", split)
            return 0
        split, missing = published_split(parsed.list), []
        if parsed.dataset_dir is not None:
            split, missing = present(split, names_in(parsed.dataset_dir))
    except (ValueError, FileNotFoundError) as error:
        print(f"prepare_datalist: {error}", file=sys.stderr)
        return 1
    if missing:
        print(
            f"{len(missing)} studies of {parsed.list} are not in {parsed.dataset_dir}, or have no label:",
            file=sys.stderr,
        )
        print("\n".join(f"  {name}" for name in missing), file=sys.stderr)
        if not parsed.allow_missing:
            print("Nothing was written. --allow_missing writes the others; scores will not compare.", file=sys.stderr)
            return 1
    write(parsed.output_file, split)
    return 0


if __name__ == "__main__":
    sys.exit(main())
