"""Published weights arrive under our keys, all of them, and nothing foreign is taken."""

from __future__ import annotations

import pytest
import torch

from medmap_components.networks import AdaptiveMixAnchor, RFNet
from medmap_components.networks.rfnet_weights import (
    UNUSED,
    convert_published_state,
    load_published_state,
    published_key_map,
)
from tests.networks import formula


def tiny(**kwargs) -> RFNet:
    return RFNet(base_channels=4, **kwargs)


@pytest.fixture(scope="module")
def state():
    return formula.published_state(tiny(), published_key_map(), raised=0)


def test_key_map_names_every_key_of_ours_and_no_published_key_twice():
    assert published_key_map().keys() == tiny().state_dict().keys()
    theirs = [key for group in published_key_map().values() for key in group]
    assert len(set(theirs)) == len(theirs)
    assert not set(theirs) & set(UNUSED)
    # weight and bias of: 12 units in each encoder; 9 units and a head in each decoder; and at every level two fusions
    # of 3 units, 2 layers of weights for each of 4 regions, and probability maps of 3 units and 2 layers
    assert len(theirs) + len(UNUSED) == 2 * (4 * 12 + 2 * (9 + 1) + 4 * (2 * 3 + 2 * 4 + 3 + 2))


def test_encoders_and_regions_are_stacked_in_their_order(state):
    converted = convert_published_state(state)
    parts = [state[f"{name}_encoder.e2_c2.conv.weight"] for name in ("flair", "t1ce", "t1", "t2")]
    assert torch.equal(converted["encoder.levels.2.conv_1.weight"], torch.cat(parts))
    parts = [state[f"decoder_fuse.RFM3.modal_fusion.{region}.weight_layer.2.bias"] for region in range(4)]
    assert torch.equal(converted["fused_decoder.fusion.3.weights.out.bias"], torch.cat(parts))


def test_loading_fills_the_network_and_leaves_the_anchor(state):
    network = tiny(anchor=AdaptiveMixAnchor())
    with torch.no_grad():
        network.anchor.theta.fill_(0.5)
    assert load_published_state(network, state) == []
    assert torch.equal(network.fused_decoder.head.weight, state["decoder_fuse.seg_layer.weight"])
    assert torch.equal(
        network.fused_decoder.maps["2"].hidden.weight, state["decoder_fuse.prm_generator2.prm_layer.0.conv.weight"]
    )
    assert (network.anchor.theta == 0.5).all()


def test_biases_that_a_normalisation_takes_away_are_accepted_and_reported(state):
    key = "t1_encoder.e1_c1.conv.bias"
    wrapped = {f"module.{name}": value for name, value in {**state, key: torch.ones(4)}.items()}
    network = tiny()
    assert load_published_state(network, wrapped) == [key]
    assert torch.equal(network.modality_decoder.head.bias, state["decoder_sep.seg_layer.bias"])


def test_missing_and_unknown_keys_are_named(state):
    lacking = "decoder_fuse.RFM2.short_cut.1.conv.weight"
    with pytest.raises(ValueError, match=f"RFNet.*{lacking}"):
        convert_published_state({key: value for key, value in state.items() if key != lacking})
    with pytest.raises(ValueError, match="stem"):
        convert_published_state({**state, "stem.weight": torch.zeros(1)})


def test_weights_of_another_width_are_refused_with_the_width(state):
    with pytest.raises(ValueError, match="base_channels=16"):
        load_published_state(RFNet(base_channels=8), state)
