"""Stands in for a bundle in tests of the study runner: notes what it does, and can wait, or fail.

As a script it is a run's command, training or evaluating; ``drive`` is the study runner with this in bundles' place.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve()
REPOSITORY = HERE.parents[2]
SUBSETS = ("T1", "all")
REGIONS = ("WT", "TC", "ET", "ET_pp")
CASES = ("a", "b")


def dice(bundle: str, seed: int, case: str, subset: str) -> float:
    """The score that an evaluation gives; ``unet_pmix`` gains 0.1, and 0.2 for case b."""
    gain = 0.1 * (1 + CASES.index(case)) if bundle == "unet_pmix" else 0.0
    return 0.3 + gain + 0.01 * seed + 0.1 * SUBSETS.index(subset)


def note(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "steps.txt").open("a") as file:
        file.write(f"{text} {time.time():.3f}\n")


def train(options: dict[str, str]) -> None:
    folder = Path(options["output_dir"])
    state = folder / "last.pt"
    first = int(state.read_text()) + 1 if options.get("resume") == "True" else 1
    if options.get("_fail") == "True":
        raise ValueError("nothing to learn here")
    for epoch in range(first, int(options.get("epochs", 2)) + 1):
        while epoch > 2 and "_gate" in options and not Path(options["_gate"]).exists():
            time.sleep(0.05)
        note(folder, f"epoch {epoch}")
        state.write_text(str(epoch))
    (folder / "model.pt").write_text(options["seed"])


def evaluate(options: dict[str, str]) -> None:
    """Writes the two files of an evaluation that the runner reads."""
    folder, bundle, seed = Path(options["evaluation_dir"]), options["bundle"], int(options["seed"])
    note(folder, "evaluation")
    lines = [
        "study,subset,shown," + ",".join(f"{metric}_{region}" for metric in ("Dice", "HD95") for region in REGIONS)
    ]
    for case in CASES:
        for subset in SUBSETS:
            score = dice(bundle, seed, case, subset)
            scores = [factor * score for factor in (1, 10) for _ in REGIONS]
            lines.append(",".join([case, subset, subset, *map(repr, scores)]))
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    gap = {"level": 1, "centroid_distance": 0.4 if bundle == "unet_pmix" else 0.5, "mmd": 0.2, "probe_accuracy": 0.9}
    protocol = {"subsets": SUBSETS, "num_cases": len(CASES)}
    additions = {"modality_gap": {**gap, "chance": 0.25}}
    content = {"run": {"bundle": bundle}, "protocol": protocol, "cases": CASES, "additions": additions}
    (folder / "protocol.json").write_text(json.dumps(content))


def drive(arguments: list[str]) -> int:
    """``run_study.py`` whose runs call this script, and whose data are made of nothing."""
    sys.path[:0] = [str(REPOSITORY / "scripts"), str(REPOSITORY)]
    import run_study
    from study.data import Data
    from study.jobs import PHASES, Job

    real = Job.command

    def command(job: Job, phase: str, data: Data) -> list[str]:
        options = [part for part in real(job, phase, data) if part.startswith("--")]
        return [sys.executable, str(HERE), PHASES[phase], f"--bundle={job.run.bundle}", *options]

    Job.command = command
    run_study.prepare_data = lambda name, source, folder, processes: Data(folder / "cases", folder / "split.json")
    return run_study.main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "drive":
        sys.exit(drive(sys.argv[2:]))
    given = dict(part.removeprefix("--").split("=", 1) for part in sys.argv[2:])
    {"training": train, "evaluating": evaluate}[sys.argv[1]](given)
