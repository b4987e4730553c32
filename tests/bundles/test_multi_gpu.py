"""Training in two processes, with gloo on the CPU: multi_gpu_train.json on top of train.json.

Two processes with a batch of one case each take the step of one process that accumulates the gradients of two batches
of one case: each loss is a mean over its own batch, and the gradients are averaged. One batch of two cases is something
else, because Dice sums over the cases of a batch.
"""

from __future__ import annotations

import json
from pathlib import Path

import ignite.distributed
import pytest
import torch

from tests.engines.conftest import ACCUMULATES

REPOSITORY = Path(__file__).resolve().parents[2]
DETERMINISTIC = REPOSITORY / "tests" / "data" / "distributed.json"
RECORDED = REPOSITORY / "tests" / "data" / "recorded.json"
TRAINING = {  # two of them lack modalities, so that the processes see different ones
    "A": ("flair", "t1ce", "t1", "t2"),
    "B": ("flair", "t2"),
    "C": ("t1ce", "t1", "t2"),
    "D": ("flair", "t1ce", "t1", "t2"),
}
VALIDATION = ("V1", "V2", "V3")  # an odd number: the processes validate two cases and one
EPOCHS = 3


@pytest.fixture(scope="module")
def settings(make_study, tmp_path_factory) -> dict[str, object]:
    """Overrides for a run of three epochs on seven real studies."""
    root = tmp_path_factory.mktemp("studies")
    for name, modalities in {**TRAINING, **dict.fromkeys(VALIDATION, TRAINING["A"])}.items():
        make_study(root / name, name, modalities=modalities)
    split = root / "split.json"
    split.write_text(json.dumps({"training": list(TRAINING), "validation": list(VALIDATION)}))
    return {"dataset_dir": str(root), "split_file": str(split), "epochs": EPOCHS, "learning_rate": 0.01}


def torchrun(bundle, overlays: list[Path]) -> list[str]:
    """The command that trains a bundle in two processes."""
    files = [bundle.config("train"), bundle.config("multi_gpu_train"), *overlays]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return [*launcher, "-m", "monai.bundle", "run", "training", "--config_file", str([str(path) for path in files])]


