"""Tests of scripts/benchmark.py: both sides do the same work, and the table says what was measured."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from medmap_components.losses import TargetStatistics, soft_dice_loss, weighted_cross_entropy

SCRIPTS = Path(__file__).parents[2] / "scripts"
FOREIGN = '''
import torch
from torch import nn

class Model(nn.Module):
    """Softmaxed 1x1x1 convolution of the visible modalities; in training two maps in a nested tuple."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(4, 4, 1)
        self.is_training = False

    def forward(self, x, mask):
        maps = self.conv(x * mask[:, :, None, None, None]).softmax(1)
        return (maps, (maps,)) if self.is_training else maps

class NoImage(Model):
    def forward(self, x, mask):
        raise ValueError("nothing to see")
'''


@pytest.fixture(scope="module")
def script():
    """The script as a module; its processes find its parts on the path, as when it is run."""
    sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPTS / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def sides(script):
    from benchmarking import sides

    return sides


@pytest.fixture
def foreign(tmp_path):
    (tmp_path / "foreign_network.py").write_text(FOREIGN)
    return ["--baseline", "foreign_network:Model", "--baseline_path", str(tmp_path)]


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]


@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_table_of_a_training_step_against_a_baseline(script, foreign, capsys, one_at_a_time):
    options = ["--network", "mmformer", "--size", "32", "--repeats", "1", "--threads", "1", "--device", "cpu"]
    script.main([*options, *foreign, "--tasks", "training step", *["--one_at_a_time"] * one_at_a_time])
    printed = capsys.readouterr().out
    assert "CPU, 1 threads, 32^3, batch 1, 1 repeats, allocator user" in printed
    header, _, baseline, ours = cells(printed)
    assert header == list(script.COLUMNS)
    assert (baseline[0], ours[0]) == ("baseline foreign_network:Model", "mmformer")
    assert baseline[5:] == ["", "", ""]
    for column in (2, 4):
        assert float(ours[column]) > 0
    # 35 million parameters with gradients and three moments against 20
    assert float(ours[7]) > 1
    assert float(ours[7]) == pytest.approx(float(ours[4]) / float(baseline[4]), abs=0.1)


def test_fifteen_subsets_are_fifteen_different_masks_on_both_sides(script, foreign, monkeypatch):
    from benchmarking import worker

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, x, mask):
            self.seen.append(mask)
            return x

    parsed = script.parse_arguments(["--size", "16", "--device", "cpu", *foreign])
    for side in script.sides_of(parsed, "mmformer"):
        network = Recorder()
        monkeypatch.setattr(worker, "build", lambda _, network=network: network)
        worker._action(side, "15 subsets")()
        masks = {tuple(row.tolist()) for mask in network.seen for row in mask}
        assert len(masks) == len(network.seen) == 15


def test_error_of_a_worker_reaches_the_user(script, foreign):
    options = [*foreign, "--network", "mmformer", "--size", "32", "--threads", "1", "--device", "cpu"]
    options[1] = "foreign_network:NoImage"
    with pytest.raises(ValueError, match="nothing to see"):
        script.main([*options, "--tasks", "forward, 1 modality"])


def test_sides_differ_in_what_was_asked_for(script, foreign):
    options = ["--size", "32", "--anchor", "pmix", "--amp", "ours", *foreign]
    baseline, ours = script.sides_of(script.parse_arguments(options), "mmformer")
    assert (ours.amp, ours.tuned, ours.is_foreign, ours.label) == (True, True, False, "mmformer_pmix")
    assert (baseline.amp, baseline.tuned, baseline.is_foreign) == (False, False, True)
    both = [*options, "--amp", "both", "--allocator", "tuned", "--compile", "both"]
    baseline, ours = script.sides_of(script.parse_arguments(both), "mmformer")
    assert (baseline.amp, baseline.tuned, baseline.compiled) == (True, True, True)
    default = script.parse_arguments([*both, "--allocator", "default"])
    assert [side.tuned for side in script.sides_of(default, "mmformer")] == [False, False]


def test_medians_and_ratios(script, sides):
    class Counted:
        def __init__(self, side, task):
            self.costs = iter([3.0, 1.0, 2.0] if side.is_foreign else [1.5, 1.0, 0.5])

        def run(self):
            value = next(self.costs)
            return script.Cost(value, 2 * value, value + 1)

        def stop(self):
            pass

    script_worker, script.Worker = script.Worker, Counted
    try:
        chosen = script.sides_of(script.parse_arguments(["--baseline", "a:B"]), "mmformer")
        costs = script.measure(chosen, "training step", repeats=3)
    finally:
        script.Worker = script_worker
    assert costs == [(2.0, 4.0, 4.0), (1.0, 2.0, 2.5)]
    rows = script.rows_of(chosen, "training step", costs)
    assert rows[0][2:] == ["2.00", "4.00", "4.00", "", "", ""]
    assert rows[1][2:] == ["1.00", "2.00", "2.50", "0.50", "0.50", "0.62"]


def test_foreign_maps_cost_the_published_loss_each(sides):
    target = torch.randint(0, 4, (2, 1, 3, 3, 3))
    maps = torch.randn(2, 4, 3, 3, 3).softmax(1)
    statistics = TargetStatistics.from_labels(target, 4)
    one = weighted_cross_entropy(maps, statistics) + soft_dice_loss(maps, statistics)
    torch.testing.assert_close(sides.training_loss((maps, (maps, maps)), target), 3 * one)


def test_published_training_flag_follows_the_mode(sides):
    network = nn.Module()
    network.is_training = None
    for training in (True, False):
        sides.set_training(network, training)
        assert (network.training, network.is_training) == (training, training)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--baseline", "models"], "MODULE:CLASS"),
        (["--baseline_path", "x"], "needs --baseline"),
        (["--repeats", "0"], "at least 1, got 0"),
        (["--network", "vnet"], "vnet"),
    ],
)
def test_bad_options_are_named(script, options, message, capsys):
    with pytest.raises(SystemExit):
        script.parse_arguments(options)
    assert message in capsys.readouterr().err


def test_missing_baseline_says_what_to_do(sides, script):
    baseline, _ = script.sides_of(script.parse_arguments(["--baseline", "no_such_module:Model"]), "mmformer")
    with pytest.raises(ValueError, match=r"no_such_module:Model cannot be imported .*--baseline_path"):
        sides.build(baseline)


PEAKS = """
import sys, mmap
sys.path.insert(0, sys.argv[1])
from benchmarking.worker import _peak_resident_gib
before = _peak_resident_gib()
reserved = mmap.mmap(-1, 2**30)  # asked for, never touched
untouched = _peak_resident_gib()
used = bytearray(b"x") * 2**28
print(untouched - before, _peak_resident_gib() - untouched)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_peak_memory_is_what_a_process_touched_itself():
    ballast = bytearray(b"x") * 2**29  # the peak of who starts a process is not the process's
    command = [sys.executable, "-c", PEAKS, str(SCRIPTS)]
    untouched, used = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert len(ballast) == 2**29
    assert untouched < 0.05
    assert used == pytest.approx(0.25, abs=0.03)
