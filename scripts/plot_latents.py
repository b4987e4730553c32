"""Draw the latents of single modalities, with and without alignment, and print the modality gap.

Example:
    python scripts/plot_latents.py plain=bundles/mmformer_base aligned=bundles/mmformer_pmix \
        --checkpoint base.pt pmix.pt --dataset_dir FOLDER --section validation --output_file latents.png

t-SNE of latent vectors at places inside the brain, the same places for all modalities of a study. Distances between
clusters of such a map mean little: the numbers below the panels, which come from the latents themselves, say how well
the modalities can be told apart. They are also written to a JSON file beside the picture. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
from bundle_arguments import add_bundle_arguments, check_bundle_arguments, settings_of
from numpy.typing import NDArray

from medmap_components.engines import EngineProgressBar, LatentGap, open_evaluator
from medmap_components.modalities import MODALITIES
from medmap_components.visualize.latents import draw_latents


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_arguments(parser)
    parser.add_argument("--level", type=int, default=1, help="encoder level, 1 being the finest (default %(default)s)")
    parser.add_argument("--places", type=int, default=32, help="places per study (default %(default)s)")
    parser.add_argument("--perplexity", type=float, default=30.0, help="of t-SNE (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of places and t-SNE (default %(default)s)")
    parsed = parser.parse_args(arguments)
    check_bundle_arguments(parser, parsed)
    return parsed


def embedded(features: NDArray[np.floating], perplexity: float, seed: int) -> NDArray[np.floating]:
    """t-SNE of standardised latent vectors, ``(n, C)`` to ``(n, 2)``."""
    try:
        from sklearn.manifold import TSNE
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise SystemExit("plot_latents needs scikit-learn: pip install scikit-learn") from error
    perplexity = min(perplexity, (len(features) - 1) / 3)
    points: NDArray[np.floating] = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(
        StandardScaler().fit_transform(features)
    )
    return points


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what the command line asks for."""
    parsed = parse_arguments(arguments)
    maps, captions, numbers = {}, [], {}
    for index in range(len(parsed.bundles)):
        name, folder, settings = settings_of(parsed, index)
        evaluator = open_evaluator(folder, **settings, subsets=[list(MODALITIES)])
        latents = LatentGap(parsed.level, parsed.places, parsed.seed)
        for handler in (EngineProgressBar(name), latents):
            handler.attach(evaluator)
        evaluator.run()
        sample, gap = latents.sample(), latents.gap()
        maps[name] = (embedded(sample.features, parsed.perplexity, parsed.seed), sample.modality)
        numbers[name] = {"level": parsed.level, **gap._asdict()}
        captions.append(
            f"centroid distance {gap.centroid_distance:.2f} · MMD {gap.mmd:.2f}\n"
            f"linear probe {gap.probe_accuracy:.0%} (chance {gap.chance:.0%})"
        )
        print(f"{name}: {json.dumps(numbers[name])}")
    title = f"Latents of single modalities, level {parsed.level}, t-SNE"
    picture = draw_latents(maps, parsed.output_file, captions, title)
    picture.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print(f"Picture: {picture.resolve()}, numbers: {picture.with_suffix('.json').name} beside it")


if __name__ == "__main__":
    main()
