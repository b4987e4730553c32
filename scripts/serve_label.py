"""Serve bundles through MONAI Label on a folder of studies; ``bash scripts/monai_label.sh`` installs what it needs.

Examples:
    bash scripts/monai_label.sh FOLDER --bundle mmformer_pmix --weights bundles/mmformer_pmix/output/model.pt
    bash scripts/monai_label.sh FOLDER --bundle mmformer_pmix rfnet_pmix --with_labels
    bash scripts/monai_label.sh FOLDER --bundle https://github.com/OWNER/REPO/releases/download/TAG/unet_pmix_v0.1.0.zip

FOLDER holds studies in any layout that inference reads, complete or not. Nothing is written to it: labels, links to the
studies and fine-tuned bundles lie in --workspace. A bundle that was placed there before is served as it is.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bundle_arguments import literal
from label_server.bundles import place_bundle
from label_server.studies import lay_out_studies

from medmap_components.modalities import MODALITIES

APP = Path(__file__).resolve().parent / "label_server" / "app"
WORKSPACE = Path(__file__).resolve().parents[1] / "output" / "monai_label"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path, metavar="FOLDER", help="the studies")
    parser.add_argument(
        "--bundle",
        nargs="+",
        default=[],
        help="name of a bundle of this project, folder of any, or a released zip (file or URL); default: those that "
        "were placed before",
    )
    parser.add_argument("--weights", nargs="+", type=Path, help="one file per bundle (default: the bundle's own)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the bundles' configs")
    parser.add_argument("--replace", action="store_true", help="place bundles again; what was there is kept aside")
    parser.add_argument("--with_labels", action="store_true", help="take the studies' labels over, to train with")
    parser.add_argument("--show", choices=MODALITIES, default=MODALITIES[0], help="the modality that viewers get")
    parser.add_argument("--workspace", type=Path, default=WORKSPACE, help="where all of it lies (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in, without any password")
    parser.add_argument("--port", type=int, default=8000, help="default %(default)s")
    parsed = parser.parse_args(arguments)
    if parsed.weights and len(parsed.weights) != len(parsed.bundle):
        parser.error(f"--weights takes one file per bundle, got {len(parsed.weights)} for {len(parsed.bundle)}")
    wrong = [setting for setting in parsed.set if "=" not in setting]
    if wrong:
        parser.error(f"--set takes KEY=VALUE, got {wrong}")
    return parsed


def prepare(parsed: argparse.Namespace) -> tuple[Path, Path]:
    """Lays out app, bundles and studies in the workspace.

    Args:
        parsed: the command line.

    Returns:
        The app's folder and the folder of the studies' links.
    """
    app, store = parsed.workspace / "app", parsed.workspace / "studies"
    model_dir = app / "model"
    model_dir.mkdir(parents=True, exist_ok=True)
    shutil.copytree(APP, app, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    settings = {key: literal(value) for key, _, value in (pair.partition("=") for pair in parsed.set)}
    for index, bundle in enumerate(parsed.bundle):
        weights = parsed.weights[index] if parsed.weights else None
        place_bundle(bundle, model_dir, weights, settings, parsed.replace)
    if not any(model_dir.iterdir()):
        raise ValueError(f"there is no bundle in {model_dir} yet; give --bundle.")
    studies = lay_out_studies(parsed.dataset_dir, store, shown=[parsed.show], with_labels=parsed.with_labels)
    logging.info("%d studies of %s are served from %s", len(studies), parsed.dataset_dir, store)
    return app.resolve(), store.resolve()


def main(arguments: Sequence[str] | None = None) -> None:
    """Lay everything out, then run the server until it is stopped."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parsed = parse_arguments(arguments)
    app, store = prepare(parsed)
    environment = {"MONAI_LABEL_DATASTORE_FILE_EXT": '["*.nii.gz","*.nii"]', **os.environ}
    place = ["--app", app, "--studies", store, "--host", parsed.host, "--port", parsed.port]
    command = [sys.executable, "-m", "monailabel.main", "start_server", *map(str, place)]
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    main()
