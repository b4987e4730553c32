"""Checkpoints in the shape in which the authors' training writes them, and what is refused."""

from __future__ import annotations

import re
from collections import OrderedDict

import numpy as np
import pytest
import torch

from medmap_components.networks import MMFormer, RFNet, mmformer_weights, rfnet_weights
from medmap_components.networks.published_checkpoints import convert_checkpoint, read_checkpoint
from tests.networks import formula

SIZES = {"img_size": 48, "base_channels": 4, "embed_dim": 16, "mlp_dim": 24, "depth": 2}


def mmformer_state() -> dict[str, torch.Tensor]:
    state = formula.published_state(MMFormer(**SIZES), mmformer_weights.published_key_map(depth=2), raised=1)
    unused = {"t1_decode_conv.weight": torch.zeros(64, 16, 1, 1, 1), "t1_decode_conv.bias": torch.zeros(64)}
    return {**state, **unused}


def rfnet_state() -> dict[str, torch.Tensor]:
    state = formula.published_state(RFNet(base_channels=8), rfnet_weights.published_key_map(), raised=0)
    biases = {key: torch.ones(state[key.removesuffix("bias") + "weight"].shape[0]) for key in rfnet_weights.UNUSED}
    return {**state, **biases}


STATES = {"mmformer": mmformer_state, "rfnet": rfnet_state}


def parallel(state):
    return OrderedDict((f"module.{key}", value) for key, value in state.items())


def saved(tmp_path, content, **options):
    torch.save(content, tmp_path / "model_last.pth", **options)
    return tmp_path / "model_last.pth"


@pytest.mark.parametrize("backbone", STATES)
@pytest.mark.parametrize("form", ["published", "no prefix", "bare", "half precision", "old torch"])
def test_all_forms_of_a_file_give_the_same_weights(backbone, form, tmp_path):
    state = STATES[backbone]()
    optimiser = {
        "state": {0: {"step": 7, "exp_avg": torch.ones(2)}},
        "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999)}],
    }
    content = {
        "published": {"epoch": 299, "state_dict": parallel(state), "optim_dict": optimiser},
        "no prefix": {"state_dict": state},
        "bare": parallel(state),
        "half precision": {key: value.half() for key, value in state.items()},
        "old torch": {"epoch": 299, "state_dict": parallel(state), "optim_dict": optimiser},
    }[form]
    file = saved(tmp_path, content, _use_new_zipfile_serialization=form != "old torch")
    checkpoint = read_checkpoint(file)
    assert (checkpoint.epoch, checkpoint.left) == ((299, ("optim_dict",)) if "optim_dict" in content else (None, ()))
    result = convert_checkpoint(checkpoint)
    assert result.backbone == backbone
    module = {"mmformer": mmformer_weights, "rfnet": rfnet_weights}[backbone]
    expected = module.convert_published_state(state, *([2] if backbone == "mmformer" else []))
    assert result.weights.keys() == expected.keys() == result.renamed.keys()
    tolerance = 1e-3 if form == "half precision" else 0.0
    for key, value in result.weights.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[key], rtol=tolerance, atol=tolerance)


def test_sizes_are_read_off_mmformers_weights(tmp_path):
    result = convert_checkpoint(read_checkpoint(saved(tmp_path, {"state_dict": parallel(mmformer_state())})))
    assert result.arguments == {**SIZES, "num_classes": 4, "token_layout": "published"}
    assert result.dropped == ["t1_decode_conv.weight", "t1_decode_conv.bias"]
    used = {key for group in result.renamed.values() for key in group}
    assert used | set(result.dropped) == mmformer_state().keys()
    MMFormer(**result.arguments).load_state_dict(result.weights, strict=True)


def test_sizes_are_read_off_rfnets_weights(tmp_path):
    result = convert_checkpoint(read_checkpoint(saved(tmp_path, {"state_dict": parallel(rfnet_state())})))
    assert result.arguments == {"base_channels": 8, "num_classes": 4}
    assert sorted(result.dropped) == sorted(rfnet_weights.UNUSED)
    RFNet(**result.arguments).load_state_dict(result.weights, strict=True)


class Meter:
    """Stands for an object of the authors' own that was pickled along."""

    best = 0.5


@pytest.mark.parametrize(
    ("extra", "needs"), [(Meter(), r"[\w.]*Meter"), (np.float64(0.9), r"numpy\.[\w.]*scalar")], ids=["class", "numpy"]
)
def test_a_pickle_that_needs_more_is_refused_with_the_way_out(extra, needs, tmp_path):
    file = saved(tmp_path, {"state_dict": parallel(rfnet_state()), "best": extra})
    with pytest.raises(ValueError, match=needs) as refused:
        read_checkpoint(file)
    assert "weights_only=False" in str(refused.value)
    assert "is code and not a tensor" in str(refused.value)


def test_no_code_of_a_pickle_is_run(tmp_path):
    class Writes:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    with pytest.raises(ValueError, match=r"needs \w*\.open"):
        read_checkpoint(saved(tmp_path, {"state_dict": parallel(rfnet_state()), "more": Writes()}))
    assert not (tmp_path / "ran").exists()


def test_files_that_hold_something_else_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.pth"))):
        read_checkpoint(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("<html>sign in to download</html>")
    with pytest.raises(ValueError, match=r"text\.pth"):
        read_checkpoint(tmp_path / "text.pth")
    with pytest.raises(ValueError, match=r"no state dict.*keys \['epoch', 'optim_dict'\]"):
        read_checkpoint(saved(tmp_path, {"epoch": 3, "optim_dict": {}}))


def checkpoint_with(tmp_path, state):
    return read_checkpoint(saved(tmp_path, {"state_dict": parallel(state)}))


def test_other_networks_and_damaged_ones_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"flair_pos \(mmformer\).*conv\.weight"):
        convert_checkpoint(checkpoint_with(tmp_path, {"conv.weight": torch.zeros(3)}))
    with pytest.raises(ValueError, match="published mmFormer"):
        convert_checkpoint(checkpoint_with(tmp_path, rfnet_state()), "mmformer")
    with pytest.raises(ValueError, match="'unet'"):
        convert_checkpoint(checkpoint_with(tmp_path, rfnet_state()), "unet")
    lacking = mmformer_state()
    del lacking["t2_transformer.cross_ffn_list.1.fn.norm.bias"]
    with pytest.raises(ValueError, match=r"1 keys are missing .*t2_transformer"):
        convert_checkpoint(checkpoint_with(tmp_path, lacking))
    damaged = rfnet_state()
    damaged["t1_encoder.e1_c2.conv.weight"][0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"1 tensors.*t1_encoder\.e1_c2"):
        convert_checkpoint(checkpoint_with(tmp_path, damaged))


def test_five_classes_are_refused(tmp_path):
    state = rfnet_state()
    for key, value in state.items():
        if "seg_layer" in key:
            state[key] = torch.cat([value, value[:1]])
    with pytest.raises(ValueError, match=r"5 classes.*BraTS 2015"):
        convert_checkpoint(checkpoint_with(tmp_path, state))
