"""What may reach a machine with a bundle: no pickle that runs code, known callables, packages with known hashes."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import import_script

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = [path for folder in ("medmap_components", "scripts") for path in sorted(REPOSITORY.glob(f"{folder}/**/*.py"))]
# all that reads a pickle, by the last part of its name
UNPICKLING = {"load", "loads", "Unpickler", "read_pickle", "load_objects", "CheckpointLoader"}
# torch.jit.load reads back the export that was just written; it takes no pickle
HARMLESS = {"np.load", "numpy.load", "json.load", "json.loads", "nib.load", "self.load", "torch.jit.load"}


def dangerous(source: str) -> Iterator[str]:
    """Calls that may unpickle more than tensors."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if given.get("allow_pickle", "False") != "False":
            yield ast.unparse(node)
        elif name == "torch.load":
            if given.get("weights_only") != "True":
                yield ast.unparse(node)
        elif name.rpartition(".")[2] in UNPICKLING and name not in HARMLESS:
            yield ast.unparse(node)


def locked() -> dict[str, tuple[set[str], int]]:
    """Package to its versions and the number of its hashes, as requirements.lock has them."""
    entries = re.findall(r"^\S.*(?:\n[ \t]+.*)*", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    packages: dict[str, tuple[set[str], int]] = {}
    for entry in entries:
        found = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", entry)
        if found:
            versions, hashes = packages.get(canonicalize_name(found[1]), (set(), 0))
            number = len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))
            assert number > 0, f"{found[0]} has no hash"
            packages[canonicalize_name(found[1])] = (versions | {found[2]}, hashes + number)
    return packages


def needed_by(name: str) -> Iterator[str]:
    """What an installed package needs here, directly."""
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_source_unpickles_more_than_tensors(path):
    assert list(dangerous(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "pickle.load(file)",
        "pickle.loads(data)",
        "pickle.Unpickler(file).load()",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "pandas.read_pickle(path)",
        "joblib.load(path)",
        "load(path)",
        "Checkpoint.load_objects(to_load=a, checkpoint=path)",
    ],
)
def test_the_check_of_the_sources_notices(source):
    assert list(dangerous(source))


def test_no_bundle_loads_or_evaluates_what_is_given_to_it():
    uses = import_script("list_targets").collect(REPOSITORY / "bundles")
    owners = {call.kind for call in uses if call.kind.startswith("Targets")}
    assert owners == {"Targets of medmap_components", "Targets of monai", "Targets of torch"}
    words = {word for call in uses for word in re.findall(r"\w+", call.text)}
    assert not words & {*UNPICKLING, "eval", "exec", "compile", "open", "system", "popen", "subprocess", "__import__"}
    assert {call.text for call in uses if call.kind == "Imports"} == {
        f"$import {name}" for name in ("inspect", "logging", "os", "sys")
    }


def test_the_lock_has_every_pinned_package_with_hashes_except_torch():
    packages = locked()
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(re.match(r"([\w.-]+)==([^\s#]+)", line).groups() for line in lines if "==" in line)
    assert len(pins) >= 10
    for name, version in pins.items():
        if name != "torch":
            assert packages[canonicalize_name(name)][0] == {version}
    assert not [name for name in packages if name.startswith(("torch", "nvidia", "cuda", "triton"))]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the lock is for Python 3.11 and 3.12")
def test_the_lock_has_all_that_the_pinned_packages_need():
    packages = locked()
    found = importlib.metadata.distributions()
    installed = {canonicalize_name(package.metadata["Name"]): package.version for package in found}
    # what torch needs is installed with it, and what it shares with others is locked all the same
    waiting, seen = [name for name in packages if name != "colorama"], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name == "torch":
            continue
        seen.add(name)
        assert name in packages, f"{name} is needed and not in requirements.lock"
        # what is not installed here is needed on other systems; another version may need other packages
        if installed.get(name) in packages[name][0]:
            waiting += needed_by(name)
