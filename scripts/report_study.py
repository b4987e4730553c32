"""Make the page of a study from its tables: findings, tables, forest plots, modality gap, learning curves.

Examples:
    python scripts/report_study.py output/study/pilot --page_dir docs/study/pilot
    python scripts/report_study.py docs/study/pilot

The first writes README.md with its figures and copies the tables beside it; the second makes the page anew from those.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from study.analysis import Results, gains, read_results
from study.figures import curves_of, draw_curves, draw_gap
from study.page import describe, publish

from medmap_components.metrics import METRICS
from medmap_components.metrics.comparison import Difference
from medmap_components.visualize.forest import draw_forest


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study_dir", type=Path, help="output folder of run_study.py, or a page's folder")
    parser.add_argument("--page_dir", type=Path, help="default: the folder itself")
    parser.add_argument("--samples", type=int, default=10_000, help="bootstrap samples (default %(default)s)")
    return parser.parse_args(arguments)


def draw(results: Results, page_dir: Path) -> list[str]:
    """The figures; returns the names of those that there was something to draw in."""
    drawn = []
    for data, (reference, others) in (
        (data, pair)
        for data in dict.fromkeys(group for group, _ in results.methods)
        for pair in results.study.comparisons
    ):
        label = f"{data}_{reference}".replace(":", "-")
        if draw_curves(curves_of(results.curves, data, (reference, *others)), page_dir / f"curves_{label}.png", data):
            drawn.append(f"curves_{label}.png")
        rows = [row for other, row in results.differences if other == data and row.reference == reference]
        for metric in METRICS if rows else ():
            draw_forest(rows, page_dir / f"forest_{label}_{metric}.png", metric)
            drawn.append(f"forest_{label}_{metric}.png")
    if draw_gap(list(gains(results)), page_dir / "modality_gap.png"):
        drawn.append("modality_gap.png")
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Report as the command line asks; returns the exit code."""
    parsed = parse_arguments(arguments)
    page_dir = parsed.page_dir or parsed.study_dir
    try:
        results = read_results(parsed.study_dir, parsed.samples)
    except (ValueError, FileNotFoundError) as error:
        print(f"report_study: {error}", file=sys.stderr)
        return 1
    publish(results, page_dir)
    text = describe(results, list(gains(results)), draw(results, page_dir))
    (page_dir / "README.md").write_text(text, encoding="utf-8")
    with (page_dir / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("data", *Difference._fields))
        writer.writerows((data, *row) for data, row in results.differences)
    print(f"The page is {(page_dir / 'README.md').resolve()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
