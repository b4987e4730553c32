r"""Time the eval forward and the training step of the package's networks, alone or against a foreign network.

Tasks: the forward in eval mode with all four modalities and with one, and a training step (forward, loss, backward,
Adam) in which two of four modalities are visible. Images are random. Every side runs each task in a process of its own;
the processes take turns, and the table gives the medians of --repeats runs after a warm-up, the ratios of ours to the
baseline, and the peak memory of each process (on a GPU: of its tensors).

A baseline is a class that is made without arguments and called like ours, forward(x, mask). In training it returns
probability maps, in tuples however nested; each costs weighted cross-entropy plus soft Dice, with the class weights
computed anew for every map, as published. If it has an attribute is_training, that is set. Its optimiser is Adam with
amsgrad, ours the same in torch's fused form, as in the bundles.

Examples:
    python scripts/benchmark.py --size 48
    python scripts/benchmark.py --network mmformer --baseline mmformer:Model --baseline_path mmFormer/mmformer
    python scripts/benchmark.py --network rfnet --size 80 --baseline models:Model --baseline_path RFNet
    python scripts/benchmark.py --network mmformer --device cuda:0 --batch 2 --amp ours --compile ours \
        --baseline mmformer:Model --baseline_path mmFormer/mmformer
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from benchmarking.sides import ANCHORS, Side, available
from benchmarking.worker import TASKS, Cost, Worker
from tqdm import tqdm

COLUMNS = ("network", "task", "CPU s", "wall s", "peak GiB", "CPU ratio", "wall ratio", "memory ratio")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = available()
    parser.add_argument("--network", nargs="+", choices=names, default=names, help="backbones (default: all)")
    parser.add_argument("--anchor", choices=list(ANCHORS), default="base", help="anchor of ours (default %(default)s)")
    parser.add_argument("--baseline", metavar="MODULE:CLASS", help="a foreign network to compare with")
    parser.add_argument("--baseline_path", metavar="FOLDER", help="folder to import the baseline's module from")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="default: all")
    parser.add_argument("--size", type=int, default=128, help="side of the cube (default %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="samples (default %(default)s)")
    parser.add_argument(
        "--subsets_per_batch", type=int, default=1, help="subsets that ours decodes together (default %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="measured runs of each side (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default %(default)s)")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu", help="torch device")
    whom = ("none", "ours", "both")
    parser.add_argument("--amp", choices=whom, default="none", help="who runs under bfloat16 autocast")
    parser.add_argument("--compile", choices=whom, default="none", help="who is compiled by torch.compile")
    parser.add_argument(
        "--allocator",
        choices=("user", "default", "tuned"),
        default="user",
        help="memory allocator on the CPU: 'user' is tuned for ours, as our commands make it, and the default for the "
        "baseline; 'default' and 'tuned' hold for both",
    )
    parser.add_argument(
        "--one_at_a_time",
        action="store_true",
        help="end each process before the next starts, at the price of a warm-up per run: where memory does not hold "
        "both sides",
    )
    parsed = parser.parse_args(arguments)
    for name in ("size", "batch", "repeats", "threads", "subsets_per_batch"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(parsed, name)}")
    if parsed.baseline is not None and ":" not in parsed.baseline:
        parser.error(f"--baseline must be MODULE:CLASS, got {parsed.baseline}")
    if parsed.baseline_path is not None and parsed.baseline is None:
        parser.error("--baseline_path needs --baseline MODULE:CLASS")
    if parsed.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {parsed.device} needs a GPU that torch can use; choose cpu")
    return parsed


def sides_of(parsed: argparse.Namespace, network: str) -> list[Side]:
    """Ours, and the baseline if there is one."""
    ours = Side(
        label=network if parsed.anchor == "base" else f"{network}_{parsed.anchor}",
        network=network,
        search_path=None,
        anchor=parsed.anchor,
        size=parsed.size,
        batch=parsed.batch,
        threads=parsed.threads,
        device=parsed.device,
        amp=parsed.amp != "none",
        compiled=parsed.compile != "none",
        tuned=parsed.allocator != "default",
        subsets_per_batch=parsed.subsets_per_batch,
    )
    if parsed.baseline is None:
        return [ours]
    baseline = replace(
        ours,
        label=f"baseline {parsed.baseline}",
        network=parsed.baseline,
        search_path=parsed.baseline_path,
        amp=parsed.amp == "both",
        compiled=parsed.compile == "both",
        tuned=parsed.allocator == "tuned",
    )
    return [baseline, ours]


def measure(sides: Sequence[Side], task: str, repeats: int, one_at_a_time: bool = False) -> list[Cost]:
    """The cost of a task on each side: medians of runs that take turns, and the highest peak."""
    runs: list[list[Cost]] = [[] for _ in sides]
    workers: dict[int, Worker] = {}
    for _ in tqdm(range(repeats), desc=task, leave=False):
        for number, side in enumerate(sides):
            worker = workers.pop(number, None) or Worker(side, task)
            runs[number].append(worker.run())
            if one_at_a_time:
                worker.stop()
            else:
                workers[number] = worker
    for worker in workers.values():
        worker.stop()
    return [
        Cost(median(run.cpu for run in own), median(run.wall for run in own), max(run.peak for run in own))
        for own in runs
    ]


def rows_of(sides: Sequence[Side], task: str, costs: Sequence[Cost]) -> list[list[str]]:
    """One row of the table per side; ratios stand behind ours, the last side."""
    rows = []
    for number, (side, cost) in enumerate(zip(sides, costs, strict=True)):
        has_ratio = len(sides) > 1 and number == len(sides) - 1
        ratios = [f"{own / other:.2f}" if has_ratio else "" for own, other in zip(cost, costs[0], strict=True)]
        rows.append([side.label, task, f"{cost.cpu:.2f}", f"{cost.wall:.2f}", f"{cost.peak:.2f}"])
        rows[-1] += [ratios[0], ratios[1], ratios[2]]
    return rows


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def describe(parsed: argparse.Namespace) -> str:
    """In one line, what the table was measured with."""
    device = torch.cuda.get_device_name(parsed.device) if parsed.device.startswith("cuda") else "CPU"
    return (
        f"{device}, {parsed.threads} threads, {parsed.size}^3, batch {parsed.batch}, {parsed.repeats} repeats, "
        f"allocator {parsed.allocator}, amp {parsed.amp}, compile {parsed.compile}, torch {torch.__version__}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parsed = parse_arguments(arguments)
    # waiting threads that spin would count as CPU time; the workers inherit this
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    rows = []
    for network in parsed.network:
        sides = sides_of(parsed, network)
        for task in parsed.tasks:
            rows += rows_of(sides, task, measure(sides, task, parsed.repeats, parsed.one_at_a_time))
    print(f"{describe(parsed)}\n\n{table_of(rows)}")


if __name__ == "__main__":
    main()
