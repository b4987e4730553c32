"""A run that was killed and resumed ends where an uninterrupted one ends."""

from __future__ import annotations

import json
import signal

import pytest
import torch

from medmap_components.engines import MissingModalityTrainer

EPOCHS = 4

# Kills its own process in the middle of the third epoch, as a power cut would.
KILLED_RUN = """
import json, os, signal, sys
import monai.bundle
from medmap_components.engines import MissingModalityTrainer

publish = MissingModalityTrainer._publish_terms

def publish_or_die(self, engine):
    if engine.state.epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    publish(self, engine)

MissingModalityTrainer._publish_terms = publish_or_die
monai.bundle.run("training", config_file=sys.argv[1], **json.loads(sys.argv[2]))
"""


def state(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def assert_same(actual, expected, path="state"):
    assert type(actual) is type(expected), path
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), path
        for key in expected:
            assert_same(actual[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), path
        for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_same(a, b, f"{path}/{index}")
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6, msg=lambda text: f"{path}: {text}")
    else:
        assert actual == (pytest.approx(expected, abs=1e-6) if isinstance(expected, float) else expected), path


@pytest.fixture(scope="module")
def uninterrupted(bundle, tiny_dataset, tmp_path_factory):
    # a learning rate that moves the weights far, so that any difference shows
    return bundle.train(tmp_path_factory.mktemp("whole"), **settings(tiny_dataset))


def settings(dataset_dir):
    return {"dataset_dir": str(dataset_dir), "epochs": EPOCHS, "learning_rate": 0.01, "seed": 3}


@pytest.mark.bundles("one of each family")
def test_a_killed_run_goes_on_as_if_nothing_had_happened(bundle, tiny_dataset, uninterrupted, command_line, tmp_path):
    overrides = bundle.tiny_training(output_dir=str(tmp_path), **settings(tiny_dataset))
    killed = command_line("-c", KILLED_RUN, bundle.config("train"), json.dumps(overrides))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert state(tmp_path)["epoch"] == 2

    bundle.train(tmp_path, resume=True, **settings(tiny_dataset))
    # network, optimiser, learning-rate schedule, epoch, iteration, best metric and its epoch
    whole = state(uninterrupted)
    assert whole["epoch"] == EPOCHS
    assert {"network", "optimizer", "lr_scheduler", "best"} <= whole.keys()
    assert_same(state(tmp_path), whole)
    for folder in (tmp_path, uninterrupted):
        assert not list(folder.glob("*.1.pt"))
    best = [torch.load(folder / "model.pt", weights_only=True) for folder in (tmp_path, uninterrupted)]
    assert_same(*best)


def test_a_run_with_worker_processes_goes_on_as_well(bundle, tiny_dataset, tmp_path, monkeypatch):
    few = {"dataset_dir": str(tiny_dataset), "epochs": 2, "val_interval": 9, "num_workers": 1, "cache_rate": 0.0}
    whole = state(bundle.train(tmp_path / "whole", **few))

    publish = MissingModalityTrainer._publish_terms

    def publish_or_stop(self, engine):
        if engine.state.epoch == 2:
            raise KeyboardInterrupt
        publish(self, engine)

    with monkeypatch.context() as patch:
        patch.setattr(MissingModalityTrainer, "_publish_terms", publish_or_stop)
        with pytest.raises(KeyboardInterrupt):
            bundle.train(tmp_path / "parts", **few)
    assert state(tmp_path / "parts")["epoch"] == 1
    resumed = state(bundle.train(tmp_path / "parts", resume=True, **few))
    assert_same(resumed["network"], whole["network"])


def test_resuming_without_an_earlier_run_is_refused(bundle, tiny_dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"last\.pt.*--output_dir"):
        bundle.train(tmp_path, resume=True, dataset_dir=str(tiny_dataset))
    assert not (tmp_path / "model.pt").exists()


def test_resuming_another_network_is_refused(bundle, trained, tiny_dataset, tmp_path):
    (tmp_path / "last.pt").write_bytes((trained / "last.pt").read_bytes())
    with pytest.raises(ValueError, match="another network"):
        bundle.train(tmp_path, resume=True, dataset_dir=str(tiny_dataset), crop_size=[48, 48, 48])
    assert (tmp_path / "last.pt").read_bytes() == (trained / "last.pt").read_bytes()
