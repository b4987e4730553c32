"""Run a study: train and evaluate every bundle of a grid with every seed and setting, and collect the scores.

Examples:
    python scripts/run_study.py docs/study/pilot.json --dry_run
    python scripts/run_study.py docs/study/first_edition.json --jobs 2
    python scripts/run_study.py docs/study/second_edition.json --gpus 0 1
    python scripts/run_study.py docs/study/first_edition.json --finished docs/study/first_edition

A run is two commands, the bundle's training and its evaluation, as a user would type them. It may be stopped or killed
at any moment; the same command goes on where it stopped, and finished runs are not repeated. A run that fails is
recorded and does not stop the others.

The output folder holds results.csv (a line per run, case, subset and region), runs.csv (what each run was made with,
and what it cost), curves.csv (losses and validation scores by epoch), and a folder per run. They are rewritten whenever
a run ends. scripts/report_study.py makes a page of them. With those tables, a study that was begun elsewhere is gone on
with (--finished), in a new folder or on another machine.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from study.data import Data, plan_data, prepare_data
from study.definition import Study, read_study
from study.files import write_text
from study.jobs import Job
from study.records import collect
from study.taken_over import take_over
from tqdm import tqdm

POLL_SECONDS = 0.2
REFRESH_SECONDS = {True: 1.0, False: 60.0}
"""How often the progress is shown: on a terminal, and in a file."""

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} {postfix}"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="JSON with the definition; docs/study/README.md describes it")
    parser.add_argument("--output_dir", type=Path, help="default: output/study/NAME")
    parser.add_argument("--jobs", type=int, help="runs at once (default: one, or one per GPU)")
    parser.add_argument("--threads", type=int, help="CPU threads of each run (default: cores / jobs)")
    parser.add_argument("--gpus", nargs="+", default=[], metavar="ID", help="GPUs to share out (default: the CPU)")
    parser.add_argument(
        "--only", nargs="+", metavar="RUN", help="names of runs, with * and ?, to do now (default: all)"
    )
    parser.add_argument("--limit", type=int, help="stop after so many runs, to go on another time")
    parser.add_argument(
        "--finished",
        type=Path,
        metavar="TABLES",
        help="folder with tables of this study: runs done there are not redone",
    )
    parser.add_argument("--retry_failed", action="store_true", help="try runs again that failed before")
    parser.add_argument("--dry_run", action="store_true", help="check everything, print the plan, and do nothing")
    parsed = parser.parse_args(arguments)
    for name in ("jobs", "threads", "limit"):
        if getattr(parsed, name) is not None and getattr(parsed, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(parsed, name)}")
    parsed.jobs = parsed.jobs or max(1, len(parsed.gpus))
    parsed.threads = parsed.threads or max(1, (os.cpu_count() or 1) // parsed.jobs)
    return parsed


class Estimate:
    """How long runs take: the mean of those of their bundle that are done, else as the definition says."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs

    def seconds(self, job: Job) -> float:
        """Of one run that is not done."""
        known = [other.seconds for other in self.jobs if other.is_done and other.run.bundle == job.run.bundle]
        return sum(known) / len(known) if known else 60 * job.run.minutes

    def left(self, jobs: Sequence[Job], at_once: int) -> float:
        """Of many that share so many places, some of them begun."""
        spent = {id(job): time.time() - job.began for job in jobs if job.process is not None}
        return sum(max(0.0, self.seconds(job) - spent.get(id(job), 0.0)) for job in jobs) / at_once


def is_wanted(job: Job, only: Sequence[str] | None) -> bool:
    """Whether a run is among those that are asked for."""
    return only is None or any(fnmatchcase(job.run.name, pattern) for pattern in only)


def clock(seconds: float) -> str:
    """Hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def describe_plan(study: Study, jobs: Sequence[Job], todo: Sequence[Job], at_once: int) -> str:
    """What there is to do and how long it will take."""
    done, failed = sum(job.is_done for job in jobs), [job for job in jobs if job.failure]
    estimate = Estimate(jobs)
    lines = [f"Study {study.name}: {study.question}", ""]
    lines += [f"  {job.run.name:<50} {clock(estimate.seconds(job)):>12}" for job in todo]
    lines += [f"  {job.run.name} failed: {job.failure['reason']}" for job in failed]
    lines += [
        "",
        f"{len(jobs)} runs: {done} done, {len(failed)} failed, {len(todo)} to do now.",
        f"Projected: {clock(estimate.left(todo, 1))} of runs, {clock(estimate.left(todo, at_once))} with {at_once} at "
        "once (by the runs of the same bundle that are done, else by the study's own estimate).",
    ]
    return "\n".join(lines)


@contextmanager
def only_one(output_dir: Path) -> Iterator[int]:
    """Holds the study's lock; a runner that was killed lets go of it when the last of its runs has ended.

    Raises:
        ValueError: when another runner, or what one has left, works on the study.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run_study.py, or a run that one left, still works in {output_dir}.") from None
        yield file.fileno()


