"""The grouped arrangement of a convolution changes its time, never its result."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medmap_components.networks import same_conv
from medmap_components.networks.blocks import ConvUnit, upsample
from medmap_components.networks.modality_parts import ModalityDecoder
from medmap_components.networks.same_conv import SameConv3d, grouped_conv3d, keep_input_only, reflect_pad

# batch, channels in and out, kernel, size of the padded image, groups it should be computed in
CASES = {
    "thin, one sample": (1, 3, 2, 3, (6, 5, 7), 2),
    "thin, one sample of odd depth": (1, 3, 2, 3, (7, 5, 4), 1),
    "thin, a batch": (3, 3, 2, 3, (5, 5, 4), 3),
    "thin, wide kernel": (1, 2, 2, 5, (8, 5, 6), 2),
    "wide and small, one sample": (1, 4, 16, 3, (4, 4, 3), 2),
    "wide and large, one sample": (1, 2, 16, 3, (104, 100, 3), 1),
    "wide, a batch": (2, 2, 17, 3, (4, 4, 4), 1),
}


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_plain_convolution(case, has_bias):
    torch.manual_seed(0)
    batch, channels, out_channels, kernel, size, _ = CASES[case]
    x = torch.randn(batch, channels, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(out_channels, channels, kernel, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(out_channels, dtype=torch.float64, requires_grad=True) if has_bias else None
    expected = F.conv3d(x, weight, bias)
    found = grouped_conv3d(x, weight, bias)
    torch.testing.assert_close(found, expected)
    inputs = [part for part in (x, weight, bias) if part is not None]
    push = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(found, inputs, push), torch.autograd.grad(expected, inputs, push))


@pytest.mark.parametrize("case", CASES)
def test_number_of_groups(case):
    batch, channels, out_channels, kernel, size, groups = CASES[case]
    x, weight = torch.zeros(batch, channels, *size), torch.zeros(out_channels, channels, kernel, kernel, kernel)
    with mock.patch.object(same_conv.F, "conv3d", wraps=F.conv3d) as conv3d:
        grouped_conv3d(x, weight, None)
    assert conv3d.call_count == 1
    assert conv3d.call_args.kwargs.get("groups", 1) == groups


@pytest.mark.parametrize("size", [(2, 2, 2), (3, 4, 5), (6, 2, 3)])
def test_reflect_pad_equals_torch(size):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = F.pad(x, (1,) * 6, mode="reflect")
    assert torch.equal(reflect_pad(x), expected)
    push = torch.randn_like(expected)
    kept = push.clone()
    found, wanted = (torch.autograd.grad(y, x, push)[0] for y in (reflect_pad(x), expected))
    torch.testing.assert_close(found, wanted)
    assert torch.equal(push, kept)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("batch", [1, 2])
def test_module_equals_torch_with_the_same_state(mode, batch):
    torch.manual_seed(0)
    module, plain = SameConv3d(3, 2, padding_mode=mode), nn.Conv3d(3, 2, 3, padding=1, padding_mode=mode)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(batch, 3, 4, 5, 6)
    torch.testing.assert_close(module(x), plain(x))


def kept_bytes(unit, x):
    """How much the backward pass of ``unit(x)`` will find kept, without ``x`` itself."""
    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        unit(x)
    kept.pop(x.data_ptr(), None)
    return sum(kept.values())


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_keeping_the_input_only_changes_no_bit_and_repeats_no_convolution(norm, monkeypatch):
    torch.manual_seed(0)
    unit, x = ConvUnit(3, 2, norm=norm), torch.randn(2, 3, 8, 8, 8, requires_grad=True)
    gradients = []
    for large in (10**9, 0):
        monkeypatch.setattr(same_conv, "LARGE", large)
        with torch.autograd.profiler.profile() as profile:
            y = unit(x)
            gradients.append(torch.autograd.grad(y, [x, *unit.parameters()], torch.ones_like(y)))
        assert [event.name for event in profile.function_events].count("aten::_convolution") == 1
    for plain, frugal in zip(*gradients, strict=True):
        assert torch.equal(plain, frugal)


def test_keeping_the_input_only_keeps_no_copies(monkeypatch):
    unit, x = ConvUnit(8, 2, norm="pre"), torch.randn(1, 8, 16, 16, 16, requires_grad=True)
    assert kept_bytes(unit, x) > 2 * x.nbytes
    monkeypatch.setattr(same_conv, "LARGE", 0)
    with torch.no_grad():
        assert keep_input_only(torch.relu, x).equal(x.relu())
    assert kept_bytes(unit, x) < 0.1 * x.nbytes


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_what_is_upsampled_or_joined_before_a_convolution_need_not_be_kept(norm, monkeypatch):
    torch.manual_seed(0)
    unit = ConvUnit(8, 2, norm=norm)
    low = torch.randn(1, 8, 8, 8, 8, requires_grad=True)
    parts = [torch.randn(1, channels, 16, 16, 16, requires_grad=True) for channels in (5, 3)]
    expected = [unit(upsample(low)), unit(torch.cat(parts, dim=1))]
    kept = kept_bytes(unit.after_upsampling, low)
    monkeypatch.setattr(same_conv, "LARGE", 0)
    for plain, frugal, inputs in zip(
        expected, [unit.after_upsampling(low), unit.after_joining(*parts)], [[low], parts], strict=True
    ):
        assert torch.equal(plain, frugal)
        wanted = [*inputs, *unit.parameters()]
        ones = torch.ones_like(plain)
        for first, second in zip(
            torch.autograd.grad(plain, wanted, ones), torch.autograd.grad(frugal, wanted, ones), strict=True
        ):
            assert torch.equal(first, second)
    upsampled_bytes = 8 * low.nbytes
    assert kept > 2 * upsampled_bytes
    # a post-norm unit keeps its small output as well
    assert kept_bytes(unit.after_upsampling, low) < 0.6 * upsampled_bytes


def test_large_samples_are_decoded_one_after_the_other_to_the_same_result(monkeypatch):
    torch.manual_seed(0)
    decoder = ModalityDecoder([2, 4, 8], 4, norm="pre")
    latents = [torch.randn(3, 2 * 2**level, *[16 // 2**level] * 3, requires_grad=True) for level in range(3)]
    wanted = [*latents, *decoder.parameters()]
    together = decoder(latents)
    gradients = torch.autograd.grad(together.square().mean(), wanted)
    seen = []
    decoder.head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))
    monkeypatch.setattr(same_conv, "LARGE", 0)
    alone = decoder(latents)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    for first, second in zip(torch.autograd.grad(alone.square().mean(), wanted), gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)
    assert seen == [1, 1, 1]
