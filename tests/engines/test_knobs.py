from __future__ import annotations

import json

import monai.bundle
import pytest

from medmap_components.engines import PASSED_BY_MONAI, check_knobs, refuse_unknown_keys

KNOWN = {"learning_rate", "epochs", "batch_size"}


def test_known_keys_pass():
    refuse_unknown_keys({"learning_rate", "epochs", "_own", "_meta_"}, KNOWN)
    refuse_unknown_keys(PASSED_BY_MONAI, set())


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [("learning_rat", "learning_rate"), ("epoch", "epochs"), ("batchsize", "batch_size"), ("ouput_dir", "output_dir")],
)
def test_a_mistyped_key_is_refused_with_a_suggestion(mistyped, meant):
    with pytest.raises(ValueError, match=f"{mistyped!r} .did you mean {meant!r}"):
        refuse_unknown_keys({"epochs", mistyped}, KNOWN)


def test_a_key_like_nothing_is_refused_without_a_suggestion():
    with pytest.raises(ValueError, match="'zzzzzz'") as caught:
        refuse_unknown_keys({"zzzzzz"}, KNOWN)
    assert "did you mean" not in str(caught.value)


def test_all_unknown_keys_are_named():
    with pytest.raises(ValueError, match="'aaa', 'zzz'"):
        refuse_unknown_keys(["zzz", "aaa"], KNOWN)


def test_a_key_that_a_later_file_adds_to_is_known():
    refuse_unknown_keys({"extra"}, {"+extra"})


def test_outside_a_workflow_nothing_is_checked(tmp_path):
    check_knobs(str(tmp_path))


@pytest.fixture
def config(tmp_path):
    """A bundle of two configs; the first one's run does nothing."""
    (tmp_path / "configs").mkdir()
    check = {"_target_": "medmap_components.engines.check_knobs", "bundle_root": str(tmp_path)}
    content = {"epochs": 1, "net": {"width": 2}, "initialize": [check], "run": ["$None"]}
    (tmp_path / "configs" / "train.json").write_text(json.dumps(content))
    (tmp_path / "configs" / "inference.json").write_text(json.dumps({**content, "overlap": 0.5}))
    return tmp_path / "configs" / "train.json"


def run(files, **overrides):
    monai.bundle.run(config_file=files, meta_file=None, logging_file=False, **overrides)


@pytest.fixture(autouse=True)
def metadata(request):
    if "config" in request.fixturenames:
        (request.getfixturevalue("config").parent / "metadata.json").write_text("{}")


def test_overrides_of_known_keys_pass(config):
    run(str(config), **{"epochs": 2, "net#width": 3, "run_name": "r", "_mine": 1})


def test_an_unknown_key_stops_a_run_before_it_begins(config):
    with pytest.raises(RuntimeError) as caught:
        run(str(config), epoch=2)
    assert "did you mean 'epochs'" in str(caught.value.__cause__)


def test_a_key_of_another_config_of_the_bundle_is_unknown(config):
    with pytest.raises(RuntimeError) as caught:
        run(str(config), overlap=0.25)
    assert "'overlap'" in str(caught.value.__cause__)


def test_keys_of_every_given_file_are_known(config, tmp_path):
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"own": 1, "net#depth": 2}))
    run([str(config), str(overlay)])
    run([str(config), str(overlay)], own=2)


def test_a_workflow_made_directly_is_checked_too(config):
    monai.bundle.ConfigWorkflow(str(config), logging_file=False, overlap=0.25).initialize()
    with pytest.raises(RuntimeError) as caught:
        monai.bundle.ConfigWorkflow(str(config), logging_file=False, epoch=2).initialize()
    assert "did you mean 'epochs'" in str(caught.value.__cause__)
