"""Tests of scripts/make_phantom.py."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_phantom.py"
COARSE = ["--size", "48", "--spacing", "4"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_phantom", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(folder):
    return {file.name for file in folder.rglob("*.nii.gz")}


def test_writes_studies_in_brats_naming(script, tmp_path):
    script.main(["--output_dir", str(tmp_path), "--num_cases", "2", "--seed", "5", *COARSE])
    parts = ("flair", "t1ce", "t1", "t2", "seg")
    assert written(tmp_path) == {f"Phantom_{seed:04d}_{part}.nii.gz" for seed in (5, 6) for part in parts}


def test_leaves_out_the_named_modalities_and_labels(script, tmp_path):
    script.main(["--output_dir", str(tmp_path), "--num_cases", "1", "--missing", "t1ce", "t2", "--no_labels", *COARSE])
    assert written(tmp_path) == {"Phantom_0000_flair.nii.gz", "Phantom_0000_t1.nii.gz"}


def test_random_subsets_are_incomplete_not_empty_and_vary(script):
    subsets = [tuple(script.choose_modalities(["random"], seed)) for seed in range(60)]
    assert {len(subset) for subset in subsets} == {1, 2, 3}
    assert len(set(subsets)) > 10
    assert subsets[0] == tuple(script.choose_modalities(["random"], 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--missing", "flair", "t1ce", "t1", "t2"], "leaves no modality"),
        (["--missing", "random", "t1"], "cannot be combined"),
        (["--size", "48", "48"], "1 or 3 numbers"),
        (["--num_cases", "0"], "at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(script, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        script.parse_arguments(["--output_dir", str(tmp_path), *arguments])
    assert message in capsys.readouterr().err