def environments(parsed: argparse.Namespace) -> list[dict[str, str]]:
    """Variables for each of the places where a run can be done."""
    common = {"OMP_NUM_THREADS": str(parsed.threads), "OMP_WAIT_POLICY": "passive"}
    gpus = [parsed.gpus[place % len(parsed.gpus)] if parsed.gpus else "" for place in range(parsed.jobs)]
    return [{**common, "CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]


def work(
    jobs: Sequence[Job], todo: Sequence[Job], data: dict[str, Data], parsed: argparse.Namespace, held: int
) -> None:
    """Does runs, several at once, and rewrites the tables whenever one ends."""
    waiting, running, shown = list(todo), dict[int, Job](), 0.0
    places, estimate = environments(parsed), Estimate(jobs)
    try:
        with tqdm(total=len(todo), desc="runs", bar_format=BAR) as bar:
            while waiting or running:
                for place, environment in enumerate(places):
                    if waiting and place not in running:
                        running[place] = waiting.pop(0)
                        running[place].start(data[running[place].run.data], environment, held)
                for place, job in list(running.items()):
                    if not job.has_ended():
                        continue
                    if not job.is_done and not job.failure:
                        job.start(data[job.run.data], places[place], held)
                        continue
                    del running[place]
                    collect(jobs, parsed.output_dir)
                    bar.write(f"{job.run.name}: {job.failure.get('reason') or f'done in {clock(job.seconds)}'}")
                    bar.update()
                if time.time() < shown + REFRESH_SECONDS[sys.stderr.isatty()]:
                    time.sleep(POLL_SECONDS)
                    continue
                shown = time.time()
                left = clock(estimate.left([*waiting, *running.values()], len(places)))
                phases = ", ".join(f"{job.run.name} ({job.phase})" for job in running.values())
                bar.set_postfix_str(f"{left} left; now {phases or 'nothing'}")
    finally:
        for job in running.values():
            job.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit code."""
    parsed = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        study = read_study(parsed.study)
        parsed.output_dir = (parsed.output_dir or Path("output", "study", study.name)).resolve()
        taken = take_over(study, parsed.finished) if parsed.finished else {}
        jobs = [Job(run, study, parsed.output_dir, taken.get(run.name)) for run in study.runs]
        for job in jobs:
            job.check()
        wanted = [job for job in jobs if is_wanted(job, parsed.only)]
        if not wanted:
            raise ValueError(
                f"--only names {parsed.only}, which none of the {len(jobs)} runs is; --dry_run lists them."
            )
        todo = [job for job in wanted if not job.is_done and (parsed.retry_failed or not job.failure)][: parsed.limit]
        print(describe_plan(study, jobs, todo, parsed.jobs))
        if parsed.dry_run:
            for name, source in study.data.items():
                parts = ", ".join(f"{len(cases)} {part}" for part, cases in plan_data(name, source).items())
                print(f"Data {name}: {parts} cases.")
            for phase in ("training", "evaluation") if todo else ():
                source = study.data[todo[0].run.data]
                place = Data(Path("DATASET"), Path("SPLIT.json"), source.get("built_in"))
                print(f"\n{phase} of {todo[0].run.name}:\n  {shlex.join(todo[0].command(phase, place))}")
            return 0
        with only_one(parsed.output_dir) as held:
            write_text(parsed.output_dir / "study.json", parsed.study.read_text(encoding="utf-8"))
            needed = dict.fromkeys(job.run.data for job in todo)
            folder = parsed.output_dir / "data"
            data = {name: prepare_data(name, study.data[name], folder, parsed.jobs) for name in needed}
            for job in todo:
                job.forget_failure()
            work(jobs, todo, data, parsed, held)
            collect(jobs, parsed.output_dir)
    except (ValueError, FileNotFoundError) as error:
        print(f"run_study: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nrun_study: stopped. The same command goes on where it stopped.", file=sys.stderr)
        return 130
    failed = [job for job in jobs if job.failure]
    done = sum(job.is_done for job in jobs)
    print(f"{done} of {len(jobs)} runs are done, {len(failed)} failed. The tables are in {parsed.output_dir}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
