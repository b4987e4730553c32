from __future__ import annotations

import math

import pytest
import torch

from medmap_components.losses import discrimination_accuracy, discrimination_loss, fooling_loss

LOG3 = math.log(3)
"""Its sigmoid is 3/4, and that of its negative 1/4."""


def test_fooling_loss_is_the_log_of_the_odds_of_being_taken_for_the_full_path():
    assert float(fooling_loss(torch.zeros(2, 1, 3, 1, 1))) == pytest.approx(math.log(2))
    assert float(fooling_loss(torch.tensor([LOG3, -LOG3]))) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_fooling_loss_pulls_towards_the_full_path():
    judged = torch.zeros(4, requires_grad=True)
    fooling_loss(judged).backward()
    # d/dx -log sigmoid(x) = sigmoid(x) - 1 = -1/2, over four patches
    assert judged.grad.tolist() == pytest.approx([-0.125] * 4)


def test_discrimination_loss_by_hand():
    full, missing = torch.tensor([LOG3]), torch.tensor([LOG3])
    assert float(discrimination_loss(full, missing)) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert float(discrimination_loss(full, -missing)) == pytest.approx(math.log(4 / 3))


def test_accuracy_counts_patches_of_both_paths():
    full, missing = torch.tensor([1.0, -1.0, 2.0, 3.0]), torch.tensor([-1.0, 1.0])
    assert float(discrimination_accuracy(full, missing)) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert float(discrimination_accuracy(full.abs(), -missing.abs())) == 1.0
    assert float(discrimination_accuracy(-full.abs(), missing.abs())) == 0.0


def test_half_precision_logits_are_judged_in_single_precision():
    assert fooling_loss(torch.zeros(2, dtype=torch.float16)).dtype == torch.float32
