"""Memory of a training, told from one step."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor, nn

from cmkd.training.cost import COPIES, MARGIN, footprint
from cmkd.training.runtime import peak_memory, reset_peak_memory


def hold(mebibytes: int) -> mmap.mmap:
    """Fresh pages, not those that freed arrays left behind."""
    area = mmap.mmap(-1, mebibytes * 2**20)
    for start in range(0, len(area), mmap.PAGESIZE):
        area[start] = 1
    return area


def test_the_peak_of_memory_is_that_since_it_was_reset() -> None:
    area = hold(200)
    before = peak_memory()["memory_peak_mib"]
    area.close()
    reset_peak_memory()
    after = peak_memory()["memory_peak_mib"]
    assert after < before - 100
    hold(100).close()
    assert peak_memory()["memory_peak_mib"] > after + 50


def of_layers(clips: int) -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(nn.Linear(100, 50, bias=False), nn.ReLU(), nn.Linear(50, 10, bias=False))
    return model, torch.randn(clips, 100, generator=torch.Generator().manual_seed(0))


def test_weights_and_what_the_backward_pass_needs_are_counted() -> None:
    model, x = of_layers(8)
    measured, loss = footprint(model, lambda: model(x).square().sum(), 8)
    weights = 4 * (100 * 50 + 50 * 10)
    # Of a clip: its input, the output of ReLU (kept twice, counted once), and that of the model.
    assert measured.per_clip == 4 * (100 + 50 + 10)
    assert measured.fixed == COPIES * weights
    assert measured.bytes(32) == COPIES * weights + round(MARGIN * 32 * 640)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_it_grows_with_the_batch_as_a_larger_step_does() -> None:
    model, x = of_layers(8)
    small, _ = footprint(model, lambda: model(x).square().sum(), 8)
    _, more = of_layers(32)
    large, _ = footprint(model, lambda: model(more).square().sum(), 32)
    assert small.bytes(64) == large.bytes(64)
