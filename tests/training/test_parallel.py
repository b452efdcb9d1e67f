"""Two real processes over gloo against one: the same losses, weights and statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F

from cmkd.backbones.tiny import TinyResNet
from cmkd.config.training import TrainingConfig
from cmkd.errors import InputError
from cmkd.method.teacher import Teacher
from cmkd.training.checkpoint import CURRENT
from cmkd.training.distributed import SINGLE_PROCESS, CpuSyncBatchNorm, ProcessGroup
from cmkd.training.evaluate import Validation
from cmkd.training.loop import EpochLoop, StepResult
from cmkd.training.runtime import configure

EPOCHS = 3
CLIPS = 21


def train(folder: Path, group: ProcessGroup, stop_after: int | None = None) -> dict[str, Any]:
    """Losses, weights and statistics of a small network with batch normalisation.

    Batches of 11 and 10 clips leave unequal shares; a parameter without gradient is among them.
    """
    configure(threads=1)
    config = TrainingConfig(epochs=EPOCHS, batch_size=10, lr=0.01, accumulate=2)
    torch.manual_seed(0)
    clips, labels = torch.randn(CLIPS, 2, 3, 8, 8), torch.arange(CLIPS) % 3
    model = Teacher(
        TinyResNet(3, 2, total_stride=4, width=4, blocks=1, shift_divisor=4), 16, 3, 0.0
    )
    model.register_parameter("idle", nn.Parameter(torch.ones(2)))

    def step(batch: tuple[Tensor, Tensor]) -> StepResult:
        _, logits = model(batch[0])
        correct = (logits.argmax(1) == batch[1]).float().mean()
        return StepResult(F.cross_entropy(logits, batch[1]), {"train_acc": correct}, len(batch[1]))

    loop = EpochLoop(
        model,
        config,
        folder,
        owner="trial",
        seed=0,
        steps_per_epoch=2,
        batches=lambda epoch: np.array_split(np.random.default_rng(epoch).permutation(CLIPS), 2),
        load=lambda rows: (clips[rows], labels[rows]),
        step=step,
        validate=lambda: Validation(0.0, 0.0),
        group=group,
    )
    while not loop.finished and len(loop.history) != stop_after:
        loop.train_epoch()
    metrics = [(r.metrics["train_loss"], r.metrics["train_acc"]) for r in loop.history]
    return {"metrics": metrics, "state": model.state_dict()}


def work(rank: int, folder: Path, size: int) -> None:
    """What each process does: one epoch, and the others after a restart."""
    address = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    group = ProcessGroup.current()
    train(folder, group, stop_after=1)
    group.barrier()
    torch.save(train(folder, group), folder / f"result-{rank}.pt")
    _check_norm(group, folder)
    distributed.destroy_process_group()


def _check_norm(group: ProcessGroup, folder: Path) -> None:
    """Outputs and gradients of batch normalisation on unequal shares of (7, 3, 2, 2)."""
    torch.manual_seed(3)
    values, weights = torch.randn(7, 3, 2, 2) + 5, torch.randn(7, 3, 2, 2)
    lengths = [5, 2]
    own = values.split(lengths)[group.rank].clone().requires_grad_()
    layer = CpuSyncBatchNorm(nn.BatchNorm2d(3))
    out = layer(own)
    (out.tanh() * weights.split(lengths)[group.rank]).sum().backward()
    stored = {"out": out.detach(), "grad": own.grad, "state": layer.state_dict()}
    torch.save(stored, folder / f"norm-{group.rank}.pt")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes made."""
    folder = tmp_path_factory.mktemp("pair")
    multiprocessing.spawn(work, (folder, 2), nprocs=2)
    return folder


def test_two_processes_train_like_one(pair: Path, tmp_path: Path) -> None:
    alone = train(tmp_path, SINGLE_PROCESS)
    results = [torch.load(pair / f"result-{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert results[0]["metrics"] == results[1]["metrics"]
    for name, value in results[0]["state"].items():
        assert torch.equal(value, results[1]["state"][name]), name
    np.testing.assert_allclose(results[0]["metrics"], alone["metrics"], rtol=1e-4)
    assert alone["metrics"][-1][0] < alone["metrics"][0][0]
    # What AdamW makes of a gradient near zero is its sign: weights differ more than losses.
    for name, value in alone["state"].items():
        torch.testing.assert_close(results[0]["state"][name], value, rtol=1e-2, atol=1e-3, msg=name)


def test_one_process_goes_on_where_two_stopped(pair: Path, tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_bytes((pair / CURRENT).read_bytes())
    together = torch.load(pair / "result-0.pt", weights_only=True)
    assert train(tmp_path, SINGLE_PROCESS)["metrics"] == together["metrics"]


def test_synced_norm_is_batch_norm_of_the_whole(pair: Path) -> None:
    torch.manual_seed(3)
    values = (torch.randn(7, 3, 2, 2) + 5).requires_grad_()
    weights = torch.randn(7, 3, 2, 2)
    layer = nn.BatchNorm2d(3)
    out = layer(values)
    (out.tanh() * weights).sum().backward()
    parts = [torch.load(pair / f"norm-{rank}.pt", weights_only=True) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([part["out"] for part in parts]), out)
    assert values.grad is not None
    grads = torch.cat([part["grad"] for part in parts])
    torch.testing.assert_close(grads, values.grad, rtol=1e-4, atol=1e-5)
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(parts[0]["state"][name], value)
        assert torch.equal(parts[0]["state"][name], parts[1]["state"][name])


def test_shares_are_even_and_complete() -> None:
    rows = np.arange(8)
    shares = [ProcessGroup(rank, 3).shard(rows) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 2]
    assert np.concatenate(shares).tolist() == rows.tolist()
    with pytest.raises(InputError, match="2 clips for 3 processes"):
        ProcessGroup(0, 3).shard(rows[:2])
