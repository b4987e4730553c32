"""The pictures that scripts draw with a bundle's own evaluation."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import matplotlib.image
import pytest

from medmap_components.engines import open_evaluator
from medmap_components.visualize import subset_grid

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    """Imports a script by name, as python does that runs it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def load(name: str):
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load


@pytest.fixture
def command(bundle, trained, tiny_dataset, tmp_path) -> list[str]:
    """Arguments that all these scripts take, with settings that are tiny."""
    # the weights are of phantoms with larger voxels, which would leave little of these studies
    settings = bundle.tiny_training(dataset_dir=str(tiny_dataset), overlap=0.0, spacing_mm=1.0)
    for told in ("crop_size", "dataset_dir"):  # by the weights, and by an argument of its own
        del settings[told]
    pairs = [f"{key}={value}" for key, value in settings.items()]
    arguments = [f"mine={bundle.root}", "--checkpoint", str(trained / "model.pt"), "--dataset_dir", str(tiny_dataset)]
    return [*arguments, "--output_file", str(tmp_path / "picture.png"), "--set", *pairs]


def test_one_study_is_drawn_with_every_subset_that_it_has_something_of(script, command, tmp_path, monkeypatch):
    given = {}
    draw = subset_grid.draw_subset_grid
    module = script("plot_subsets")
    monkeypatch.setattr(
        module, "draw_subset_grid", lambda study, methods, path: given.update(methods) or draw(study, methods, path)
    )
    module.main([*command, "--study", "BraTS2021_00002"])
    assert list(given) == ["mine"]
    assert [name for name in given["mine"] if "FLAIR" not in name and "T2" not in name] == ["all"]
    assert len(given["mine"]) == 12  # of FLAIR and T2 alone nothing is left of T1ce, T1, T1ce+T1
    picture = given["mine"]["FLAIR"]
    assert 0 <= picture.dice["WT"] <= 1
    assert picture.prediction.ndim == 3
    assert matplotlib.image.imread(tmp_path / "picture.png").shape[1] > 1000


def test_a_study_of_another_voxel_size_is_drawn_on_its_own_grid(script, command, monkeypatch):
    module, given = script("plot_subsets"), {}
    draw = subset_grid.draw_subset_grid
    monkeypatch.setattr(
        module, "draw_subset_grid", lambda study, methods, path: given.update(study=study) or draw(study, methods, path)
    )
    native = command[: command.index("spacing_mm=1.0")] + command[command.index("spacing_mm=1.0") + 1 :]
    shapes = {}
    for spacing in (1.0, 1.5):
        module.main([*native, f"spacing_mm={spacing}", "--study", "BraTS2021_00000"])
        shapes[spacing] = {image.shape for image in given["study"].images.values()} | {given["study"].reference.shape}
    assert len(shapes[1.0]) == 1
    assert shapes[1.5] == shapes[1.0]


def test_latents_are_drawn_and_their_gap_is_written(script, command, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    script("plot_latents").main([*command, "--places", "6", "--perplexity", "5"])
    (numbers,) = json.loads((tmp_path / "picture.json").read_text()).values()
    # two complete studies, one with two modalities and one with three
    assert (numbers["samples"], numbers["studies"]) == ((4 + 4 + 2 + 3) * 6, 4)
    assert 0 <= numbers["probe_accuracy"] <= 1
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_unknown_studies_bundles_and_settings_are_refused(bundle, trained, tiny_dataset, tmp_path, script, command):
    overrides = bundle.tiny_training(dataset_dir=str(tiny_dataset), checkpoint=str(trained / "model.pt"), section="all")
    del overrides["crop_size"]
    with pytest.raises(ValueError, match=r"study 'nobody' is not among the 4 studies: \['BraTS2021_00000'"):
        open_evaluator(bundle.root, "nobody", **overrides)
    with pytest.raises(FileNotFoundError, match=r"train\.json does not exist; give the folder of a bundle"):
        open_evaluator(tmp_path)
    with pytest.raises(SystemExit):
        script("plot_subsets").main([*command, "no_value", "--study", "x"])
