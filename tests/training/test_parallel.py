"""Two real processes over gloo against one: the same losses, weights and statistics."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F

from cmkd.backbones.tiny import TinyResNet
from cmkd.config.backbones import Size
from cmkd.config.trial import TrainingConfig
from cmkd.data.splits import Split
from cmkd.errors import InputError
from cmkd.method.networks import Teacher
from cmkd.training import loop
from cmkd.training.checkpoint import CURRENT
from cmkd.training.loop import StepResult, TrainingLoop
from cmkd.training.runtime import SINGLE_PROCESS, CpuSyncBatchNorm, ProcessGroup, configure

EPOCHS = 3
CLIPS = 21
Rows = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]


class Loop(TrainingLoop[Teacher, Batch]):
    """Training on random clips; batches of 11 and 10 clips leave unequal shares."""

    clips = torch.randn(CLIPS, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(CLIPS) % 3

    def batches(self, epoch: int) -> Iterable[Rows]:
        return np.array_split(np.random.default_rng(epoch).permutation(CLIPS), 2)

    left = -1

    def load(self, rows: Rows) -> Batch:
        if self.left == 0:
            raise InterruptedError
        self.left -= 1
        return self.clips[rows], self.labels[rows]

    def batch_loss(self, batch: Batch) -> StepResult:
        _, logits = self.network(batch[0])
        correct = (logits.argmax(1) == batch[1]).float().mean()
        return StepResult(F.cross_entropy(logits, batch[1]), {"train_acc": correct}, len(batch[1]))

    def logits(self, rows: Rows) -> Tensor:
        logits: Tensor = self.model(self.clips[rows])[1]
        return logits


def train(
    folder: Path, group: ProcessGroup, parts: int = -1, *, overlapping: bool = False
) -> dict[str, Any]:
    """Losses, weights and statistics of a small network with batch normalisation.

    A parameter without gradient is among them.

    Args:
        parts: of batches, after which it ends with InterruptedError.
        overlapping: sum gradients as on GPUs.
    """
    configure(threads=1)
    config = TrainingConfig(epochs=EPOCHS, batch_size=10, lr=0.01, accumulate=2)
    torch.manual_seed(0)
    backbone = TinyResNet(Size(3, 2, 4, 4), shift_divisor=4)
    model = Teacher(backbone, 16, 3, 0.0)
    model.register_parameter("idle", nn.Parameter(torch.ones(2)))
    reader: Any = SimpleNamespace(
        plain_rows=np.array,
        classes=lambda rows: Loop.labels.numpy()[rows],
        ahead=lambda batches, **_: iter(batches),
    )
    split = Split(tuple(range(CLIPS)), tuple(range(5)), ())
    learner = Loop(
        model, config, reader, split, folder, owner="trial", seed=0, eval_batch=2, group=group
    )
    learner.left = parts
    if overlapping:
        learner.network = group.overlapping(model)
    while not learner.finished:
        learner.train_epoch()
    names = ("train_loss", "train_acc", "val_loss")
    metrics = [tuple(record.metrics[name] for name in names) for record in learner.history]
    return {"metrics": metrics, "state": model.state_dict()}


def work(rank: int, folder: Path, size: int) -> None:
    """What each process does: an epoch and a half, and what is left after a restart."""
    address = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    group = ProcessGroup.current()
    loop.WITHIN_EPOCH_SECONDS, loop.WITHIN_EPOCH_STEPS = 0.0, 1
    with pytest.raises(InterruptedError):
        train(folder, group, parts=7)
    group.barrier()
    torch.save(train(folder, group), folder / f"result-{rank}.pt")
    assert torch.are_deterministic_algorithms_enabled()
    # Loading torch.compile takes a worker as long as all else of torch.
    assert "torch._dynamo" not in sys.modules
    _check_norm(group, folder)
    together = train(folder / "overlapping", group, overlapping=True)
    torch.save(together, folder / f"overlapping-{rank}.pt")
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


def test_sums_while_gradients_are_computed_are_the_same(pair: Path) -> None:
    at_end, meanwhile = (
        torch.load(pair / f"{name}-1.pt", weights_only=True) for name in ("result", "overlapping")
    )
    np.testing.assert_allclose(meanwhile["metrics"], at_end["metrics"], rtol=1e-5)
    for name, value in at_end["state"].items():
        torch.testing.assert_close(meanwhile["state"][name], value, msg=name)


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
