"""A process per side and task: the memory allocator and the peak memory belong to a whole process."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarking.sides import Side, build, optimizer_of, set_training, training_loss
from medmap_components.allocator import tune_allocator
from medmap_components.inferers import SubsetSlidingWindowInferer
from medmap_components.modalities import MODALITIES, SUBSETS

TASKS = {
    "forward, 4 modalities": (True, True, True, True),
    "forward, 1 modality": (False, True, False, False),
    "15 subsets": (True, True, True, True),
    "training step": (False, True, False, True),
}
"""What can be measured, with the modalities that are visible. "15 subsets" is one window of an evaluation: ours encodes
it once, a foreign network runs once per subset."""

TRAINING = "training step"
ALL_SUBSETS = "15 subsets"


class Cost(NamedTuple):
    """What one run took.

    Attributes:
        cpu: CPU seconds of all threads.
        wall: seconds.
        peak: highest memory in GiB: of the process so far, or, on a GPU, of the tensors during the run.
    """

    cpu: float
    wall: float
    peak: float


class Worker:
    """A process that runs one task of one side whenever it is asked to.

    The first run of a process is a warm-up, and its cost is dropped.

    Args:
        side: what to run.
        task: a key of ``TASKS``.
    """

    def __init__(self, side: Side, task: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, side, task), daemon=True)
        self._process.start()
        other_end.close()
        self._receive()

    def run(self) -> Cost:
        """The cost of one run.

        Raises:
            ValueError: what the worker could not do.
        """
        self._connection.send("run")
        return self._receive()

    def stop(self) -> None:
        """Ends the process, and gives its memory back."""
        self._connection.close()
        self._process.join()

    def _receive(self) -> Cost:
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"a worker ended with exit code {self._process.exitcode} (-9: out of memory); try --one_at_a_time, or "
                "a smaller --size."
            ) from None
        if isinstance(answer, ValueError):
            raise answer
        cost: Cost = answer
        return cost


def _serve(connection: Connection, side: Side, task: str) -> None:
    if side.tuned:
        tune_allocator()
    torch.set_num_threads(side.threads)
    torch.manual_seed(0)
    try:
        action = _action(side, task)
        connection.send(_measured(action, side.device))
    except ValueError as error:
        connection.send(error)
        return
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        connection.send(_measured(action, side.device))


def _action(side: Side, task: str) -> Callable[[], None]:
    """What is measured, as a function."""
    device = torch.device(side.device)
    network = build(side).to(device)
    set_training(network, task == TRAINING)
    called = torch.compile(network) if side.compiled else network
    image = torch.randn(side.batch, len(MODALITIES), side.size, side.size, side.size, device=device)
    mask = torch.tensor([TASKS[task]] * side.batch, device=device)
    precision = torch.autocast(device.type, torch.bfloat16, enabled=side.amp)
    if task != TRAINING:
        masks = [mask]
        if task == ALL_SUBSETS:
            masks = [torch.tensor([subset.mask] * side.batch, device=device) for subset in SUBSETS]
        inferer = SubsetSlidingWindowInferer(side.size, subsets_per_batch=side.subsets_per_batch)

        def forward() -> None:
            with torch.no_grad(), precision:
                if task == ALL_SUBSETS and not side.is_foreign:
                    inferer(image, called)
                    return
                for visible in masks:
                    called(image, visible)

        return forward

    optimizer = optimizer_of(network, side.is_foreign)
    target = torch.randint(0, 4, (side.batch, 1, *image.shape[2:]), device=device)
    exists = () if side.is_foreign else (torch.ones_like(mask),)

    def step() -> None:
        optimizer.zero_grad()
        with precision:
            output = called(image, mask, *exists)
            loss = training_loss(output, target)
        loss.backward()
        optimizer.step()

    return step


def _measured(action: Callable[[], None], device: str) -> Cost:
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    if on_gpu:
        torch.cuda.synchronize(device)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if on_gpu:
        return Cost(cpu, wall, torch.cuda.max_memory_allocated(device) / 2**30)
    return Cost(cpu, wall, _peak_resident_gib())


def _peak_resident_gib() -> float:
    """The largest resident memory of this process so far.

    On Linux from its own memory map: what ``getrusage`` tells begins with the peak of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
