"""Compare the synthetic phantom with real, labelled cases: statistics, pictures and a voxel classifier by subset.

The real cases come from --dataset_dir or the environment variable MEDMAP_DATA, in the naming of BraTS 2018 to 2021. For
the statistics, three times as many phantoms are made at 1 mm, since a few cases leave much to chance; the classifier
takes as many as there are real cases at a time, and the mean of these draws. The share of non-enhancing tumours equals
the real cases' share of less than 1 mL of enhancing tumour, so that like is compared with like. Needs scikit-learn (in
the extra "dev").

Example:
    python scripts/compare_phantom.py --dataset_dir /data/BraTS2021 --output_dir comparison
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from phantom_comparison import classifier, pictures, statistics
from tqdm import tqdm

from medmap_components.data.phantom import LESION_KINDS, write_phantom_case

SMALL_ENHANCEMENT_ML = 1.0
SEVEN_SUBSETS = ("FLAIR", "T1ce", "T1", "T2", "FLAIR+T1ce", "FLAIR+T1+T2", "all")
"""The subsets for which the prototype of this phantom was scored as well."""

KINDS_SEED = 206
"""With this seed the multifocal tumour shows two of its cores in one slice."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, default=os.environ.get("MEDMAP_DATA"), help="the real cases")
    parser.add_argument("--output_dir", type=Path, required=True, help="where the tables and pictures go")
    parser.add_argument(
        "--phantom_dir", type=Path, help="compare with the cases in this folder instead of new phantoms"
    )
    parser.add_argument("--seed", type=int, default=100, help="seed of the first phantom (default %(default)s)")
    parser.add_argument("--times", type=int, default=3, help="phantoms per real case (default %(default)s)")
    parser.add_argument("--num_pairs", type=int, default=3, help="pairs of cases in the picture (default %(default)s)")
    parser.add_argument("--no_classifier", action="store_true", help="leave out the voxel classifier (some 25 minutes)")
    parsed = parser.parse_args(arguments)
    if parsed.dataset_dir is None:
        parser.error("give the real cases by --dataset_dir, or in the environment variable MEDMAP_DATA")
    return parsed


def write_matching_phantoms(real: Sequence[statistics.CaseStatistics], folder: Path, seed: int, times: int = 1) -> None:
    """Write some times as many phantoms as there are real cases; each time with as many non-enhancing tumours."""
    sparse = sum(case.volume_ml["ET"] < SMALL_ENHANCEMENT_ML for case in real)
    rest = {name: kind.share for name, kind in LESION_KINDS.items() if name != "non_enhancing"}
    shares = np.array(list(rest.values())) / sum(rest.values())
    rng = np.random.default_rng(seed)
    kinds: list[str] = []
    for _ in range(times):
        kinds += ["non_enhancing"] * sparse + rng.choice(list(rest), size=len(real) - sparse, p=shares).tolist()
    for i, kind in enumerate(tqdm(kinds, desc="phantoms at 1 mm", unit="case")):
        write_phantom_case(folder, f"Phantom_{seed + i:04d}", seed=seed + i, kind=kind)


def measure_folder(folder: Path, name: str) -> list[statistics.CaseStatistics]:
    """The statistics of all cases in a folder."""
    cases = statistics.find_cases(folder)
    return [statistics.measure(statistics.load_case(case)) for case in tqdm(cases, desc=f"measuring {name}")]


def report_statistics(sets: dict[str, list[statistics.CaseStatistics]], output_dir: Path) -> None:
    """Write the tables as Markdown and the medians as JSON."""
    difference = statistics.median_difference(sets["real"], sets["phantom"])
    halves = statistics.split_half_difference(sets["real"])
    lines = [
        *statistics.table_lines(sets),
        "",
        *statistics.volume_lines(sets),
        "",
        f"Mean |difference of medians| over the {len(statistics.CLASSES) * 4} class cells: {difference:.3f} z.",
        f"The same between random halves of the real cases: {halves:.3f} z.",
    ]
    (output_dir / "statistics.md").write_text("\n".join(lines) + "\n")
    (output_dir / "medians.json").write_text(json.dumps(statistics.as_json(sets), indent=1) + "\n")
    tqdm.write("\n".join(lines))


