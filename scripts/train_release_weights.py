"""Train the weights that releases ship: a demonstration for every bundle, trained on the synthetic phantom.

Examples:
    python scripts/train_release_weights.py --dry_run
    python scripts/train_release_weights.py --jobs 2
    python scripts/train_release_weights.py --only unet_pmix unet_base --real_dir FOLDER --real_cases "BraTS 2021 ..."

The definition, docs/study/first_edition.json unless another is given, is one of scripts/run_study.py, which does the
trainings and evaluations: they may be stopped at any moment and are gone on with by the same command. Of each bundle
the run of the first seed counts. Its weights go to ``<weights_dir>/<bundle>``, with ``model.json`` and ``weights.md``
(how they were made and how they score), where ``scripts/package_bundles.py --weights_dir`` takes them from.

With ``--real_dir`` they are scored on a folder of real cases as well, which no training sees. ``--page`` writes a page
with all weights of the study that are there so far.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import run_study
import torch
from release_weights.description import Scores, Training, describe, read_scores
from release_weights.overview import Released, overview
from study.definition import REPOSITORY, Study, read_study
from study.files import read_json, write_json, write_text
from study.jobs import Job
from study.provenance import file_hash
from tqdm import tqdm

from medmap_components.data import find_studies
from medmap_components.data.phantom.parameters import GENERATOR_VERSION
from medmap_components.engines.about_weights import describe_weights
from medmap_components.modalities import modality_mask, subset_name

DEFINITION = REPOSITORY / "docs" / "study" / "first_edition.json"
REAL_SUBSETS = (["flair", "t1ce", "t1", "t2"], ["flair", "t1", "t2"], ["flair"], ["t2"], ["t1ce"], ["t1"])
"""Enough to see what the weights do; all fifteen on whole cases would take longer than the training."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?", default=DEFINITION, help="definition (default: %(default)s)")
    parser.add_argument("--output_dir", type=Path, help="of the study (default: output/study/NAME)")
    parser.add_argument("--weights_dir", type=Path, default=REPOSITORY / "weights", help="default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="BUNDLE", help="names of the bundles (default: all of the study)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (default: 1)")
    parser.add_argument("--threads", type=int, help="CPU threads of each run (default: cores / jobs)")
    parser.add_argument("--gpus", nargs="+", default=[], metavar="ID", help="GPUs to share out (default: the CPU)")
    parser.add_argument("--real_dir", type=Path, help="folder of labelled real cases to score the weights on as well")
    parser.add_argument("--real_cases", help="which cases these are, and their source, for weights.md")
    parser.add_argument("--page", type=Path, help="file of a page that shows all weights of the study side by side")
    parser.add_argument("--dry_run", action="store_true", help="print the plan and do nothing")
    parsed = parser.parse_args(arguments)
    if (parsed.real_dir is None) != (parsed.real_cases is None):
        parser.error("--real_dir and --real_cases belong together: scores are worth what the cases are.")
    if parsed.real_dir and not parsed.real_dir.is_dir():
        parser.error(f"--real_dir {parsed.real_dir} is no folder")
    return parsed


def chosen_jobs(study: Study, output_dir: Path, only: Sequence[str] | None) -> Iterator[Job]:
    """The run of each bundle whose weights count: default setting, first seed.

    Raises:
        ValueError: when the study lacks a bundle that is asked for or its epochs, or its data are not phantoms.
    """
    default = [run for run in study.runs if run.setting == "default"]
    unknown = sorted(set(only or ()) - {run.bundle for run in default})
    if unknown:
        raise ValueError(f"--only names {unknown}, which study {study.name} does not train.")
    for name in dict.fromkeys(run.bundle for run in default if not only or run.bundle in only):
        run = min((run for run in default if run.bundle == name), key=lambda run: run.seed)
        if "phantom" not in study.data[run.data]:
            raise ValueError(
                f"study {study.name} trains {name} on {run.data!r}; only weights of phantoms are released."
            )
        if "epochs" not in run.overrides:
            raise ValueError(f"study {study.name} does not say for how many epochs {name} trains; weights.md tells it.")
        yield Job(run, study, output_dir)


def release(job: Job, study: Study, weights_dir: Path, real_dir: Path | None, real_cases: str | None) -> None:
    """Writes what is released of one finished run."""
    folder, training = weights_dir / job.run.bundle, facts(job, study)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(trained_weights(job), folder / "model.pt")
    describe_weights(folder / "model.pt", {"spacing_mm": training.voxel_mm})
    of_network = {key: value for key, value in job.run.overrides.items() if key.startswith("network_def#")}
    (folder / "settings.json").unlink(missing_ok=True)
    if of_network:
        write_json(folder / "settings.json", {"train": of_network, "inference": of_network})
    real = score_on(job, folder / "model.pt", real_dir) if real_dir else None
    phantom = read_scores(job.folder / "evaluation")
    write_text(folder / "weights.md", describe(training, phantom, real, real_cases or ""))


def trained_weights(job: Job) -> Path:
    """Where a finished run left its weights."""
    return job.folder / "training" / "model.pt"


def facts(job: Job, study: Study) -> Training:
    """How the weights of a finished run came about."""
    source, state = study.data[job.run.data], torch.load(trained_weights(job), map_location="cpu", weights_only=True)
    return Training(
        job.run.bundle,
        study.name,
        sum(value.numel() for value in state.values()),
        source["training"][1],
        float(source["phantom"]["spacing"]),
        GENERATOR_VERSION,
        int(job.run.overrides["epochs"]),
        read_json(job.folder / "training.json")["cpu_seconds"] / 60,
        job.run.overrides,
    )


def write_page(
    page: Path, jobs: Iterable[Job], study: Study, real_dir: Path | None = None, real_cases: str | None = None
) -> None:
    """Writes the page on all weights of a study.

    Args:
        page: its file.
        jobs: runs whose weights count; those that are not done, or left no weights here, are left out.
        study: that they belong to.
        real_dir: the real cases; scores on others are left out. None: the page has phantoms alone.
        real_cases: which the real cases are.

    Raises:
        ValueError: when they were scored on different numbers of cases.
    """
    released, cases = [], names_of(real_dir) if real_dir else None
    for job in jobs:
        weights, real = trained_weights(job), job.folder / "real" / "evaluation"
        if job.is_done and weights.is_file():
            scored = read_json(real / "protocol.json").get("cases")
            scores = read_scores(real) if cases and scored == cases else None
            size = weights.stat().st_size
            released.append(Released(facts(job, study), size, read_scores(job.folder / "evaluation"), scores))
    subset_names = [subset_name(modality_mask(subset)) for subset in REAL_SUBSETS]
    if released:
        write_text(
            page, overview(sorted(released, key=lambda one: one.training.bundle), real_cases or "", subset_names)
        )


def names_of(real_dir: Path) -> list[str]:
    """The studies of a folder, in order."""
    return sorted(str(item["study"]) for item in find_studies(real_dir))


def score_on(job: Job, weights: Path, real_dir: Path) -> Scores:
    """Scores weights on all cases of a folder with the bundle's own evaluation, unless that was done with these.

    Raises:
        RuntimeError: when the evaluation fails; its log is named.
    """
    folder = job.folder / "real"
    protocol = read_json(folder / "evaluation" / "protocol.json")
    cases = names_of(real_dir)
    known = (protocol.get("cases"), protocol.get("run", {}).get("checkpoint_sha256"))
    if known != (cases, file_hash(weights)):
        configs = [str(job.bundle_dir / "configs" / f"{name}.json") for name in ("train", "evaluate")]
        settings = {
            **job.run.overrides,
            "dataset_dir": real_dir.resolve(),
            "section": "all",
            "checkpoint": weights.resolve(),
            "output_dir": folder,
            "subsets": list(REAL_SUBSETS),
            "overlap": 0.25,
        }
        options = [f"--{key}={value}" for key, value in settings.items()]
        command = [sys.executable, "-m", "monai.bundle", "run", "evaluating", f"--config_file={configs}", *options]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w") as log:
            done = subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise RuntimeError(f"scoring {job.run.bundle} on {real_dir} failed; {folder / 'log.txt'} says why.")
    return read_scores(folder / "evaluation")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit code."""
    parsed = parse_arguments(arguments)
    try:
        study = read_study(parsed.study)
        output_dir = (parsed.output_dir or Path("output", "study", study.name)).resolve()
        jobs = list(chosen_jobs(study, output_dir, parsed.only))
    except (ValueError, FileNotFoundError) as error:
        print(f"train_release_weights: {error}", file=sys.stderr)
        return 1
    names = [job.run.name for job in jobs]
    options = ["--output_dir", str(output_dir), "--jobs", str(parsed.jobs), "--only", *names]
    options += ["--threads", str(parsed.threads)] if parsed.threads else []
    options += ["--gpus", *parsed.gpus] if parsed.gpus else []
    options += ["--dry_run"] if parsed.dry_run else []
    code = run_study.main([str(parsed.study), *options])
    if parsed.dry_run or code == 130:
        return code
    done = [job for job in jobs if job.is_done]
    try:
        for job in tqdm(done, desc="releasing"):
            release(job, study, parsed.weights_dir, parsed.real_dir, parsed.real_cases)
        if parsed.page:
            write_page(parsed.page, chosen_jobs(study, output_dir, None), study, parsed.real_dir, parsed.real_cases)
    except (RuntimeError, ValueError) as error:
        print(f"train_release_weights: {error}", file=sys.stderr)
        return 1
    print(f"Weights of {len(done)} of {len(jobs)} bundles are in {parsed.weights_dir.resolve()}.")
    print(f"Next: python scripts/package_bundles.py --weights_dir {parsed.weights_dir}")
    return code


if __name__ == "__main__":
    sys.exit(main())
