"""KD terms have one scale at every map size (A12)."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmkd.config.method import GraphIndex, MethodConfig
from cmkd.method.losses import logits_loss, spatial_loss, temporal_loss
from cmkd.method.pseudo_decoder import PseudoDecoder
from cmkd.method.temporal_graph import mean_square_edges

GRAPHS: tuple[GraphIndex, ...] = (1, 2, 3)


class Ratios(NamedTuple):
    """Gradient of each weighted term on h_hat relative to that of cross-entropy."""

    spatial: float
    temporal: float
    logits: float


def ratios(channels: int, side: int, classes: int, config: MethodConfig) -> Ratios:
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
    still, moving = torch.randn_like(h_hat[:, :1]), torch.randn_like(h_hat)
    h = 0.8 * still + 0.6 * moving
    means = {i: float(mean_square_edges(h, i, config).mean()) for i in GRAPHS}

    def gradient(loss: Tensor) -> float:
        return float(torch.autograd.grad(loss, h_hat, retain_graph=True)[0].norm())

    ce = gradient(F.cross_entropy(logits, torch.zeros(1, dtype=torch.int64)))
    alpha = torch.ones(1, frames)
    return Ratios(
        config.lambda_1 * gradient(spatial_loss(h, h_hat, alpha, config)) / ce,
        config.lambda_2 * gradient(temporal_loss(h, h_hat, means, config)) / ce,
        gradient(logits_loss(logits, 4 * torch.randn(1, classes), config)) / ce,
    )


@pytest.mark.parametrize("classes", [12, 174])
def test_weights_mean_the_same_at_tiny_and_full_size(classes: int) -> None:
    tiny = ratios(64, 4, 12, MethodConfig(logits="mse"))
    full = ratios(2048, 7, classes, MethodConfig(logits="mse", width=64, hidden=64))
    for small, large in zip(tiny, full, strict=True):
        assert 1 / 3 < large / small < 3
        assert 0.3 < small < 10
        assert 0.3 < large < 10
