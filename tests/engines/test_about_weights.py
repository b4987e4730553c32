"""What lies beside weights and belongs to them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from torch import nn

from medmap_components.engines import BestWeights, FinalWeights, spacing_of_weights
from medmap_components.engines.about_weights import copy_description, describe_weights


@pytest.mark.parametrize("handler", [BestWeights, FinalWeights])
def test_saved_weights_tell_the_voxel_size_that_they_learnt_from(handler, tmp_path):
    path = str(tmp_path / "model.pt")
    state = SimpleNamespace(epoch=1, best_metric_epoch=1, best_metric=0.5, key_metric_name="dice", max_epochs=1)
    assert spacing_of_weights(path) == 1
    handler(path, nn.Linear(1, 1), {"spacing_mm": 3})(SimpleNamespace(state=state))
    assert spacing_of_weights(path) == 3
    assert json.loads((tmp_path / "model.json").read_text()) == {"spacing_mm": 3}


def test_what_is_not_known_is_not_written(tmp_path):
    describe_weights(tmp_path / "model.pt", {"spacing_mm": None})
    assert not (tmp_path / "model.json").exists()


def test_a_copy_of_weights_is_described_as_they_are(tmp_path):
    describe_weights(tmp_path / "first.pt", {"spacing_mm": 3})
    copy_description(tmp_path / "first.pt", tmp_path / "copy.pt")
    assert spacing_of_weights(str(tmp_path / "copy.pt")) == 3
    copy_description(tmp_path / "of which nothing is said.pt", tmp_path / "copy.pt")
    assert not (tmp_path / "copy.json").exists()


def test_new_weights_of_which_nothing_is_known_do_not_inherit_what_was_said_of_older_ones(tmp_path):
    (tmp_path / "model.json").write_text('{"spacing_mm": 3}')
    state = SimpleNamespace(epoch=1, best_metric_epoch=1, best_metric=0.5, key_metric_name="dice")
    BestWeights(str(tmp_path / "model.pt"), nn.Linear(1, 1))(SimpleNamespace(state=state))
    assert spacing_of_weights(str(tmp_path / "model.pt"), default=2.0) == 2
    assert spacing_of_weights(str(tmp_path / "model.pt"), default=None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[3]", "cannot be read"),
        ("{", "cannot be read"),
        ('{"spacing_mm": 0}', "positive number of millimetres, got 0"),
        ('{"spacing_mm": "3"}', "got '3'"),
        ('{"spacing_mm": true}', "got True"),
    ],
)
def test_a_damaged_description_is_refused(text, message, tmp_path):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        spacing_of_weights(str(tmp_path / "model.pt"))


def test_a_description_that_says_nothing_of_the_voxel_size_leaves_the_default(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    assert spacing_of_weights(str(tmp_path / "model.pt")) == 1
