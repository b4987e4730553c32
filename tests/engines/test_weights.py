from __future__ import annotations

import logging

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from medmap_components.engines import WeightsLoader, read_weights, save_atomically, set_aside


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("the disk is full")


def test_what_is_saved_is_read_back_and_folders_are_made(tmp_path):
    weights = {"a.weight": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.int64)}
    path = tmp_path / "new" / "folder" / "model.pt"
    save_atomically(weights, path)
    read = read_weights(path)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], value) for name, value in weights.items())
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.pt"
    save_atomically({"a": torch.ones(1)}, path)
    old = path.read_bytes()
    with pytest.raises(RuntimeError, match="the disk is full"):
        save_atomically({"a": Unpicklable()}, path)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_set_aside_takes_the_first_free_number(tmp_path):
    path = tmp_path / "model.pt"
    assert set_aside(path) is None
    kept = []
    for content in (b"first", b"second", b"third"):
        path.write_bytes(content)
        kept.append(set_aside(path))
        assert not path.exists()
    assert [file.name for file in kept] == ["model.1.pt", "model.2.pt", "model.3.pt"]
    assert [file.read_bytes() for file in kept] == [b"first", b"second", b"third"]
    kept[1].unlink()
    path.write_bytes(b"fourth")
    assert set_aside(path).name == "model.2.pt"
    assert kept[0].read_bytes() == b"first"


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt.*Train.*--checkpoint"):
        read_weights(tmp_path / "nowhere.pt")


def test_a_folder_is_no_file_of_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip file"])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt cannot be read"):
        read_weights(path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": nn.Linear(1, 1)}, path)
    with pytest.raises(ValueError, match=r"model\.pt cannot be read"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3, "network": {"a": torch.ones(1)}}, r"epoch.*network.*last\.pt"),
        ({"state_dict": {"a": torch.ones(1)}}, "state_dict"),
        (torch.ones(3), "Tensor"),
    ],
)
def test_what_is_no_bare_state_dict_is_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=words):
        read_weights(tmp_path / "x.pt")


def test_weights_are_loaded_when_the_engine_starts(tmp_path, caplog):
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    save_atomically(source.state_dict(), tmp_path / "model.pt")
    engine = Engine(lambda *_: None)
    WeightsLoader(str(tmp_path / "model.pt"), target).attach(engine)
    assert not torch.equal(target.weight, source.weight)
    with caplog.at_level(logging.INFO):
        engine.run([0])
    assert torch.equal(target.weight, source.weight)
    assert "model.pt" in caplog.text


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nn.Linear(2, 3, bias=False), r"1 missing \(first: bias\)"),
        (nn.Sequential(nn.Linear(2, 3)), r"2 missing.*2 unknown \(first: 0\.bias\)"),
        (nn.Linear(2, 4), r"2 of another shape \(first: bias is \(4,\) there and \(3,\) here\)"),
    ],
)
def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path, other, words):
    save_atomically(other.state_dict(), tmp_path / "model.pt")
    network = nn.Linear(2, 3)
    before = network.weight.clone()
    engine = Engine(lambda *_: None)
    WeightsLoader(str(tmp_path / "model.pt"), network).attach(engine)
    with pytest.raises(ValueError, match=words):
        engine.run([0])
    assert torch.equal(network.weight, before)
