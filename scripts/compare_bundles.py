"""Compare evaluations case by case: every further method with the first one.

Examples:
    python scripts/compare_bundles.py bundles/mmformer_base/output/evaluation bundles/mmformer_pmix/output/evaluation
    python scripts/compare_bundles.py base=runs/base_0 base=runs/base_1 pmix=runs/pmix_0 pmix=runs/pmix_1

Each argument is the output folder of an evaluation, with a name in front where the bundle's name does not tell. Folders
of one name are repetitions of one method with other seeds. All must have been evaluated on the same cases in the same
way; the command says what differs where they were not.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from medmap_components.metrics import METRICS
from medmap_components.metrics.comparison import Difference, Method, compare_methods, group_runs, read_run
from medmap_components.visualize.forest import draw_forest


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="+", metavar="[NAME=]FOLDER", help="output folder of an evaluation")
    parser.add_argument("--output_dir", type=Path, default=Path("comparison"), help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=10_000, help="bootstrap samples (default %(default)s)")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default %(default)s)")
    parser.add_argument(
        "--correction",
        choices=["holm", "none"],
        default="holm",
        help="which P value the marks in table and plot go by; the table files always hold both (default %(default)s)",
    )
    return parser.parse_args(arguments)


def named(argument: str) -> tuple[str | None, str]:
    """Name and folder of an argument ``NAME=FOLDER`` or ``FOLDER``."""
    name, separator, folder = argument.partition("=")
    return (name, folder) if separator and not Path(argument).exists() else (None, argument)


def describe(methods: Sequence[Method], differences: Sequence[Difference], correction: str, confidence: float) -> str:
    """The comparison as Markdown."""
    tests = len(differences)
    lines = ["# Comparison", ""]
    for method in methods:
        lines.append(f"- {method.name}: {len(method.runs)} run(s), {', '.join(str(run.folder) for run in method.runs)}")
    resampled = "studies and seeds" if any(len(method.runs) > 1 for method in methods) else "studies"
    corrected = "after Holm's correction for all of them" if correction == "holm" else "without correction"
    lines += [
        "",
        f"Mean paired difference to {methods[0].name} and its bootstrap interval ({100 * confidence:g} %) over "
        f"{resampled}; Dice in percentage points, HD95 in mm.",
        "",
        f"**{tests} comparisons** were made, with Wilcoxon's signed-rank test over the studies for each. If nothing "
        f"differed, about {tests / 20:.0f} would fall below P = 0.05 by chance. \\* marks P < 0.05 {corrected}.",
        "",
    ]
    return "\n".join([*lines, *difference_tables(differences, correction)])


def difference_tables(differences: Sequence[Difference], correction: str) -> Iterator[str]:
    """Lines of Markdown: a table per method and metric, a row per subset, a column per region."""
    for method, reference in dict.fromkeys((row.method, row.reference) for row in differences):
        for metric in METRICS:
            factor = 100 if metric == "Dice" else 1
            rows = [d for d in differences if (d.method, d.reference, d.metric) == (method, reference, metric)]
            yield from (f"## {method} - {reference}, {metric}", "")
            regions = list(dict.fromkeys(row.region for row in rows))
            yield from ("| subset | studies | " + " | ".join(regions) + " |", "|---|---:|" + "---:|" * len(regions))
            for subset in dict.fromkeys(row.subset for row in rows):
                line = [row for row in rows if row.subset == subset]
                cells = [cell(row, factor, correction) for row in line]
                yield f"| {subset} | {line[0].studies} | " + " | ".join(cells) + " |"
            yield ""


def cell(row: Difference, factor: float, correction: str) -> str:
    """One difference in a table."""
    mark = "\\*" if (row.p_holm if correction == "holm" else row.p) < 0.05 else ""
    return f"{row.mean * factor:+.2f}{mark} ({row.low * factor:+.2f} to {row.high * factor:+.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare as the command line asks; returns the exit code."""
    parsed = parse_arguments(arguments)
    try:
        runs = [read_run(folder, name) for name, folder in tqdm([named(a) for a in parsed.evaluations], desc="reading")]
        methods = group_runs(runs)
        differences = compare_methods(methods, parsed.samples, parsed.confidence)
    except (ValueError, FileNotFoundError) as error:
        print(f"compare_bundles: {error}", file=sys.stderr)
        return 1
    parsed.output_dir.mkdir(parents=True, exist_ok=True)
    text = describe(methods, differences, parsed.correction, parsed.confidence)
    (parsed.output_dir / "comparison.md").write_text(text, encoding="utf-8")
    with (parsed.output_dir / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Difference._fields)
        writer.writerows(differences)
    for metric in METRICS:
        picture = parsed.output_dir / f"forest_{metric}.png"
        draw_forest(differences, picture, metric, corrected=parsed.correction == "holm")
    print(text)
    print(f"Written to {parsed.output_dir.resolve()}: comparison.md, comparison.csv, forest_Dice.png, forest_HD95.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
