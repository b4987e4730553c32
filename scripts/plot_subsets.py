"""Draw one slice of one study as bundles segment it with each of the 15 subsets of the modalities.

Examples:
    python scripts/plot_subsets.py bundles/mmformer_pmix --dataset_dir FOLDER --study NAME --output_file subsets.png
    python scripts/plot_subsets.py plain=bundles/mmformer_base aligned=bundles/mmformer_pmix \
        --checkpoint base.pt pmix.pt --dataset_dir FOLDER --study NAME --output_file subsets.png

Each bundle runs with its own train.json and evaluate.json. Without --dataset_dir the study is one of the phantom's.
Settings of the config files can be added as --set KEY=VALUE.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bundle_arguments import add_bundle_arguments, check_bundle_arguments, settings_of
from monai.utils.enums import CommonKeys

from medmap_components.engines import SubsetEvaluator, SubsetEvents, SubsetProgressBar, open_evaluator
from medmap_components.metrics import column, score_study
from medmap_components.metrics.full_grid import full_grid
from medmap_components.modalities import MODALITIES, REGIONS
from medmap_components.transforms import masks_of, undo_spacing
from medmap_components.visualize import StudyPicture
from medmap_components.visualize.subset_grid import SubsetPicture, draw_subset_grid


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_arguments(parser)
    parser.add_argument("--study", required=True, help="name of the study")
    parsed = parser.parse_args(arguments)
    check_bundle_arguments(parser, parsed)
    return parsed


class Pictures:
    """Collects what an evaluator of one study makes of every subset."""

    def __init__(self) -> None:
        self.by_subset: dict[str, SubsetPicture] = {}
        self.study: StudyPicture | None = None

    def attach(self, engine: SubsetEvaluator) -> None:
        """Hooks into each subset."""
        engine.add_event_handler(SubsetEvents.SUBSET_COMPLETED, self._keep)

    def _keep(self, engine: SubsetEvaluator) -> None:
        output: Mapping[str, Any] = engine.state.output
        label, prediction = output[CommonKeys.LABEL], output[CommonKeys.PRED]
        grid = full_grid(label)
        if self.study is None:
            there = masks_of(output[CommonKeys.IMAGE])[0].tolist()
            image = undo_spacing(output[CommonKeys.IMAGE], output[CommonKeys.IMAGE], label)
            images = {
                name: np.asarray(channel.cpu())
                for name, channel, shown in zip(MODALITIES, image, there, strict=True)
                if shown
            }
            reference = np.asarray(label[0].cpu()).astype(np.uint8)
            self.study = StudyPicture(str(output["study"]), images, reference, reference, grid.spacing)
        if prediction is not None:
            scores = score_study(prediction, label, grid.spacing, grid.diagonal, unseen=grid.unseen)
            dice = {region: scores[column("Dice", region)] for region in REGIONS}
            self.by_subset[output["subset"].name] = SubsetPicture(np.asarray(prediction[0].cpu()), dice)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what the command line asks for."""
    parsed = parse_arguments(arguments)
    methods: dict[str, dict[str, SubsetPicture]] = {}
    study = None
    for index in range(len(parsed.bundles)):
        name, folder, settings = settings_of(parsed, index)
        evaluator = open_evaluator(folder, parsed.study, **settings)
        pictures = Pictures()
        for handler in (SubsetProgressBar(name), pictures):
            handler.attach(evaluator)
        evaluator.run()
        methods[name], study = pictures.by_subset, study or pictures.study
    if study is None:
        raise SystemExit(f"plot_subsets: {parsed.study} shows nothing of any subset; there is nothing to draw.")
    print(f"Picture: {draw_subset_grid(study, methods, parsed.output_file).resolve()}")


if __name__ == "__main__":
    main()
