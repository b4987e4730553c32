"""Training and inference on a GPU; skipped where there is none. All other tests run on the CPU (tests/conftest.py)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import pytest

from tests.conftest import GPUS_VARIABLE, HIDDEN, write_study

PROGRAM = """
import json, sys, monai.bundle, torch
runs = json.load(sys.stdin)
for run in runs:
    before = torch.cuda.memory_allocated()  # what the run before it left there does not count
    torch.cuda.reset_peak_memory_stats()
    monai.bundle.run(logging_file=False, **run)
    print("BYTES", torch.cuda.max_memory_allocated() - before)
"""


@pytest.fixture(scope="module")
def environment():
    """The environment of this process before the GPUs were hidden."""
    visible = os.environ[GPUS_VARIABLE]
    restored = {key: value for key, value in os.environ.items() if key != HIDDEN}
    if visible != "all":
        restored[HIDDEN] = visible
    probe = [sys.executable, "-c", "import torch; raise SystemExit(not torch.cuda.is_available())"]
    if shutil.which("nvidia-smi") is None or subprocess.run(probe, env=restored).returncode:
        pytest.skip("no GPU that torch can use")
    return restored


@pytest.mark.bundles("one of each backbone")
def test_training_and_inference_use_the_gpu_and_write_a_segmentation(bundle, environment, tmp_path):
    study = write_study(tmp_path / "in" / "case", "case", modalities=("flair", "t1"), label=False)
    weights, out = tmp_path / "training", tmp_path / "out"
    training = bundle.tiny_training(output_dir=str(weights), run_id="training", config_file=str(bundle.config("train")))
    inference = {
        "config_file": str(bundle.config("inference")),
        "dataset_dir": str(study.parent),
        "output_dir": str(out),
        "checkpoint": str(weights / "model.pt"),
        "report_pictures": False,
        **bundle.tiny_network,
    }
    runs = [training, inference]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(runs), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    used = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("BYTES")]
    assert len(used) == 2
    assert min(used) > 0
    (segmentation,) = out.rglob("case*.nii.gz")
    assert nib.load(segmentation).shape == nib.load(study / "case_flair.nii.gz").shape
