"""mmFormer keeps the contract with every anchor, and what is special about it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medmap_components.networks import AdaptiveMixAnchor, FixedMixAnchor, MMFormer, NormalAnchor
from tests.networks.contract import MIXED, T1CE_ONLY, AnchorContract, NetworkContract

ALL = torch.ones(1, 4, dtype=torch.bool)


def tiny(**kwargs) -> MMFormer:
    settings = {"img_size": 32, "base_channels": 2, "embed_dim": 16, "mlp_dim": 32, "num_heads": 2}
    return MMFormer(**{**settings, **kwargs})


def image(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 4, 32, 32, 32, generator=torch.Generator().manual_seed(0))


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


class TestAnchors(AnchorContract):
    levels = (1, 2, 5)

    def build(self, anchor):
        return tiny(anchor=anchor)


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
@torch.inference_mode()
def test_anchor_stands_in_for_absent_modalities_at_its_level(level):
    torch.manual_seed(0)
    plain, aligned = tiny().eval(), tiny(anchor=AdaptiveMixAnchor(levels=level)).eval()
    aligned.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(aligned(image(), ALL), plain(image(), ALL), atol=1e-5, rtol=0)
    mask = torch.tensor([T1CE_ONLY])
    assert (aligned(image(), mask) - plain(image(), mask)).abs().max() > 1e-2


def test_aligned_latents_are_those_of_the_encoder_before_masking():
    torch.manual_seed(0)
    network = tiny(anchor=AdaptiveMixAnchor(levels=(1, 3)))
    with torch.no_grad():
        output = network(image(2), MIXED, torch.ones(2, 4, dtype=torch.bool))
        latents = network.encode(image(2))
    assert list(output.aligned) == ["level_1", "level_3"]
    for name, level in (("level_1", 0), ("level_3", 2)):
        assert torch.equal(output.aligned[name].latents, latents.levels[level])
        torch.testing.assert_close(output.aligned[name].anchor, latents.levels[level].mean(1))


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
def test_absent_modalities_are_not_encoded_in_eval():
    network = tiny().eval()
    widths, embedded = [], []
    network.encoder.levels["1"].register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
    for name, part in network.modality_tokens.items():
        part.register_forward_hook(lambda *_, name=name: embedded.append(name))
    network(image(2), torch.tensor([(False, True, False, True), (False, True, False, False)]))
    assert widths == [2]
    assert embedded == ["t1ce", "t2"]


@torch.inference_mode()
def test_parts_for_training_rest_in_eval():
    network = tiny().eval()

    def refuse(*_):
        raise AssertionError

    network.modality_decoder.register_forward_hook(refuse)
    for head in network.fused_decoder.deep_heads.values():
        head.register_forward_hook(refuse)
    network(image())


def test_hidden_modalities_that_exist_still_get_their_own_maps():
    network = tiny(dropout_rate=0.0)
    with torch.no_grad():
        seen = network(image(), ALL)
        hidden = network(image(), torch.tensor([T1CE_ONLY]), ALL)
    assert all(torch.equal(seen.modality[name], hidden.modality[name]) for name in seen.modality)
    assert not torch.equal(seen.logits, hidden.logits)


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
