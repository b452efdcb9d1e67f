"""Losses and graphs at the feature scales of full-size networks: no NaN, no overflow, no vanishing.

Features are 2048-d maps as ResNet-50 ends on them: after a ReLU, standardised by the training set
for the teacher, whatever the student makes of them for h_hat, in fp32 or bf16.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from cmkd.config.method import GraphIndex, MethodConfig
from cmkd.method.losses import TeacherTargets, spatial_loss, temporal_loss, total_loss
from cmkd.method.networks import StudentOutput
from cmkd.method.temporal_graph import adjacency, edges, mean_square_edges
from cmkd.training.features import LARGEST

B, T, C, SIDE = 2, 4, 2048, 3
GRAPHS: tuple[GraphIndex, ...] = (1, 2, 3)
READINGS = [
    {"tg_edge": edge, "tg_kernel": kernel, "tg_features": features}
    for edge, kernel, features in itertools.product(
        ("sqrt", "max", "raw"), ("elementwise", "scalar"), ("map", "pooled")
    )
]


def relu_features(scale: float, seed: int) -> Tensor:
    """Maps that fire in about a third of their places, up to several times `scale`."""
    noise = torch.randn(B, T, C, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return scale * (noise - 0.4).clamp_min(0)


def standardised(seed: int) -> Tensor:
    """What the losses are given of the teacher."""
    h = relu_features(1.0, seed)
    return (h - h.mean((0, 1, 3, 4), keepdim=True)) / h.std((0, 1, 3, 4), keepdim=True)


def measured(h: Tensor, config: MethodConfig) -> dict[GraphIndex, float]:
    return {graph: float(mean_square_edges(h, graph, config).mean()) for graph in GRAPHS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reading", READINGS, ids=lambda r: "-".join(r.values()))
def test_no_reading_gives_nan_or_overflow(reading: dict[str, Any], dtype: torch.dtype) -> None:
    config = MethodConfig(**reading)
    h = standardised(0)
    h[0, 0, 0, 0, 0] = LARGEST
    scale = measured(h, config)
    for size in (0.1, 1.0, 30.0):
        h_hat = relu_features(size, 1).to(dtype).requires_grad_()
        loss = temporal_loss(h, h_hat, scale, config)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite(), size
        assert h_hat.grad is not None
        assert h_hat.grad.isfinite().all(), size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_default_graphs_tell_frames_apart_and_teach(
    graph: GraphIndex, dtype: torch.dtype
) -> None:
    config = MethodConfig(tg=(graph,))
    h = standardised(0)
    scale = measured(h, config)
    apart = ~torch.eye(T, dtype=torch.bool)
    compared = edges(h.to(dtype), graph, config, scale[graph])
    # Off the diagonal all edges are of the order of 1, whatever the kernel.
    assert ((compared[:, apart] > 0.5) & (compared[:, apart] < 5)).all()
    for size in (0.1, 1.0, 30.0):
        h_hat = relu_features(size, 1).to(dtype).requires_grad_()
        loss = temporal_loss(h, h_hat, scale, config)
        loss.backward()
        assert h_hat.grad is not None
        learning = (h_hat.grad != 0).float().mean()
        # Where ReLU left a zero, |h| has none; the kernels of far-off values are flat.
        assert learning > 0.05, (size, float(learning))


def test_bf16_features_change_the_default_losses_by_rounding_alone() -> None:
    config = MethodConfig()
    h, h_hat = standardised(0), relu_features(1.0, 1)
    scale, alpha = measured(h, config), torch.ones(B, T)
    for loss in (
        lambda x: temporal_loss(h, x, scale, config),
        lambda x: spatial_loss(h, x, alpha, config),
    ):
        torch.testing.assert_close(loss(h_hat.bfloat16()), loss(h_hat), rtol=1e-2, atol=0)


def test_edges_are_the_same_inside_autocast() -> None:
    # Distances far below the vectors' lengths: a product of bf16 numbers would lose them.
    v = 10 + 0.01 * torch.randn(B, T, C, generator=torch.Generator().manual_seed(0))
    v[:, 0] += 5
    plain = adjacency(v)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adjacency(v), plain)


def test_the_sum_over_a_full_size_map_does_not_overflow() -> None:
    noise = torch.randn(B, T, C, 7, 7, generator=torch.Generator().manual_seed(0))
    h, h_hat = noise.clamp(-LARGEST, LARGEST), (30 * noise).requires_grad_()
    output = StudentOutput(torch.randn(B, 400), h_hat, torch.ones(B, T))
    targets = TeacherTargets(h, torch.randn(B, 400), measured(h, MethodConfig()))
    losses = total_loss(output, torch.tensor([0, 1]), targets, MethodConfig(logits="mse"))
    losses.total.backward()
    assert losses.total.isfinite()
    assert h_hat.grad is not None
    assert h_hat.grad.isfinite().all()


def test_the_literal_scalar_kernel_vanishes_at_full_size() -> None:
    # A9: exp(-||h||^2 / 2) of 2048 standardised numbers is below what fp32 holds.
    config = MethodConfig(tg_kernel="scalar", tg_features="pooled", tg_edge="raw")
    h = torch.randn(B, T, C, 1, 1, generator=torch.Generator().manual_seed(0))
    assert edges(h, 1, config, 1.0).abs().max() == 0
    assert edges(h, 2, config, 1.0).max() < 1e-15
    assert edges(h, 3, config, 1.0).mean() > 1e3
