"""The shared units equal torch's own modules, and leave out exactly what is absent."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medmap_components.networks.blocks import (
    ConvUnit,
    ModalityConvUnit,
    ModalityReduceConv,
    PointwiseConv,
    instance_norm,
    kaiming_init,
    mask_latents,
    select_modalities,
    upsample,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def activated(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(F.instance_norm(x), 0.2)


def test_instance_norm_equals_torch():
    x = 5 + 3 * torch.randn(2, 3, 4, 4, 4)
    torch.testing.assert_close(instance_norm(x), F.instance_norm(x))


@pytest.mark.parametrize(("mode", "kernel"), [("reflect", 3), ("zeros", 3), ("reflect", 1)])
def test_prenorm_unit_equals_norm_activation_convolution(mode, kernel):
    unit, x = ConvUnit(3, 2, kernel, norm="pre", padding_mode=mode), torch.randn(2, 3, 4, 5, 6)
    plain = nn.Conv3d(3, 2, kernel, padding=kernel // 2, padding_mode=mode)
    plain.load_state_dict(unit.state_dict())
    torch.testing.assert_close(unit(x), plain(activated(x)))


@pytest.mark.parametrize("kernel", [3, 1])
def test_postnorm_unit_equals_convolution_with_any_bias_norm_activation(kernel):
    unit, x = ConvUnit(3, 2, kernel, norm="post"), torch.randn(2, 3, 4, 5, 6)
    plain = nn.Conv3d(3, 2, kernel, padding=kernel // 2, padding_mode="reflect")
    plain.load_state_dict({**unit.state_dict(), "bias": torch.tensor([3.0, -2.0])})
    torch.testing.assert_close(unit(x), activated(plain(x)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("kernel", [3, 1])
def test_units_leave_their_input_alone(norm, kernel):
    x = torch.randn(1, 2, 4, 4, 4)
    before = x.clone()
    ConvUnit(2, 2, kernel, norm=norm)(x)
    assert torch.equal(x, before)


def test_pointwise_equals_convolution_with_kernel_1():
    conv, x = PointwiseConv(3, 2), torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(conv(x), F.conv3d(x, conv.weight, conv.bias))


@pytest.mark.parametrize("present", [None, [1], [0, 3], [1, 2, 3]])
@pytest.mark.parametrize("stride", [1, 2])
def test_modality_unit_equals_one_unit_per_modality(present, stride):
    unit, x = ModalityConvUnit(4, 2, 3, norm="pre", stride=stride), torch.randn(2, 4, 2, 6, 6, 6)
    parts = []
    for m in present or range(4):
        padded = F.pad(activated(x[:, m]), (1,) * 6, mode="reflect")
        parts.append(F.conv3d(padded, unit.weight[3 * m : 3 * m + 3], unit.bias[3 * m : 3 * m + 3], stride=stride))
    chosen = select_modalities(x, present).flatten(1, 2)
    torch.testing.assert_close(unit(chosen, present), torch.cat(parts, 1))


@pytest.mark.parametrize("present", [None, [0, 2]])
def test_postnorm_modality_unit_equals_one_unit_per_modality(present):
    unit, x = ModalityConvUnit(4, 2, 3, norm="post"), torch.randn(2, 4, 2, 6, 6, 6)
    padded = [F.pad(x[:, m], (1,) * 6, mode="reflect") for m in range(4)]
    parts = [activated(F.conv3d(padded[m], unit.weight[3 * m : 3 * m + 3])) for m in present or range(4)]
    chosen = select_modalities(x, present).flatten(1, 2)
    torch.testing.assert_close(unit(chosen, present), torch.cat(parts, 1))


def test_modality_unit_without_norm_is_a_bare_convolution():
    unit, x = ModalityConvUnit(4, 1, 2, norm=None), torch.randn(1, 4, 4, 4, 4)
    padded = F.pad(x[:, 2:3], (1,) * 6, mode="reflect")
    torch.testing.assert_close(unit(x)[:, 4:6], F.conv3d(padded, unit.weight[4:6], unit.bias[4:6]))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("present", [[2], [0, 3]])
def test_leaving_out_modalities_equals_zeros(present, norm):
    conv, latents = ModalityReduceConv(4, 3, 2, norm=norm), torch.randn(2, 4, 3, 4, 4, 4)
    mask = torch.tensor([[m in present for m in range(4)]] * 2)
    zeroed = mask_latents(latents, mask)
    flat = zeroed.flatten(1, 2)
    dense = (
        F.conv3d(activated(flat), conv.weight, conv.bias) if norm == "pre" else activated(F.conv3d(flat, conv.weight))
    )
    torch.testing.assert_close(conv(latents[:, present], present), dense)
    torch.testing.assert_close(conv(zeroed), dense)


def test_mask_removes_nan_and_its_gradient():
    latents = torch.tensor([[1.0, float("nan")], [3.0, 4.0]]).view(2, 2, 1).requires_grad_()
    masked = mask_latents(latents, torch.tensor([[True, False], [True, True]]))
    assert masked.flatten().tolist() == [1.0, 0.0, 3.0, 4.0]
    masked.sum().backward()
    assert latents.grad.flatten().tolist() == [1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("present", [None, [0], [1, 2], [0, 2]])
def test_select_keeps_the_modalities_in_order(present):
    latents = torch.arange(3.0).view(1, 3, 1)
    assert select_modalities(latents, present).flatten().tolist() == [float(m) for m in present or range(3)]


@pytest.mark.parametrize("scale", [2, 4])
def test_upsample_equals_interpolation_with_aligned_corners(scale):
    x = torch.randn(2, 3, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(x, scale_factor=scale, mode="trilinear", align_corners=True)
    torch.testing.assert_close(upsample(x, scale), expected)
    push = torch.randn_like(expected)
    grads = [torch.autograd.grad(y, x, push)[0] for y in (upsample(x, scale), expected)]
    torch.testing.assert_close(*grads)


def test_kaiming_init_has_variance_2_over_fan_in():
    conv = nn.Conv3d(16, 64, 3)
    kaiming_init(nn.Sequential(conv))
    assert conv.weight.var().item() == pytest.approx(2 / (16 * 27), rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["reflect", "zeros"])
def test_units_can_be_traced_for_any_size(mode):
    unit = ConvUnit(2, 2, norm="pre", padding_mode=mode)
    traced = torch.jit.trace(unit, torch.randn(1, 2, 4, 4, 4))
    x = torch.randn(2, 2, 5, 6, 3)
    torch.testing.assert_close(traced(x), unit(x))
