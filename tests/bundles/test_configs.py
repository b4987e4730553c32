"""What can be told from a bundle's files without running them."""

from __future__ import annotations

import json
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ComponentLocator, ConfigComponent

KNOBS = [
    "dataset_dir",
    "output_dir",
    "resume",
    "epochs",
    "crop_size",
    "batch_size",
    "learning_rate",
    "val_interval",
    "num_workers",
    "cache_rate",
    "modality_probabilities",
    "seed",
    "amp",
]
KNOBS_OF_ANCHORS = [
    "alignment_weight",
    "alignment_fill",
    "alignment_levels",
    "alignment_divergence",
    "alignment_warmup_epochs",
    "detach_anchor",
]
TRAINING_MACHINERY = ["imports", "bundle_root", "network_def", "network", "loss", "optimizer", "train", "validate"]
# MONAI Label reads a type of task, and MONAI a version, out of a bundle's name
FORBIDDEN_IN_NAMES = ["_v", "detection", "deepedit", "deepgrow", "classification"]

pytestmark = pytest.mark.bundles("every")


def knobs(bundle) -> list[str]:
    return KNOBS + (KNOBS_OF_ANCHORS if bundle.anchor != "base" else [])


def config_files(bundle) -> list[Path]:
    return sorted((bundle.root / "configs").glob("*.json"))


def strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from strings(value)
    elif isinstance(content, list):
        for value in content:
            yield from strings(value)


def targets(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        if "_target_" in content:
            yield content["_target_"]
        for value in content.values():
            yield from targets(value)
    elif isinstance(content, list):
        for value in content:
            yield from targets(value)


def all_strings(bundle) -> list[tuple[str, str]]:
    return [(f.name, s) for f in config_files(bundle) for s in strings(json.loads(f.read_text(encoding="utf-8")))]


@pytest.mark.parametrize(
    "name",
    ["LICENSE", "docs/README.md", "configs/logging.conf"]
    + [f"configs/{name}.json" for name in ("train", "inference", "evaluate", "multi_gpu_train", "metadata")],
)
def test_a_bundle_has_all_its_files(bundle, name):
    assert (bundle.root / name).stat().st_size > 0


def test_a_bundle_ships_no_code_of_its_own(bundle):
    # a folder scripts/ would be shared between all bundles of one process
    assert not list(bundle.root.rglob("*.py"))
    assert not (bundle.root / "scripts").exists()


def test_the_name_is_one_that_monai_and_monai_label_read_right(bundle):
    assert not [part for part in FORBIDDEN_IN_NAMES if part in bundle.root.name]
    assert re.fullmatch(r"[a-z0-9_]+", bundle.root.name)


def test_no_macro_reads_another_file(bundle):
    # such a path would be relative to the working directory
    macros = [(name, text) for name, text in all_strings(bundle) if text.startswith("%")]
    assert not [(name, text) for name, text in macros if re.search(r"\.(json|ya?ml)\b", text)]


def test_no_path_belongs_to_one_machine(bundle):
    absolute = re.compile(r"""(^|['"\s])(/[A-Za-z]|~/|[A-Za-z]:\\)""")
    wrong = [(name, text) for name, text in all_strings(bundle) if absolute.search(text) and "://" not in text]
    # what the configs append to a folder, such as '/output', is no absolute path
    assert not [(name, text) for name, text in wrong if not re.search(r"\+ '/", text)]


def test_the_package_is_named_by_targets_only(bundle):
    # an import or an expression is evaluated before a vendored copy of the package can be found
    for name, text in all_strings(bundle):
        if "medmap_components" in text:
            assert re.fullmatch(r"medmap_components(\.\w+)+", text), f"{name}: {text}"


def test_every_target_can_be_imported(bundle):
    found = [target for f in config_files(bundle) for target in targets(json.loads(f.read_text(encoding="utf-8")))]
    assert any(target.startswith("medmap_components.") for target in found)
    locator = ComponentLocator()
    missing = []
    for target in sorted(set(found)):
        full_name = ConfigComponent(config={"_target_": target}, locator=locator).resolve_module_name()
        if pydoc.locate(str(full_name)) is None:
            missing.append(target)
    assert not missing


def test_knobs_stand_at_the_top_before_any_machinery(bundle):
    keys = list(bundle.read("train"))
    first = min(keys.index(machinery) for machinery in TRAINING_MACHINERY)
    assert set(knobs(bundle)) <= set(keys[:first])


def test_a_bundle_without_an_anchor_has_none_of_its_knobs(bundle):
    present = [knob for knob in KNOBS_OF_ANCHORS if knob in {**bundle.read("train"), **bundle.read("inference")}]
    assert bool(present) == (bundle.anchor != "base")


def test_every_knob_is_referred_to(bundle):
    config = bundle.read("train")
    text = "\n".join(strings(config))
    for knob in knobs(bundle):
        assert re.search(rf"@{knob}\b", text), f"{knob} changes nothing"


def test_run_is_a_reference_to_training_and_nothing_evaluates(bundle):
    # the empty run id evaluates the whole config; a copy instead of a reference would train twice
    config = bundle.read("train")
    assert config["run"] == "@training"
    assert isinstance(config["training"], list)
    assert "evaluating" not in config


def test_handlers_and_engines_are_literal(bundle):
    # MONAI Label and the tracking of MONAI put entries into them
    config = bundle.read("train")
    for section, engine in (("train", "trainer"), ("validate", "evaluator")):
        assert all(isinstance(handler, dict) for handler in config[section]["handlers"])
        assert isinstance(config[section][engine], dict)
        assert isinstance(config[section]["dataset"]["data"], dict)


def test_one_handler_saves_the_state_of_the_run(bundle):
    handlers = [handler["_target_"] for handler in bundle.read("train")["train"]["handlers"]]
    assert [handler.endswith("ResumableState") for handler in handlers].count(True) == 1


def test_in_distributed_training_only_the_first_process_reports(bundle):
    config = bundle.read("train")
    reporting = ("ProgressBar", "StatsHandler")
    for section in ("train", "validate"):
        handlers = [h for h in config[section]["handlers"] if h["_target_"].endswith(reporting)]
        assert len(handlers) >= 3
        assert all(handler["_disabled_"] == "@is_not_rank0" for handler in handlers)


def test_inference_prepares_images_as_training_does(bundle):
    def steps(transforms: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """All that images go through after they were read and checked, whatever else goes through it."""
        return [
            {name: value for name, value in transform.items() if name != "keys"}
            for transform in transforms
            if "image" in transform["keys"] and not transform["_target_"].endswith(("LoadStudyd", "CheckStudyd"))
        ]

    training = steps(bundle.read("train")["train"]["deterministic_transforms"])
    assert len(training) >= 4
    inference = steps(bundle.read("inference")["preprocessing"]["transforms"])
    assert inference == training
    assert [step["_target_"].rpartition(".")[2] for step in training[:2]] == ["Orientationd", "SpacingIfNeededd"]


def test_predictions_are_inverted_before_they_become_labels(bundle):
    # MONAI Label leaves SaveImaged out, so nothing else would bring them back into the study's space
    steps = [transform["_target_"] for transform in bundle.read("inference")["postprocessing"]["transforms"]]
    assert steps.index("Invertd") < steps.index("AsDiscreted") < steps.index("SaveImaged")
    assert steps[-2:] == ["SaveImaged", "SaveImaged"]
