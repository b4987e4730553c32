import os
import subprocess
import sys

import pytest

from medmap_components.allocator import tune_allocator

FAULTS = """
import resource, torch
from medmap_components.allocator import tune_allocator
tune_allocator()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(64 * 2**20 // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def page_faults(setting: str) -> int:
    result = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env={**os.environ, "MEDMAP_ALLOCATOR": setting},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout)


@pytest.mark.skipif(not tune_allocator(), reason="the C library is not glibc")
def test_tensors_reuse_memory_unless_told_otherwise():
    # 20 tensors of 64 MiB are 20 * 16384 pages of 4 KiB (fewer with huge pages); reused memory faults no more.
    assert page_faults("tuned") < page_faults("default") / 10


def test_environment_variable_leaves_the_allocator_alone(monkeypatch):
    monkeypatch.setenv("MEDMAP_ALLOCATOR", "default")
    assert tune_allocator() is False
