"""Tests of scripts/list_targets.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("list_targets")


@pytest.fixture
def bundles(tmp_path) -> Path:
    """Two small bundles, one of which may call something of its own."""
    for name, transform in (("a_base", "Compose"), ("b_base", "torch.nn.Identity")):
        folder = tmp_path / "bundles" / name / "configs"
        folder.mkdir(parents=True)
        content = {
            "imports": ["$import os"],
            "out": "$os.getcwd() or 'a|b'",
            "steps": [{"_target_": transform, "of": {"_target_": "medmap_components.x.Y"}}, {"_target_": "$@out"}],
        }
        (folder / "train.json").write_text(json.dumps(content))
    shutil.copy(tmp_path / "bundles/a_base/configs/train.json", tmp_path / "bundles/a_base/configs/inference.json")
    return tmp_path / "bundles"


def test_the_list_of_the_repository_is_current(script, capsys):
    assert script.main(["--check"]) == 0, capsys.readouterr().out


def test_all_that_runs_is_listed_with_its_place(script, bundles, tmp_path):
    script.main(["--bundles_dir", str(bundles), "--output_file", str(tmp_path / "list.md")])
    rows = [line for line in (tmp_path / "list.md").read_text().splitlines() if line.startswith(("| `", "## "))]
    assert rows == [
        "## Targets of medmap_components",
        "| `medmap_components.x.Y` | inference, train | all |",
        "## Targets of monai",
        "| `Compose` | inference, train | a_* |",
        "## Targets of torch",
        "| `torch.nn.Identity` | train | b_* |",
        "## Expressions",
        "| `$@out` | inference, train | all |",
        "| `$os.getcwd() or 'a\\|b'` | inference, train | all |",
        "## Imports",
        "| `$import os` | inference, train | all |",
    ]


@pytest.mark.parametrize("added", [{"_target_": "os.system"}, "$os.remove('x')"], ids=["target", "expression"])
def test_a_call_that_is_not_listed_is_noticed_and_shown(script, bundles, tmp_path, capsys, added):
    arguments = ["--bundles_dir", str(bundles), "--output_file", str(tmp_path / "list.md")]
    script.main(arguments)
    assert script.main([*arguments, "--check"]) == 0
    path = bundles / "b_base" / "configs" / "train.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "more": added}))
    assert script.main([*arguments, "--check"]) == 1
    out = capsys.readouterr().out
    assert f"+| `{added['_target_'] if isinstance(added, dict) else added}` | train | b_* |" in out
    assert "is not current" in out
