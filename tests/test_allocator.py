"""The allocator's settings are made once asked for, and only then."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from medmap_components import allocator

GLIBC = platform.libc_ver()[0] == "glibc"

FAULTS = """
import resource, numpy
from medmap_components.allocator import tune_allocator
tune_allocator()
def touch():
    numpy.ones(8_000_000)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(monkeypatch, choice: str) -> int:
    monkeypatch.setenv(allocator.VARIABLE, choice)
    return int(subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(not GLIBC, reason="the settings are those of glibc")
def test_large_blocks_are_reused_without_page_faults(monkeypatch):
    assert page_faults(monkeypatch, "tuned") * 10 < page_faults(monkeypatch, "default")


def test_default_leaves_everything_alone(monkeypatch):
    monkeypatch.setenv(allocator.VARIABLE, "default")
    assert allocator.tune_allocator() is False


@pytest.mark.parametrize(
    ("name", "value"), [("LD_PRELOAD", "/usr/lib/libjemalloc.so.2"), ("LD_PRELOAD", "libtcmalloc.so")]
)
def test_another_allocator_is_left_alone(monkeypatch, name, value):
    monkeypatch.delenv(allocator.VARIABLE, raising=False)
    monkeypatch.setenv(name, value)
    assert allocator.tune_allocator() is False


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.delenv(allocator.VARIABLE, raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert allocator.tune_allocator() is False


def test_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv(allocator.VARIABLE, "fast")
    with pytest.raises(ValueError, match="'fast'"):
        allocator.tune_allocator()
