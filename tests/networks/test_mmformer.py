"""mmFormer keeps the contract with every anchor, and what is special about it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medmap_components.networks import AdaptiveMixAnchor, FixedMixAnchor, MMFormer, NormalAnchor
from tests.networks.contract import NetworkContract
from tests.networks.multi_encoder_contract import MultiEncoderContract


def tiny(**kwargs) -> MMFormer:
    settings = {"img_size": 32, "base_channels": 2, "embed_dim": 16, "mlp_dim": 32, "num_heads": 2}
    return MMFormer(**{**settings, **kwargs})


class TestPlain(NetworkContract):
    def build(self):
        return tiny()


class TestPublishedLayoutInABox(NetworkContract):
    size = (32, 48, 32)

    def build(self):
        return tiny(img_size=self.size, token_layout="published", depth=2)


class TestNormalAnchor(NetworkContract):
    def build(self):
        return tiny(anchor=NormalAnchor(levels=(1, 5)))


class TestFixedMixAnchor(NetworkContract):
    def build(self):
        return tiny(anchor=FixedMixAnchor(levels=(1, 5)))


class TestAdaptiveMixAnchor(NetworkContract):
    def build(self):
        return tiny(anchor=AdaptiveMixAnchor(levels=(1, 2, 3, 4, 5)))


class TestEncoders(MultiEncoderContract):
    size = (32, 32, 32)
    depth = 5
    levels = (1, 2, 5)

    def build(self, anchor=None):
        return tiny(dropout_rate=0.0, anchor=anchor)

    def for_training_only(self, network):
        return [network.modality_decoder, *network.fused_decoder.deep_heads.values()]


class TokensAsTheyAre(nn.Module):
    def forward(self, tokens, position):
        return tokens


@pytest.mark.parametrize(
    ("layout", "voxel"), [("spatial", lambda m, v: v), ("published", lambda m, v: (8 * m + v) // 4)]
)
@torch.no_grad()
def test_token_layout_decides_which_bottleneck_voxel_a_token_reaches(layout, voxel):
    network = tiny(token_layout=layout).eval()
    network.fusion_transformer = TokensAsTheyAre()
    nothing = torch.zeros(1, 4, 8, 16)
    base = network._across_modalities(nothing)
    for modality in range(4):
        for place in range(8):
            tokens = nothing.clone()
            tokens[0, modality, place] = 1.0
            moved = (network._across_modalities(tokens) - base).abs().sum(dim=(0, 1, 2)).flatten() > 0
            assert moved.nonzero().flatten().tolist() == [voxel(modality, place)]


@torch.inference_mode()
def test_absent_modalities_have_no_tokens_in_eval():
    network = tiny().eval()
    embedded = []
    for name, part in network.modality_tokens.items():
        part.register_forward_hook(lambda *_, name=name: embedded.append(name))
    network(torch.zeros(2, 4, 32, 32, 32), torch.tensor([(False, True, False, True), (False, True, False, False)]))
    assert embedded == ["t1ce", "t2"]


@pytest.mark.parametrize(("size", "tokens"), [(64, 64), (96, 216), (128, 512), ([128, 96, 64], 192)])
def test_position_tables_fit_the_image_size(size, tokens):
    network = tiny(img_size=size)
    assert {part.position.shape for part in network.modality_tokens.values()} == {(1, tokens, 16)}


@pytest.mark.parametrize(
    ("size", "nearest"), [(16, "[32, 32, 32]"), (40, "[32, 32, 32]"), ((64, 70, 32), "[64, 64, 32]")]
)
def test_impossible_image_size_names_one_that_works(size, nearest):
    with pytest.raises(ValueError, match="img_size") as error:
        tiny(img_size=size)
    assert str(size) in str(error.value)
    assert nearest in str(error.value)


def test_another_size_at_run_time_names_the_size_that_works():
    with pytest.raises(ValueError, match=r"\(48, 48, 48\).*\(32, 32, 32\).*img_size=\[48, 48, 48\]"):
        tiny().eval()(torch.zeros(1, 4, 48, 48, 48))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"token_layout": "aligned"}, "'aligned'"),
        ({"embed_dim": 15}, "15"),
        ({"anchor": NormalAnchor(levels=(1, 6))}, "6"),
        ({"img_size": (32, 32)}, r"\(32, 32\)"),
    ],
)
def test_wrong_settings_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        tiny(**wrong)
