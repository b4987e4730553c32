"""Tests of scripts/build_bundles.py."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import monai.bundle
import pytest
import torch

import medmap_components

REPOSITORY = Path(__file__).parents[2]
EXTENSION = Path(__file__).with_name("extension")
ANCHORS = ["base", "pkmix", "pmix", "pn"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_bundles", REPOSITORY / "scripts" / "build_bundles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fragments(tmp_path) -> Path:
    """A copy of the fragments, to be changed."""
    return Path(shutil.copytree(REPOSITORY / "scripts" / "fragments", tmp_path / "fragments"))


@pytest.fixture
def build(script, fragments, tmp_path):
    """Runs the script on the copy; returns its exit code."""

    def run(*arguments: str) -> int:
        folders = ["--fragments_dir", str(fragments), "--bundles_dir", str(tmp_path / "bundles")]
        return script.main([*folders, *arguments])

    return run


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_bundles_of_the_repository_are_what_their_fragments_make(script, capsys):
    assert script.main(["--check"]) == 0, capsys.readouterr().out


def test_there_is_a_bundle_for_each_backbone_and_anchor(script):
    fragments = REPOSITORY / "scripts" / "fragments"
    assert script.names(fragments, "anchors") == ANCHORS
    expected = {f"{b}_{a}" for b in script.names(fragments, "backbones") for a in ANCHORS}
    assert {path.parents[1].name for path in REPOSITORY.glob("bundles/*/configs/metadata.json")} == expected


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("configs/train.json", lambda path: path.write_text(path.read_text().replace("0.1", "0.2", 1)), "0.2"),
        ("configs/metadata.json", lambda path: path.unlink(), "missing"),
        ("docs/README.md", lambda path: path.write_text(path.read_text() + "more\n"), "-more"),
        ("configs/leftover.json", lambda path: path.write_text("{}"), "no fragment makes this file"),
    ],
    ids=["value", "removed file", "added line", "added file"],
)
def test_a_difference_is_noticed_and_named(build, tmp_path, capsys, name, change, said):
    build()
    assert build("--check") == 0
    path = tmp_path / "bundles" / "mmformer_pn" / name
    change(path)
    capsys.readouterr()
    assert build("--check") == 1
    out = capsys.readouterr().out
    assert f"differs: {path}" in out
    assert said in out
    assert out.count("differs:") == 1


def test_building_again_undoes_a_change_and_touches_nothing_else(build, tmp_path, capsys):
    build()
    changed, other = (tmp_path / "bundles" / "mmformer_pn" / "configs" / f"{n}.json" for n in ("train", "inference"))
    text, time = changed.read_text(), other.stat().st_mtime_ns
    changed.write_text("{}")
    capsys.readouterr()
    assert build() == 0
    assert capsys.readouterr().out.count("written:") == 1
    assert changed.read_text() == text
    assert other.stat().st_mtime_ns == time


def test_a_later_layer_wins_and_an_appended_list_keeps_both(script, fragments):
    train = json.loads(script.bundle_files(fragments, "mmformer", "pkmix")["configs/train.json"])
    assert train["network_def"]["_target_"].endswith("MMFormer")
    assert train["network_def"]["anchor"]["_target_"].endswith("FixedMixAnchor")
    assert train["detach_anchor"] is True
    references = json.loads(script.bundle_files(fragments, "mmformer", "pkmix")["configs/metadata.json"])["references"]
    assert [("MedMAP" in text, "mmFormer" in text) for text in references] == [(True, False), (False, True)]


def test_knobs_come_first_those_of_the_base_then_the_backbones_then_the_anchors(script, fragments):
    path = fragments / "backbones" / "mmformer.json"
    own = {"train_knobs#own_knob": 1, "docs#knobs#own_knob": "nothing"}
    path.write_text(json.dumps({**read(path), **own}))
    keys = list(json.loads(script.bundle_files(fragments, "mmformer", "pmix")["configs/train.json"]))
    assert keys[0] == "_desc_"
    expected = ["dataset_dir", "amp", "own_knob", "alignment_weight", "detach_anchor", "imports", "network_def"]
    assert sorted(expected, key=keys.index) == expected


def test_a_setting_that_a_backbone_leaves_open_is_named(script, fragments):
    path = fragments / "backbones" / "mmformer.json"
    content = read(path)
    del content["train_knobs#epochs"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"mmformer_pn: no fragment sets \['train#epochs'\].*mmformer\.json"):
        script.bundle_files(fragments, "mmformer", "pn")


def test_a_knob_without_a_description_is_named(script, fragments):
    path = fragments / "backbones" / "mmformer.json"
    path.write_text(json.dumps({**read(path), "train_knobs#own_knob": 1}))
    with pytest.raises(ValueError, match="'own_knob' has no description; add docs#knobs#own_knob"):
        script.bundle_files(fragments, "mmformer", "pn")


def test_short_lists_stand_on_one_line_and_nothing_is_lost(script):
    content = {"a": [1, 2], "b": ["[\n  1\n]", "x"], "c": [{"d": []}], "e": ["word " * 30, "f"], "g": [[1], [2]]}
    text = script.as_json(content)
    assert json.loads(text) == content
    assert '"a": [1, 2]' in text
    assert '"g": [\n        [1],\n        [2]\n    ]' in text
    assert max(map(len, text.splitlines())) < 165


def test_a_backbone_and_an_anchor_are_added_with_one_python_file_and_one_fragment_each(
    build, fragments, tmp_path, monkeypatch
):
    for name, kind in (("example_backbone", "backbones"), ("example_anchor", "anchors")):
        shutil.copy(EXTENSION / f"{name}.py", tmp_path)
        shutil.copy(EXTENSION / f"{name}.json", fragments / kind / f"{name.partition('_')[2]}.json")
    (fragments / "anchors" / "anchor.json").rename(fragments / "anchors" / "mean.json")
    (fragments / "backbones" / "backbone.json").rename(fragments / "backbones" / "example.json")
    monkeypatch.syspath_prepend(tmp_path)
    assert build() == 0
    made = {path.name for path in (tmp_path / "bundles").iterdir()}
    assert {f"example_{anchor}" for anchor in [*ANCHORS, "mean"]} <= made
    assert "mmformer_mean" in made
    readme = (tmp_path / "bundles" / "example_mean" / "docs" / "README.md").read_text()
    assert readme.startswith("# Example with the mean as anchor\n")
    assert "| `width` | channels per modality | 4 |" in readme

    search_path = list(sys.path)
    bundle, output = tmp_path / "bundles" / "example_mean", tmp_path / "output"
    tiny = {"phantom_cases": [2, 1], "phantom_size": [32] * 3, "phantom_spacing": 6, "epochs": 1, "val_interval": 1}
    config = str(bundle / "configs" / "train.json")
    monai.bundle.run("training", config_file=config, output_dir=str(output), width=3, **tiny, logging_file=False)
    sys.path[:] = search_path
    weights = torch.load(output / "model.pt", weights_only=True)
    assert weights["head.weight"].shape == (4, 3, 1, 1, 1)
    assert torch.load(output / "last.pt", weights_only=True)["epoch"] == 1


def test_the_version_is_that_of_the_package_wherever_it_stands(script):
    version = script.package_version()
    assert version == medmap_components.__version__
    metadata = read(REPOSITORY / "bundles" / "acn_pn" / "configs" / "metadata.json")
    assert metadata["version"] == metadata["required_packages_version"]["medmap-components"] == version
    assert f"\nversion: {version}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{version}]" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_new_version_of_the_package_is_noticed_in_every_bundle(script, build, fragments, monkeypatch, capsys):
    build()
    monkeypatch.setattr(script, "package_version", lambda: "0.2.0")
    with pytest.raises(ValueError, match=r"0\.2\.0 is not in its changelog"):
        build("--check")
    base = fragments / "base" / "metadata.json"
    base.write_text(base.read_text().replace('"changelog": {', '"changelog": {"0.2.0": "second",'))
    capsys.readouterr()
    assert build("--check") == 1
    assert capsys.readouterr().out.count("configs/metadata.json") == 20


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (False, "false"),
        ("gaussian", "`gaussian`"),
        ("$3 if @phantom else 4", "4, phantom: 3"),
        ("$3 if @phantom or @start_from and @base_channels != 16 else 4", "4, phantom and narrow `start_from`: 3"),
        ({"_target_": "any.of_weights", "default": None}, "that of `start_from`, else null"),
        (
            {"_target_": "of_weights", "default": "$1 if @phantom else 2"},
            "that of `start_from`, else 2, phantom: 1",
        ),
    ],
)
def test_defaults_are_told_in_words(script, value, told):
    assert script._default(value) == told
