"""A loop over a small real network: parts of a batch, precision, frozen statistics, notes."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cmkd.backbones.tiny import TinyResNet
from cmkd.config.backbones import Size
from cmkd.config.trial import TrainingConfig
from cmkd.data.splits import Split
from cmkd.errors import TrialFailed
from cmkd.method.networks import Teacher
from cmkd.training import loop as training_loop
from cmkd.training.checkpoint import CURRENT, PREVIOUS
from cmkd.training.loop import StepResult, TrainingLoop
from cmkd.training.outcome import Validation
from cmkd.training.runtime import autocast, configure, to_device

CPU = torch.device("cpu")
Rows = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]


class Loop(TrainingLoop[Teacher, Batch]):
    """Training on random clips in batches of 10."""

    clips = torch.randn(20, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(20) % 4

    def batches(self, epoch: int) -> Iterable[Rows]:
        return np.array_split(np.random.default_rng(epoch).permutation(20), 2)

    def load(self, rows: Rows) -> Batch:
        return self.clips[rows], self.labels[rows]

    def batch_loss(self, batch: Batch) -> StepResult:
        with autocast(self.config.precision, CPU):
            _, logits = self.model(batch[0])
        loss = F.cross_entropy(logits.float(), batch[1])
        return StepResult(loss, {"level": logits.float().mean()}, len(batch[1]))

    def logits(self, rows: Rows) -> Tensor:
        logits: Tensor = self.model(self.clips[rows])[1]
        return logits


def make_loop(
    folder: Path, network: nn.Module | None = None, kind: type[Loop] = Loop, **training: Any
) -> Loop:
    """A classifier of 20 random clips, validated on the first four."""
    configure(threads=1)
    fields = {"epochs": 3, "batch_size": 10, "lr": 0.01, "dropout": 0.0} | training
    config = TrainingConfig.model_validate(fields)
    torch.manual_seed(1)
    backbone = network or TinyResNet(Size(3, 2, 4, 4), shift_divisor=4)
    model = to_device(Teacher(backbone, 16, 4, config.dropout), CPU)
    reader: Any = SimpleNamespace(
        plain_rows=np.array,
        classes=lambda rows: Loop.labels.numpy()[rows],
        ahead=lambda batches, **_: iter(batches),
    )
    split = Split(tuple(range(20)), tuple(range(4)), ())
    return kind(model, config, reader, split, folder, owner="trial", seed=0, eval_batch=3)


class NoNorm(nn.Module):
    """A network without batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 16, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x.flatten(0, 1))).unflatten(0, x.shape[:2])


def train(loop: Loop) -> list[float]:
    """The training losses of its epochs."""
    while not loop.finished:
        loop.train_epoch()
    return [record.metrics["train_loss"] for record in loop.history]


class Noted(Loop):
    """Notes its batches, measures the first of each epoch, and stops at the sixth."""

    seen = 0
    last = 6

    def batches(self, epoch: int) -> Iterable[Rows]:
        return np.array_split(np.random.default_rng(epoch).permutation(20), 4)

    def batch_loss(self, batch: Batch) -> StepResult:
        if self.seen == self.last:
            raise KeyboardInterrupt
        self.seen += 1
        result = super().batch_loss(batch)
        first = {"first": result.loss} if self.is_first_of_epoch else {}
        return StepResult(result.loss, {**result.metrics, **first}, result.clips)


def test_an_epoch_goes_on_bit_identically_after_the_last_step_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(Noted, "last", -1)
    whole = make_loop(tmp_path / "whole", kind=Noted, batch_size=5, dropout=0.5)
    train(whole)
    monkeypatch.setattr(training_loop, "WITHIN_EPOCH_SECONDS", 0.0)
    monkeypatch.setattr(training_loop, "WITHIN_EPOCH_STEPS", 1)
    monkeypatch.setattr(Noted, "last", 6)
    with pytest.raises(KeyboardInterrupt):
        train(make_loop(tmp_path / "cut", kind=Noted, batch_size=5, dropout=0.5))
    monkeypatch.setattr(Noted, "last", -1)
    again = make_loop(tmp_path / "cut", kind=Noted, batch_size=5, dropout=0.5)
    train(again)
    # Three epochs of four batches, of which six were kept.
    assert again.seen == 6
    names = ("train_loss", "first", "level", "val_acc", "val_loss", "lr")
    for one, other in zip(whole.history, again.history, strict=True):
        assert [one.metrics[name] for name in names] == [other.metrics[name] for name in names]
    for kept, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(kept, other)


