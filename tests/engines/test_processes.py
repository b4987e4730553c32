"""Two processes in earnest are in tests/bundles/test_multi_gpu.py."""

from __future__ import annotations

import pytest
import torch
import torch.distributed

from medmap_components.engines import processes


def test_a_single_process_is_the_first_and_keeps_what_it_measured():
    assert processes.process_rank() == 0
    assert processes.is_first_process()
    assert processes.sums_over_processes({"a": 2.0}) == {"a": 2.0}
    assert torch.equal(processes.mean_over_processes(torch.tensor([1.0, 3.0])), torch.tensor([1.0, 3.0]))


@pytest.fixture
def second_of_two(monkeypatch):
    """This process is number 1 of two; the other one measured ``{"a": 1, "b": 5}``, or a tensor of tens."""

    def gather(everyone, own):
        everyone[:] = [{"a": 1.0, "b": 5.0}, own]

    replies = {"is_initialized": lambda: True, "get_rank": lambda: 1, "get_world_size": lambda: 2}
    replies |= {"all_gather_object": gather, "all_reduce": lambda tensor: tensor.add_(10)}
    for name, reply in replies.items():
        monkeypatch.setattr(torch.distributed, name, reply)


@pytest.mark.usefixtures("second_of_two")
def test_names_that_some_processes_lack_are_summed_over_the_others():
    assert processes.sums_over_processes({"a": 2.0, "c": 7.0}) == {"a": 3.0, "b": 5.0, "c": 7.0}


@pytest.mark.usefixtures("second_of_two")
def test_a_mean_leaves_its_argument_alone():
    value = torch.tensor([2.0])
    assert float(processes.mean_over_processes(value)) == 6  # (2 + 10) / 2
    assert float(value) == 2
    assert not processes.is_first_process()
