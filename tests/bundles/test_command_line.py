"""The commands as a user types them."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.bundles("one of each backbone")
def test_the_main_command_trains_and_inference_segments(
    bundle, command_line, as_options, make_study, make_nifti, tiny_arrays, tmp_path
):
    """Training from the repository root, then inference on a folder with one good and one bad study."""
    training = command_line(
        *("-m", "monai.bundle", "run", "training", "--config_file", f"bundles/{bundle.root.name}/configs/train.json"),
        *as_options(bundle.tiny_training(output_dir=str(tmp_path / "out"))),
    )
    assert training.returncode == 0, training.stderr[-3000:]
    assert "SYNTHETIC PHANTOM" in training.stdout
    for term in ("loss", "alignment", "alignment_level_1", "val_mean_dice"):
        assert f" {term}: " in training.stdout
    assert str(tmp_path / "out") in training.stdout.splitlines()[-2] + training.stdout.splitlines()[-1]
    assert torch.load(tmp_path / "out" / "model.pt", weights_only=True)

    studies = tmp_path / "studies"
    make_study(studies / "good", "good", modalities=("flair", "t2"), label=False)
    make_nifti(studies / "bad" / "bad_t1.nii.gz", tiny_arrays()["t1"] * 0 + 5)
    inference = command_line(
        *("-m", "monai.bundle", "run", "--config_file", bundle.config("inference"), "--dataset_dir", studies),
        *("--output_dir", tmp_path / "seg", "--checkpoint", tmp_path / "out" / "model.pt"),
        *as_options(bundle.tiny_network),
        cwd=tmp_path,
    )
    assert inference.returncode not in (0, None)
    assert "1 of 2 studies could not be segmented" in inference.stderr
    assert "\n  bad: " in inference.stderr
    assert [path.name for path in (tmp_path / "seg").rglob("*.nii.gz")] == ["good_seg.nii.gz"]
