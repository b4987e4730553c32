"""Settings given on the command line: what they change, and which are refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from medmap_components.data.phantom import FreshPhantoms

KNOBS_ELSEWHERE = {
    "epochs": 7,
    "crop_size": [32, 48, 32],
    "batch_size": 3,
    "learning_rate": 0.5,
    "val_interval": 2,
    "num_workers": 0,
    "cache_rate": 0.0,
    "modality_probabilities": [1, 0, 1, 0.5],
    "seed": 11,
    "amp": True,
    "alignment_weight": 0.25,
    "alignment_fill": "zeros",
    "alignment_levels": [2, 3],
    "alignment_divergence": "gaussian",
    "alignment_warmup_epochs": 3,
    "detach_anchor": True,
}


def test_every_knob_reaches_what_it_is_for(bundle, tiny_dataset, tmp_path):
    folders = {"dataset_dir": str(tiny_dataset), "output_dir": str(tmp_path / "out")}
    workflow = bundle.workflow("train", "train", **folders, **KNOBS_ELSEWHERE, **bundle.tiny_network)
    workflow.initialize()

    def part(name: str):
        return workflow.parser.get_parsed_content(name)

    trainer, loss, anchor = part("train#trainer"), part("loss"), part("network_def").anchor
    handlers = {type(handler).__name__: handler for handler in part("train#handlers")}
    assert len(part("train#dataset")) + len(part("validate#dataset")) == 4
    assert handlers["ResumableState"].path == tmp_path / "out" / "last.pt"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tensorboard"]
    assert trainer.state.max_epochs == 7
    assert part("network_def").img_size == (32, 48, 32)
    assert part("train#dataloader").batch_size == 3
    assert part("optimizer").param_groups[0]["initial_lr"] == 0.5
    assert part("lr_scheduler").total_iters == 7
    assert handlers["ValidationHandler"].interval == 2
    assert part("train#dataset").cache_num == 0
    assert sum(part("train#random_transforms")[8].dropout.weights > 0) == 2  # FLAIR+T1 and FLAIR+T1+T2
    assert handlers["EpochSeed"].seed == 11
    assert trainer.amp or trainer.cpu_amp
    assert loss.alignment_weight == 0.25
    assert loss.alignment.divergence == "gaussian"
    assert handlers["AlignmentWarmup"].epochs == 3
    assert loss in [part for part, _ in handlers["AlignmentWarmup"].weights]
    assert (anchor.levels, anchor.fill, anchor.detach_anchor) == ((2, 3), "zeros", True)


@pytest.mark.parametrize(("word", "meant"), [("false", False), ("True", True)])
def test_the_words_true_and_false_mean_what_they_say(bundle, word, meant, tiny_dataset, tmp_path):
    # MONAI's command line hands them over as text, and any text counts as true
    knobs = {"resume": word, "amp": word, "detach_anchor": word}
    folders = {"dataset_dir": str(tiny_dataset), "output_dir": str(tmp_path / "out")}
    workflow = bundle.workflow("train", "train", **bundle.tiny_training(**folders, **knobs))
    workflow.initialize()
    trainer, handlers, network = (
        workflow.parser.get_parsed_content(name) for name in ("train#trainer", "train#handlers", "network_def")
    )
    (state,) = (handler for handler in handlers if type(handler).__name__ == "ResumableState")
    assert (trainer.amp or trainer.cpu_amp, state.resume, network.anchor.detach_anchor) == (meant, meant, meant)


def test_fresh_phantoms_are_not_cached_and_validation_stays(bundle, tmp_path):
    knobs = {"phantom_fresh": "true", "phantom_contrasts": "broad", "output_dir": str(tmp_path), "cache_rate": 1.0}
    settings = {"phantom_settings#folder": str(tmp_path / "phantom")}
    workflow = bundle.workflow("train", "train", **{**bundle.tiny_training(**knobs), **settings})
    workflow.initialize()
    training, validation = (workflow.parser.get_parsed_content(f"{name}#dataset") for name in ("train", "validate"))
    assert isinstance(training.data, FreshPhantoms)
    assert (training.cache_num, training.data.contrasts) == (0, "broad")
    assert not isinstance(validation.data, FreshPhantoms)
    assert validation.cache_num == len(validation) > 0
    first = training.data.case_seed(0)
    (seeding,) = (h for h in workflow.parser.get_parsed_content("train#handlers") if type(h).__name__ == "EpochSeed")
    seeding(SimpleNamespace(state=SimpleNamespace(epoch=2)))
    assert training.data.case_seed(0) != first


@pytest.mark.parametrize("name", ["train", "inference"])
@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [("alignment_fil", "alignment_fill"), ("dataset_dri", "dataset_dir"), ("outputdir", "output_dir")],
)
def test_a_mistyped_knob_is_refused_with_a_suggestion(bundle, name, mistyped, meant):
    with pytest.raises(ValueError, match=f"{mistyped!r} .did you mean {meant!r}"):
        bundle.run(name, **{mistyped: 3})


@pytest.mark.parametrize("knob", ["alignment_weight", "alignment_fill", "alignment_levels", "anchor_weights"])
def test_a_bundle_without_an_anchor_says_so_when_given_a_knob_of_one(bundle, knob):
    without = type(bundle)(bundle.root.with_name("mmformer_base"), bundle.phantom_dir)
    with pytest.raises(ValueError, match=f"{knob!r} .this bundle has no anchor; those that end in _pn"):
        without.run("train", "training", **{knob: 0})


def test_a_mistyped_learning_rate_is_refused(bundle):
    with pytest.raises(ValueError, match=r"'learning_rat' .did you mean 'learning_rate'"):
        bundle.run("train", "training", learning_rat=3)


def test_a_setting_of_another_config_is_refused(bundle):
    # --checkpoint belongs to inference; training would pass over it
    with pytest.raises(ValueError, match="unknown setting 'checkpoint'"):
        bundle.run("train", "training", checkpoint="model.pt")


def test_settings_of_monais_tracking_are_let_through(bundle, tiny_dataset):
    tracking = {"experiment_name": "e", "run_name": "r", "tracking_uri": "u", "save_execute_config": False}
    for name in ("train", "inference"):
        overrides = {"is_not_rank0": False, "output_dir": "o"}
        bundle.workflow(name, "train", dataset_dir=str(tiny_dataset), **tracking, **overrides).initialize()


def test_a_key_with_an_underscore_is_ones_own(bundle, tiny_dataset):
    workflow = bundle.workflow("train", "train", _mine=0.125, learning_rate="$@_mine * 2", **bundle.tiny_network)
    workflow.initialize()
    assert workflow.parser.get_parsed_content("learning_rate") == 0.25


def test_keys_of_a_second_config_file_are_accepted(bundle, tiny_dataset, tmp_path, monkeypatch):
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"own_epochs": 9, "epochs": "$@own_epochs"}))
    seen: list[int] = []
    overrides = bundle.tiny_training(dataset_dir=str(tiny_dataset), output_dir=str(tmp_path))
    del overrides["epochs"]
    monkeypatch.setattr("monai.engines.Trainer.run", lambda trainer: seen.append(trainer.state.max_epochs))
    bundle.run("train", "training", overlays=[overlay], **overrides)
    assert seen == [9]
    with pytest.raises(ValueError, match=r"'own_epoch' .did you mean 'own_epochs'"):
        bundle.run("train", "training", overlays=[overlay], own_epoch=1, **overrides)
