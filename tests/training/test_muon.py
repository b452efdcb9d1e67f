"""Muon: orthogonal changes of matrices, AdamW for the rest."""

import copy

import pytest
import torch
from torch import nn

from cmkd.training.optim import ADAM_RATE, Muon, orthogonalise


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
def test_singular_values_end_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, *shape)))
    assert 0.3 < values.min()
    assert values.max() < 1.3


def test_first_step_has_the_rate_whatever_the_gradient() -> None:
    for factor in (1e-3, 1e3):
        torch.manual_seed(0)
        layer = nn.Conv2d(8, 4, 3)
        weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
        layer.weight.grad = factor * torch.randn_like(weight)
        layer.bias.grad = factor * torch.randn_like(bias)
        Muon(layer.parameters(), lr=0.1).step()
        change = torch.linalg.svdvals((layer.weight - weight).detach().flatten(1))
        assert 0.03 < change.min()
        assert change.max() < 0.13
        moved = (layer.bias - bias).abs()
        torch.testing.assert_close(
            moved, torch.full_like(moved, 0.1 * ADAM_RATE), rtol=1e-3, atol=0
        )


def test_state_is_restored() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 3), nn.Linear(4, 3)]
    layers[1].load_state_dict(layers[0].state_dict())
    one, other = (Muon(layer.parameters(), lr=0.1, weight_decay=0.1) for layer in layers)
    gradients = [[torch.randn_like(p) for p in layers[0].parameters()] for _ in range(2)]
    for parameter, gradient in zip(layers[0].parameters(), gradients[0], strict=True):
        parameter.grad = gradient
    one.step()
    layers[1].load_state_dict(layers[0].state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for layer, optimizer in zip(layers, (one, other), strict=True):
        for parameter, gradient in zip(layer.parameters(), gradients[1], strict=True):
            parameter.grad = gradient
        optimizer.step()
    for a, b in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.equal(a, b)