def test_an_epoch_with_a_loss_that_is_not_finite_is_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "WITHIN_EPOCH_SECONDS", 0.0)
    monkeypatch.setattr(training_loop, "WITHIN_EPOCH_STEPS", 1)
    monkeypatch.setattr(Loop, "clips", Loop.clips * torch.inf)
    with pytest.raises(TrialFailed, match="epoch 1, step 1"):
        train(make_loop(tmp_path))
    assert not (tmp_path / CURRENT).exists()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(tmp_path: Path, optimizer: str) -> None:
    whole = make_loop(tmp_path / "1", NoNorm(), optimizer=optimizer)
    parts = make_loop(tmp_path / "5", NoNorm(), optimizer=optimizer, accumulate=5)
    for folder in (whole.folder, parts.folder):
        folder.mkdir()
    parts.model.load_state_dict(whole.model.state_dict())
    assert train(parts) == pytest.approx(train(whole), rel=1e-5)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_every_option_learns_and_resumes_bit_identically(tmp_path: Path) -> None:
    options = {
        "optimizer": "sgd",
        "schedule": "steps",
        "milestones": (2,),
        "multipliers": "tsn",
        "partial_bn": True,
        "accumulate": 2,
        "precision": "bf16",
    }
    (tmp_path / "whole").mkdir()
    (tmp_path / "parted").mkdir()
    whole = make_loop(tmp_path / "whole", **options)
    losses = train(whole)
    assert losses[-1] < losses[0]
    make_loop(tmp_path / "parted", **options).train_epoch()
    parted = make_loop(tmp_path / "parted", **options)
    assert len(parted.history) == 1
    assert train(parted) == losses
    for one, other in zip(whole.model.parameters(), parted.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_partial_bn_keeps_statistics_and_weights(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, partial_bn=True)
    before = {name: value.clone() for name, value in loop.model.state_dict().items()}
    loop.train_epoch()
    changed = {n for n, v in loop.model.state_dict().items() if not torch.equal(v, before[n])}
    norms = {name for name in before if "running" in name}
    assert changed & norms == {"backbone.stem.1.running_mean", "backbone.stem.1.running_var"}
    assert "backbone.stem.1.weight" in changed
    assert "backbone.stages.0.residual.2.weight" not in changed
    assert "backbone.stages.0.residual.1.weight" in changed


def test_bf16_stays_near_fp32(tmp_path: Path) -> None:
    # bf16 keeps 8 bits: 0.4 % per operation, and a dozen layers in turn.
    loops = [make_loop(tmp_path / kind, epochs=1, precision=kind) for kind in ("fp32", "bf16")]
    losses = []
    for loop in loops:
        loop.folder.mkdir()
        losses.append(loop.train_epoch().metrics["train_loss"])
        assert {p.dtype for p in loop.model.parameters()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_damaged_checkpoint_is_told_and_stays_told(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.train_epoch()
    loop.train_epoch()
    assert loop.notes == ()
    os.truncate(tmp_path / CURRENT, 100)
    again = make_loop(tmp_path)
    assert len(again.history) == 1
    (note,) = again.notes
    assert note.startswith("epoch 1: ")
    assert note.endswith("training went on from checkpoint.previous.pt, the one before it")
    again.train_epoch()
    assert make_loop(tmp_path).notes == (note,)
    for name in (CURRENT, PREVIOUS):
        os.truncate(tmp_path / name, 100)
    (note,) = make_loop(tmp_path).notes
    assert note.startswith("epoch 0: ")
    assert note.endswith("training began anew")


class Table(Loop):
    """A model whose scores are known."""

    def logits(self, rows: Rows) -> Tensor:
        return torch.tensor([[0.0, 4.0], [2.0, 0.0], [1.0, 1.0], [5.0, 3.0]])[rows]


def test_scores_of_a_clip_are_averaged_over_its_rows(tmp_path: Path) -> None:
    rows = np.array([[0, 1], [3, 2]])
    found = make_loop(tmp_path, kind=Table).predict(rows)
    assert found.scores.tolist() == [[1.0, 2.0], [3.0, 2.0]]
    assert found.selected.tolist() == found.last.tolist() == [1, 0]


def test_validation_is_accuracy_and_mean_cross_entropy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loop, "labels", torch.tensor([1, 1, 0, 0]))
    reached = make_loop(tmp_path, kind=Table).validate()
    assert reached.accuracy == 75.0
    losses = [math.log(1 + math.exp(other)) for other in (-4, 2, 0, -2)]
    assert -reached.negative_loss == pytest.approx(sum(losses) / 4)


def test_accuracy_decides_and_loss_breaks_ties() -> None:
    assert Validation(50.0, -2.0) > Validation(49.0, -0.1)
    assert Validation(50.0, -0.5) > Validation(50.0, -0.6)
    assert not Validation(50.0, -0.5) > Validation(50.0, -0.5)


@pytest.mark.slow  # compiles with the C++ compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch about itself
def test_compiled_training_equals_plain_training(tmp_path: Path) -> None:
    plain = make_loop(tmp_path / "plain", NoNorm(), epochs=1)
    compiled = make_loop(tmp_path / "compiled", NoNorm(), epochs=1, compile=True)
    compiled.model.load_state_dict(plain.model.state_dict())
    for loop in (plain, compiled):
        loop.folder.mkdir()
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    assert train(compiled) == pytest.approx(train(plain), rel=1e-3)


class Counted(Loop):
    """Counts the tensors that live when a step begins."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.living: list[int] = []

    def batches(self, epoch: int) -> Iterable[Rows]:
        return np.array_split(np.random.default_rng(epoch).permutation(20), 10)

    def batch_loss(self, batch: Batch) -> StepResult:
        gc.collect()
        self.living.append(sum(type(one) is Tensor for one in gc.get_objects()))
        return super().batch_loss(batch)


def test_a_step_leaves_no_tensor_behind(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, kind=Counted, batch_size=2)
    loop.train_epoch()
    assert isinstance(loop, Counted)
    _, second, *_, last = loop.living
    assert last == second, "small ones keep the memory of large ones from being used again"
