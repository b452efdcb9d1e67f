"""KD terms have one scale at every map size (A12)."""

import pytest
import torch
from torch import nn

from cmkd.config.method import GraphIndex, MethodConfig
from cmkd.method.losses import TeacherTargets, gradient_ratios, total_loss
from cmkd.method.networks import StudentOutput
from cmkd.method.pseudo_decoder import PseudoDecoder
from cmkd.method.temporal_graph import mean_square_edges

GRAPHS: tuple[GraphIndex, ...] = (1, 2, 3)


def ratios(channels: int, side: int, classes: int, config: MethodConfig) -> dict[str, float]:
    """Ratios of a fresh decoder and classifier on random maps and standardised targets."""
    torch.manual_seed(0)
    frames = 4
    decoder = PseudoDecoder(channels, (side, side), config)
    classifier = nn.Linear(4 * channels, classes)
    f_i = torch.randn(1, channels, side, side).relu()
    f_m, f_r = (torch.randn(1, frames, channels, side, side).relu() for _ in range(2))
    own = torch.zeros(1, frames, dtype=torch.int64)
    h_hat = decoder(f_i, own, f_m, f_r)
    maps = (f_i[own], f_m, f_r, h_hat)
    logits = classifier(torch.cat([x.mean((3, 4)) for x in maps], dim=2)).mean(1)
    output = StudentOutput(logits, h_hat, torch.ones(1, frames))
    still, moving = torch.randn_like(h_hat[:, :1]), torch.randn_like(h_hat)
    h = 0.8 * still + 0.6 * moving
    means = {i: float(mean_square_edges(h, i, config).mean()) for i in GRAPHS}
    targets = TeacherTargets(h, 4 * torch.randn(1, classes), means)
    losses = total_loss(output, torch.zeros(1, dtype=torch.int64), targets, config)
    return {name: float(one) for name, one in gradient_ratios(losses, h_hat, config).items()}


@pytest.mark.parametrize("classes", [12, 174])
def test_weights_mean_the_same_at_tiny_and_full_size(classes: int) -> None:
    tiny = ratios(64, 4, 12, MethodConfig(logits="mse"))
    full = ratios(2048, 7, classes, MethodConfig(logits="mse", width=64, hidden=64))
    assert tiny.keys() == full.keys() == {"spatial", "temporal", "logits"}
    for name in tiny:
        assert 1 / 3 < full[name] / tiny[name] < 3
        assert 0.3 < tiny[name] < 10
        assert 0.3 < full[name] < 10


def test_a_term_without_gradient_on_h_hat_has_ratio_0() -> None:
    config = MethodConfig(lambda_1=0.0, lambda_2=0.0, extra_losses=((CONSTANT, 1.0),))
    assert ratios(64, 4, 12, config) == {CONSTANT: 0.0}


def constant(*_: object) -> torch.Tensor:
    """Loss term that depends on nothing."""
    return torch.ones(())


CONSTANT = f"{__name__}:constant"
