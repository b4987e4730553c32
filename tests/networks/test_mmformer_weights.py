"""Published weights arrive under our keys, all of them, and nothing foreign is taken."""

from __future__ import annotations

import pytest
import torch

from medmap_components.networks import AdaptiveMixAnchor, MMFormer
from medmap_components.networks.mmformer_weights import (
    convert_published_state,
    load_published_state,
    published_key_map,
)
from tests.networks import formula


def tiny(**kwargs) -> MMFormer:
    return MMFormer(img_size=32, base_channels=2, embed_dim=16, mlp_dim=32, num_heads=2, **kwargs)


@pytest.fixture(scope="module")
def state():
    return formula.published_state(tiny(), published_key_map(), raised=1)


def test_key_map_names_every_key_of_ours_and_no_published_key_twice():
    assert published_key_map().keys() == tiny().state_dict().keys()
    theirs = [key for group in published_key_map().values() for key in group]
    assert len(set(theirs)) == len(theirs)
    assert published_key_map(depth=2).keys() == tiny(depth=2).state_dict().keys()


def test_encoders_are_stacked_in_the_order_of_modalities(state):
    stacked = convert_published_state(state)["encoder.levels.2.conv_1.weight"]
    parts = [state[f"{name}_encoder.e2_c2.conv.weight"] for name in ("flair", "t1ce", "t1", "t2")]
    assert torch.equal(stacked, torch.cat(parts))


def test_loading_fills_the_network_and_leaves_the_anchor(state):
    network = tiny(anchor=AdaptiveMixAnchor())
    with torch.no_grad():
        network.anchor.theta.fill_(0.5)
    load_published_state(network, state)
    assert torch.equal(network.modality_tokens["t1"].position, state["t1_pos"])
    assert torch.equal(network.bottleneck.weight, state["multimodal_decode_conv.weight"].flatten(1))
    assert (network.anchor.theta == 0.5).all()


def test_data_parallel_prefix_and_dead_parameters_are_accepted_and_these_reported(state):
    wrapped = {f"module.{key}": value for key, value in state.items()}
    wrapped["module.t1_decode_conv.weight"] = torch.zeros(1)
    network = tiny()
    assert load_published_state(network, wrapped) == ["t1_decode_conv.weight"]
    assert torch.equal(network.bottleneck.bias, state["multimodal_decode_conv.bias"])


def test_missing_and_unknown_keys_are_named(state):
    with pytest.raises(ValueError, match="t1_pos"):
        convert_published_state({key: value for key, value in state.items() if key != "t1_pos"})
    with pytest.raises(ValueError, match="stem"):
        convert_published_state({**state, "stem.weight": torch.zeros(1)})


def test_weights_of_another_size_are_refused_with_the_sizes(state):
    with pytest.raises(ValueError, match=r"\(1, 8, 16\) for \(1, 27, 16\)"):
        load_published_state(MMFormer(img_size=48, base_channels=2, embed_dim=16, mlp_dim=32, num_heads=2), state)
