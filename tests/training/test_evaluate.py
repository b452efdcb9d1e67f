"""Which of two epochs is selected."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cmkd.training.evaluate import Validation, validation


def test_accuracy_decides_and_loss_breaks_ties() -> None:
    assert Validation(50.0, -2.0) > Validation(49.0, -0.1)
    assert Validation(50.0, -0.5) > Validation(50.0, -0.6)
    assert not Validation(50.0, -0.5) > Validation(50.0, -0.5)


def test_validation_values() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    reached = validation(logits, np.array([1, 0]))
    assert reached.accuracy == 50.0
    assert -reached.negative_loss == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
