"""Write synthetic phantom studies into a folder, in the naming of BraTS 2018 to 2021.

Examples:
    python scripts/make_phantom.py --output_dir phantom --num_cases 8
    python scripts/make_phantom.py --output_dir phantom_full --num_cases 2 --full
    python scripts/make_phantom.py --output_dir incomplete --num_cases 4 --seed 9000 --missing t1ce
    python scripts/make_phantom.py --output_dir incomplete --num_cases 4 --seed 9000 --missing random --no_labels
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medmap_components.data.phantom import LESION_KINDS, write_phantom_case
from medmap_components.modalities import MODALITIES, SUBSETS

FULL_SHAPE, FULL_SPACING = (240, 240, 155), 1.0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the studies, one sub-folder each")
    parser.add_argument("--num_cases", type=int, default=4, help="number of studies (default %(default)s)")
    parser.add_argument(
        "--size", type=int, nargs="+", default=[96], help="voxels per side, 1 or 3 numbers (default 96)"
    )
    parser.add_argument("--spacing", type=float, default=2.0, help="voxel size in mm (default %(default)s)")
    parser.add_argument("--full", action="store_true", help="240 x 240 x 155 at 1 mm, the grid of BraTS")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first study; the others count on from it")
    parser.add_argument("--kind", choices=list(LESION_KINDS), help="one kind of tumour (default: a realistic mixture)")
    parser.add_argument(
        "--missing",
        nargs="+",
        default=[],
        choices=[*MODALITIES, "random"],
        help="modalities to leave out of every study, or 'random': one to three per study, drawn by its seed",
    )
    parser.add_argument("--no_labels", action="store_true", help="leave the label files out")
    parsed = parser.parse_args(arguments)
    if parsed.num_cases < 1:
        parser.error(f"--num_cases must be at least 1, got {parsed.num_cases}")
    if len(parsed.size) not in (1, 3):
        parser.error(f"--size takes 1 or 3 numbers, got {parsed.size}")
    if "random" in parsed.missing and len(parsed.missing) > 1:
        parser.error("--missing random cannot be combined with names of modalities")
    if set(parsed.missing) == set(MODALITIES):
        parser.error("--missing leaves no modality; keep at least one")
    return parsed


def choose_modalities(missing: Sequence[str], seed: int) -> list[str]:
    """The modalities that the study with this seed keeps."""
    if list(missing) != ["random"]:
        return [modality for modality in MODALITIES if modality not in missing]
    incomplete = [subset.mask for subset in SUBSETS if not all(subset.mask)]
    mask = incomplete[int(np.random.default_rng([seed, 1]).integers(len(incomplete)))]
    return [modality for modality, kept in zip(MODALITIES, mask, strict=True) if kept]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the studies that the command line asks for."""
    parsed = parse_arguments(arguments)
    shape = FULL_SHAPE if parsed.full else tuple(parsed.size * (3 if len(parsed.size) == 1 else 1))
    spacing = FULL_SPACING if parsed.full else parsed.spacing
    seeds = range(parsed.seed, parsed.seed + parsed.num_cases)
    with tqdm(seeds, desc="phantom studies", unit="case") as bar:
        for seed in bar:
            write_phantom_case(
                parsed.output_dir,
                f"Phantom_{seed:04d}",
                seed=seed,
                shape=shape,
                spacing=spacing,
                kind=parsed.kind,
                modalities=choose_modalities(parsed.missing, seed),
                with_label=not parsed.no_labels,
            )
    tqdm.write(f"{parsed.num_cases} synthetic studies lie in {parsed.output_dir.resolve()}")


if __name__ == "__main__":
    main()