@pytest.fixture(scope="module")
def two_processes(bundle, settings, command_line, as_options, tmp_path_factory) -> tuple[Path, Path]:
    """Output folder and records of a run in two processes that was killed in its second epoch and resumed."""
    folder = tmp_path_factory.mktemp("two")
    command = torchrun(bundle, [DETERMINISTIC, RECORDED])
    overrides = bundle.tiny_training(**settings, output_dir=str(folder / "out"), _record_dir=str(folder / "steps"))
    command += as_options({**overrides, "train#sampler#shuffle": False})
    killed = command_line(*command, "--_dies_in_epoch", 2, cwd=folder)
    assert killed.returncode != 0
    assert "Signal 9" in killed.stderr, killed.stderr[-3000:]
    assert torch.load(folder / "out" / "last.pt", weights_only=True)["epoch"] == 1
    resumed = command_line(*command, "--resume", "true", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert resumed.stdout.count("Resumed after epoch 1 of 3") == 1  # the first process alone reports
    return folder / "out", folder / "steps"


@pytest.fixture(scope="module")
def one_process(bundle, settings, tmp_path_factory) -> tuple[Path, Path]:
    """The same run in one process that accumulates the gradients of two batches."""
    if not ACCUMULATES:
        pytest.skip("MONAI accumulates gradients from 1.6 on")
    folder = tmp_path_factory.mktemp("one")
    overrides = {"output_dir": str(folder / "out"), "_record_dir": str(folder / "steps")}
    overrides["train#trainer#accumulation_steps"] = 2
    bundle.run("train", "training", [DETERMINISTIC, RECORDED], **bundle.tiny_training(**settings, **overrides))
    return folder / "out", folder / "steps"


def epoch_record(records: Path, rank: int, epoch: int):
    return torch.load(records / f"{rank}_{epoch}.pt", weights_only=True)


def test_each_process_trains_on_its_own_share(two_processes):
    for epoch in range(1, EPOCHS + 1):
        steps = [epoch_record(two_processes[1], rank, epoch)["steps"] for rank in (0, 1)]
        studies = [[step["files"][0].split(".")[0] for step in each] for each in steps]
        assert studies == [["A", "C"], ["B", "D"]]


def test_gradients_agree_between_the_processes_and_none_is_missing(two_processes):
    for epoch in range(1, EPOCHS + 1):
        of_both = [epoch_record(two_processes[1], rank, epoch)["steps"] for rank in (0, 1)]
        for first, second in zip(*of_both, strict=True):
            assert all(gradient is not None for gradient in first["gradients"])
            assert all(torch.equal(a, b) for a, b in zip(first["gradients"], second["gradients"], strict=True))


def test_one_set_of_files_is_written(two_processes):
    output = two_processes[0]
    # no model.json: of a folder's studies the voxel size is not known
    assert sorted(path.name for path in output.iterdir()) == ["last.pt", "model.pt", "tensorboard"]
    # one file of curves from the first run, one from the one that resumed it, in the trainer and the evaluator each
    assert len(list((output / "tensorboard").iterdir())) == 4


def test_weights_and_state_are_those_of_one_process_that_accumulates(two_processes, one_process):
    one, two = (torch.load(folder / "last.pt", weights_only=True) for folder, _ in (one_process, two_processes))
    assert one["network"].keys() == two["network"].keys()
    assert not [name for name in two["network"] if name.startswith("module.")]
    start = epoch_record(one_process[1], 0, 1)
    moved = max(float(gradient.abs().max()) for gradient in start["steps"][0]["gradients"])
    assert moved > 1e-2  # steps that are all zero would agree as well
    for name, value in one["network"].items():
        torch.testing.assert_close(two["network"][name], value, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert two["epoch"] == one["epoch"] == EPOCHS
    assert two["lr_scheduler"]["_last_lr"] == one["lr_scheduler"]["_last_lr"]


def test_validation_counts_every_case_once(two_processes, one_process):
    one, two = (torch.load(folder / "last.pt", weights_only=True)["best"] for folder, _ in (one_process, two_processes))
    assert two["metric"] == pytest.approx(one["metric"], abs=1e-4)
    assert two["epoch"] == one["epoch"]


def test_loss_terms_are_means_over_all_processes(two_processes, one_process):
    for epoch in range(1, EPOCHS + 1):
        one = epoch_record(one_process[1], 0, epoch)["metrics"]
        for rank in (0, 1):
            two = epoch_record(two_processes[1], rank, epoch)["metrics"]
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
            # only B lacks T1ce, only C lacks FLAIR
            for term in ("modality_flair", "modality_t1ce", "alignment"):
                assert two[term] == pytest.approx(one[term], rel=1e-3), term


def test_weights_are_loaded_by_inference(bundle, two_processes, settings, make_study, tmp_path):
    make_study(tmp_path / "in" / "case", "case", modalities=("flair",), label=False)
    bundle.infer(tmp_path / "in", tmp_path / "out", two_processes[0] / "model.pt")
    assert (tmp_path / "out" / "case" / "case_seg.nii.gz").is_file()


@pytest.mark.bundles("one of each other family")
def test_a_family_that_trains_several_networks_keeps_both_processes_alike(
    bundle, tiny_dataset, command_line, as_options, tmp_path
):
    """With modalities hidden at random, others in each process: what they learn is one network all the same."""
    split = tmp_path / "split.json"
    names = [f"BraTS2021_0000{index}" for index in range(4)]
    split.write_text(json.dumps({"training": names[1:3], "validation": names[::3]}))
    settings = {"dataset_dir": str(tiny_dataset), "split_file": str(split), "val_interval": 9, "epochs": 2}
    folders = {"output_dir": str(tmp_path / "out"), "_record_dir": str(tmp_path / "steps")}
    options = as_options(bundle.tiny_training(**settings, **folders))
    result = command_line(*torchrun(bundle, [RECORDED]), *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = (epoch_record(tmp_path / "steps", rank, 2) for rank in (0, 1))
    assert {step["files"][0] for step in first["steps"]}.isdisjoint(step["files"][0] for step in second["steps"])
    assert len(first["weights"]) > 10
    assert all(torch.equal(second["weights"][name], value) for name, value in first["weights"].items())
    weights = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert not [name for name in weights if "module." in name]


@pytest.mark.bundles("every")
def test_the_overlay_fits_every_bundle(bundle, tiny_dataset, tmp_path, monkeypatch):
    """In one process: the network is wrapped, the loaders draw shares, the evaluator runs the bare network."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    overrides = bundle.tiny_training(output_dir=str(tmp_path), dataset_dir=str(tiny_dataset), cache_rate=0.0)
    try:
        bundle.run("train", "training", [bundle.config("multi_gpu_train")], **overrides)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        # ignite, and with it MONAI's metrics, would go on as if there were a process group, in the tests that follow
        ignite.distributed.sync()
    assert not [n for n in torch.load(tmp_path / "model.pt", weights_only=True) if n.startswith("module.")]


def test_the_readme_shows_the_command(bundle):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "torchrun --standalone --nproc_per_node=" in readme
    assert f"bundles/{bundle.root.name}/configs/multi_gpu_train.json" in readme