def draw_pairs(real_dir: Path, phantom_dir: Path, num_pairs: int, output_file: Path) -> None:
    """Draw real cases and phantoms in turn, paired by the rank of their volume of enhancing tumour."""
    rows = []
    real_cases, phantoms = (_spread_by_enhancement(folder, num_pairs) for folder in (real_dir, phantom_dir))
    for real, phantom in zip(real_cases, phantoms, strict=True):
        rows += [(f"real, {real.name.split('_')[-1]}", real), ("phantom", phantom)]
    pictures.draw_rows(rows, output_file)


def draw_kinds(folder: Path, seed: int, output_file: Path) -> None:
    """Draw one phantom of every kind."""
    rows = []
    for i, kind in enumerate(LESION_KINDS):
        case = write_phantom_case(folder, f"Phantom_{kind}", seed=seed + i, kind=kind)
        rows.append((kind.replace("_", "-"), statistics.load_case(case)))
    pictures.draw_rows(rows, output_file)


def _spread_by_enhancement(folder: Path, count: int) -> list[statistics.Case]:
    """Cases of medium size at regular steps through all cases, sorted by their volume of enhancing tumour."""
    cases = [statistics.load_case(case) for case in statistics.find_cases(folder)]
    ranked = sorted(cases, key=lambda case: -case.volume_ml(4))
    return [ranked[round((i + 0.5) * len(ranked) / count - 0.5)] for i in range(min(count, len(ranked)))]


def report_classifier(real_dir: Path, phantom_dir: Path, output_dir: Path, draws: int) -> None:
    """Write the classifier's Dice by subset, and from phantom to real cases, as Markdown.

    One draw is as many phantoms as there are real cases. How hard 13 cases are is much a matter of chance, so several
    draws are scored one by one and averaged.
    """
    real_cases, phantoms = statistics.find_cases(real_dir), statistics.find_cases(phantom_dir)
    size = len(real_cases)
    draws = max(1, min(draws, len(phantoms) // size))
    real = _tabulate(real_cases)
    in_real = classifier.dice_by_subset(real, "classifier, real")
    in_draws, crossed = [], []
    for draw in range(draws):
        tables = _tabulate(phantoms[draw * size : (draw + 1) * size])
        in_draws.append(classifier.dice_by_subset(tables, f"classifier, draw {draw + 1} of {draws}"))
        crossed.append(classifier.transfer(tables, real))
    in_phantoms = classifier.mean_of_draws(in_draws)
    lines = [*classifier.table_lines(in_real, in_phantoms), ""]
    for name, subsets in (("all 15 subsets", tuple(in_real)), ("seven of them", SEVEN_SUBSETS)):
        single = ", ".join(f"{classifier.difference(in_real, dice, subsets):.3f}" for dice in in_draws)
        mean = classifier.difference(in_real, in_phantoms, subsets)
        lines.append(f"Mean |difference of Dice| over {name}: {mean:.3f} (single draws: {single}).")
    lines += [f"The seven are {', '.join(SEVEN_SUBSETS)}.", ""]
    transferred = {region: np.mean([dice[region] for dice in crossed]) for region in classifier.REGION_CODES}
    lines.append(
        "Trained on phantoms, tested on real cases, all modalities: "
        + ", ".join(f"{region} {value:.2f}" for region, value in transferred.items())
        + "."
    )
    (output_dir / "classifier.md").write_text("\n".join(lines) + "\n")
    tqdm.write("\n".join(lines))


def _tabulate(cases: Sequence[Path]) -> list[classifier.VoxelTable]:
    return [classifier.tabulate(statistics.load_case(case)) for case in cases]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison that the command line asks for."""
    parsed = parse_arguments(arguments)
    parsed.output_dir.mkdir(parents=True, exist_ok=True)
    real_dir, phantom_dir = Path(parsed.dataset_dir), parsed.phantom_dir or parsed.output_dir / "phantom"
    real = measure_folder(real_dir, "real cases")
    if parsed.phantom_dir is None:
        write_matching_phantoms(real, phantom_dir, parsed.seed, parsed.times)
    report_statistics({"real": real, "phantom": measure_folder(phantom_dir, "phantoms")}, parsed.output_dir)
    draw_pairs(real_dir, phantom_dir, parsed.num_pairs, parsed.output_dir / "phantom_and_real.png")
    draw_kinds(parsed.output_dir / "kinds", KINDS_SEED, parsed.output_dir / "phantom_kinds.png")
    if not parsed.no_classifier:
        report_classifier(real_dir, phantom_dir, parsed.output_dir, parsed.times)


if __name__ == "__main__":
    main()
