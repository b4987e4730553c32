from __future__ import annotations

import math

import pytest
import torch

from medmap_components.losses import DistillationLoss, channel_divergence

# KL((3/4, 1/4) || (1/2, 1/2))
THREE_TO_ONE = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)


def positions(*channels: tuple[float, ...]) -> torch.Tensor:
    """``(1, C, N, 1, 1)`` from the values of each channel at N positions."""
    return torch.tensor(channels, dtype=torch.float64).reshape(1, len(channels), -1, 1, 1)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_divergence_is_that_of_the_softened_probabilities_times_the_squared_temperature(temperature):
    # the teacher's probabilities are 3/4 and 1/4 at this temperature, the student's 1/2 and 1/2
    teacher = positions((temperature * math.log(3),), (0.0,))
    student = positions((7.0,), (7.0,))
    expected = temperature**2 * THREE_TO_ONE
    assert channel_divergence(student, teacher, temperature).item() == pytest.approx(expected)


def test_teacher_is_the_distribution_that_the_mean_is_taken_under():
    # KL((1/2, 1/2) || (3/4, 1/4)), which differs from the other direction
    expected = 1 / 2 * math.log(2 / 3) + 1 / 2 * math.log(2)
    sharp, flat = positions((math.log(3),), (0.0,)), positions((0.0,), (0.0,))
    assert channel_divergence(sharp, flat).item() == pytest.approx(expected)
    assert channel_divergence(flat, sharp).item() == pytest.approx(THREE_TO_ONE)


def test_divergence_is_a_mean_over_positions_and_samples():
    teacher = positions((math.log(3), 0.0), (0.0, 0.0))
    student = torch.zeros_like(teacher)
    assert channel_divergence(student, teacher).item() == pytest.approx(THREE_TO_ONE / 2)
    assert channel_divergence(torch.cat([student, teacher]), torch.cat([teacher, teacher])).item() == pytest.approx(
        THREE_TO_ONE / 4
    )


def test_gradient_is_the_temperature_times_the_difference_of_probabilities():
    temperature = 5.0
    teacher = positions((temperature * math.log(3), 0.0), (0.0, 0.0)).requires_grad_()
    student = torch.zeros(1, 2, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    channel_divergence(student, teacher, temperature).backward()
    # T / N (p_student - p_teacher), over N = 2 positions, of which the second agrees
    expected = positions((temperature / 2 * (1 / 2 - 3 / 4), 0.0), (temperature / 2 * (1 / 2 - 1 / 4), 0.0))
    torch.testing.assert_close(student.grad, expected)
    assert teacher.grad is None


def test_divergence_does_not_see_what_softmax_does_not_see():
    teacher, student = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 2, 2, 2)
    shifted = channel_divergence(student + torch.randn(2, 1, 2, 2, 2), teacher - 4)
    torch.testing.assert_close(shifted, channel_divergence(student, teacher))
    assert channel_divergence(teacher + 1, teacher).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_is_computed_in_float32():
    teacher, student = torch.randn(1, 4, 8, 8, 8), torch.randn(1, 4, 8, 8, 8)
    halves = channel_divergence(student.bfloat16(), teacher.bfloat16(), 5)
    assert halves.dtype == torch.float32
    expected = channel_divergence(student.bfloat16().float(), teacher.bfloat16().float(), 5)
    torch.testing.assert_close(halves, expected)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 2, 2\).*\(1, 3, 2, 2, 2\).*filters"):
        channel_divergence(torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 3, 2, 2, 2))


def maps() -> tuple[torch.Tensor, dict, torch.Tensor, dict]:
    """Logits that differ by ``THREE_TO_ONE`` at temperature 5, and bottlenecks that differ by that at temperature 1."""
    flat, sharp = positions((0.0,), (0.0,)), positions((math.log(3),), (0.0,))
    return flat, {"bottleneck": flat}, 5 * sharp, {"bottleneck": sharp}


def test_loss_is_the_weighted_sum_of_its_two_terms():
    terms = DistillationLoss(temperature=5, logit_weight=0.5, bottleneck_weight=3)(*maps())
    assert terms["distillation_logits"].item() == pytest.approx(25 * THREE_TO_ONE)
    assert terms["distillation_bottleneck"].item() == pytest.approx(THREE_TO_ONE)
    assert terms["distillation"].item() == pytest.approx((12.5 + 3) * THREE_TO_ONE)


@pytest.mark.parametrize("off", ["logit_weight", "bottleneck_weight"])
def test_each_term_passes_its_gradient_to_its_own_part_of_the_student(off):
    logits, features, *teacher = maps()
    parts = {"logit_weight": logits.clone(), "bottleneck_weight": features["bottleneck"].clone()}
    student_logits, bottleneck = (part.requires_grad_() for part in parts.values())
    loss = DistillationLoss(**{off: 0})
    loss(student_logits, {"bottleneck": bottleneck}, *teacher)["distillation"].backward()
    assert {name for name, part in parts.items() if part.grad.any()} == parts.keys() - {off}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"temperature": 0}, "temperature.*0"),
        ({"temperature": math.inf}, "temperature.*inf"),
        ({"logit_weight": -1.0}, "logit_weight.*-1.0"),
        ({"bottleneck_weight": math.nan}, "bottleneck_weight.*nan"),
    ],
)
def test_wrong_settings_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        DistillationLoss(**wrong)
