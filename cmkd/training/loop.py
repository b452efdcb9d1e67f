"""Epochs of optimisation that can stop after any of them and go on bit-identically."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cmkd.config.base import content_id
from cmkd.config.training import TrainingConfig
from cmkd.errors import TrialFailed
from cmkd.tracking.store import EpochRecord
from cmkd.training.checkpoint import load_checkpoint, save_checkpoint
from cmkd.training.distributed import SINGLE_PROCESS, ProcessGroup
from cmkd.training.evaluate import Validation
from cmkd.training.optim import make_optimizer, make_schedule, prepare
from cmkd.training.runtime import Prefetcher

BatchT = TypeVar("BatchT")
Rows = NDArray[np.int64]

CHECKPOINT_SECONDS = 5.0
"""Least time between checkpoints; less training than this costs less to repeat than to keep."""


@dataclass(frozen=True)
class StepResult:
    """Loss of one batch, to be minimised, and metrics.

    A metric is averaged over the clips of all batches of the epoch that give it.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor]
    clips: int


@dataclass(frozen=True)
class _Part:
    """Rows of one forward pass.

    Attributes:
        weight: share of the whole batch, of all processes.
        last: True if it completes the batch.
    """

    rows: Rows
    weight: float
    last: bool


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of one epoch's order and dropout, so that resuming needs no generator state."""
    return int(content_id("epoch", seed, epoch), 16) % 2**31


class EpochLoop(Generic[BatchT]):
    """Training of a model under its `TrainingConfig`, with checkpoints.

    Args:
        folder: of the checkpoints; a valid one of the same `owner` is continued.
        owner: id of the trial or teacher that is trained.
        batches: epoch (0-based) -> rows of that epoch's batches, of all processes.
        load: rows -> argument of `step`, on the device; must not wait for the device.
        step: forward pass and loss, a mean over the clips; on CUDA it should not wait either.
        validate: evaluates the model on the validation clips; the same in all processes.
        group: the processes that train this model together.

    Attributes:
        notes: lines for the user about damaged checkpoints.
        saved_epochs: epochs in the newest checkpoint.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        folder: Path,
        *,
        owner: str,
        seed: int,
        steps_per_epoch: int,
        batches: Callable[[int], Iterable[Rows]],
        load: Callable[[Rows], BatchT],
        step: Callable[[BatchT], StepResult],
        validate: Callable[[], Validation],
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.model = model
        self.config = config
        self.folder = folder
        self.owner = owner
        self.seed = seed
        self.batches = batches
        self.load = load
        self.step = step
        self.validate = validate
        self.group = group
        self.device = next(model.parameters()).device
        group.convert_batch_norm(model)
        self._frozen = prepare(model, config)
        self._parallel = group.parallel(_Step(model, step)) if group.size > 1 else None
        self.optimizer = make_optimizer(model, config)
        self.scheduler = make_schedule(self.optimizer, config, steps_per_epoch)
        self._prefetch = Prefetcher(self.device)
        self.history: tuple[EpochRecord, ...] = ()
        self.best_epoch = 0
        self.best = Validation(-math.inf, -math.inf)
        self.best_weights: dict[str, Tensor] = {}
        self.notes: tuple[str, ...] = ()
        self._resume()
        self.saved_epochs = len(self.history)
        self._saved_at = time.monotonic()

    @property
    def finished(self) -> bool:
        """True if all epochs are done."""
        return len(self.history) >= self.config.epochs

    def train_epoch(self) -> EpochRecord:
        """One epoch and its validation; a checkpoint when it is due and after the last one.

        Raises:
            TrialFailed: the loss is not finite; names epoch and step.
        """
        epoch = len(self.history)
        assert epoch < self.config.epochs
        torch.manual_seed(epoch_seed(self.seed, epoch) + self.group.rank)
        started = time.perf_counter()
        metrics = self._train_steps(epoch)
        step_seconds = time.perf_counter() - started
        reached = self.validate()
        if reached > self.best:
            self.best_epoch, self.best = epoch + 1, reached
            self.best_weights = copy.deepcopy(self.model.state_dict())
        record = EpochRecord(
            step=epoch + 1,
            timestamp_ms=int(time.time() * 1000),
            metrics={
                **metrics,
                "val_acc": reached.accuracy,
                "val_loss": -reached.negative_loss,
                "lr": float(self.scheduler.get_last_lr()[0]),
                "step_seconds": step_seconds,
                "seconds": time.perf_counter() - started,
            },
        )
        self.history = (*self.history, record)
        if self.finished or time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self.save_checkpoint()
        return record

    def _train_steps(self, epoch: int) -> dict[str, float]:
        """All steps of an epoch; returns metrics averaged over its clips."""
        self.model.train()
        for module in self._frozen:
            module.eval()
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        clips: dict[str, int] = defaultdict(int)
        losses: list[Tensor] = []
        loss = torch.zeros((), device=self.device)
        for part, batch in self._prefetch(self._parts(epoch), lambda part: self.load(part.rows)):
            result, weighted = self._backward(part, batch)
            loss = loss + weighted
            for name, value in {"train_loss": result.loss, **result.metrics}.items():
                sums[name] += value.detach() * result.clips
                clips[name] += result.clips
            if part.last:
                self._optimizer_step()
                losses.append(loss)
                loss = torch.zeros_like(loss)
        # Nothing before this line waits for the device.
        finite = self.group.sum(torch.stack(losses)).isfinite()
        if not bool(finite.all()):
            step = int((~finite).nonzero()[0]) + 1
            raise TrialFailed(
                f"loss is not finite (NaN or infinite) at epoch {epoch + 1}, step {step}; "
                f"lower training.lr (now {self.config.lr}) or the KD weights"
            )
        counts = torch.tensor([*clips.values()], dtype=torch.float32, device=self.device)
        totals = self.group.sum(torch.stack([torch.stack([*sums.values()]), counts])).tolist()
        return {name: total / count for name, total, count in zip(sums, *totals, strict=True)}

    def _parts(self, epoch: int) -> Iterator[_Part]:
        for rows in self.batches(epoch):
            # Parts before shares, so that a part is the same clips for any number of processes.
            most = max(1, len(rows) // self.group.size)
            parts = np.array_split(rows, min(self.config.accumulate, most))
            for number, part in enumerate(parts, 1):
                own = self.group.shard(part)
                yield _Part(own, len(own) / len(rows), number == len(parts))

    def _backward(self, part: _Part, batch: BatchT) -> tuple[StepResult, Tensor]:
        """Add a part's gradients; returns its result and its share of the batch's loss."""
        if self._parallel is None:
            result = self.step(batch)
            weighted = result.loss * part.weight
            weighted.backward()
            return result, weighted.detach()
        with nullcontext() if part.last else self._parallel.no_sync():
            loss, metrics = self._parallel(batch)
            weighted = loss * part.weight
            # Gradients of the processes are averaged, and these are parts of a sum.
            (weighted * self.group.size).backward()
        return StepResult(loss, metrics, len(part.rows)), weighted.detach()

    def _optimizer_step(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

    def save_checkpoint(self) -> None:
        """Keep the state of the training after its last epoch, unless that is done."""
        if self.group.is_main and self.saved_epochs < len(self.history):
            save_checkpoint(self.folder, self.owner, self._state())
        self.saved_epochs = len(self.history)
        self._saved_at = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": [asdict(record) for record in self.history],
            "best_epoch": self.best_epoch,
            "best": asdict(self.best),
            "best_weights": self.best_weights,
            "notes": list(self.notes),
        }

    def _resume(self) -> None:
        restored = load_checkpoint(self.folder, self.owner)
        state = restored.state
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.history = tuple(EpochRecord(**record) for record in state["history"])
            self.best_epoch = state["best_epoch"]
            self.best = Validation(**state["best"])
            self.best_weights = state["best_weights"]
            self.notes = tuple(state["notes"])
        if restored.note:
            self.notes = (*self.notes, f"epoch {len(self.history)}: {restored.note}")


class _Step(nn.Module, Generic[BatchT]):
    """A step as a module, whose gradients `DistributedDataParallel` reduces."""

    def __init__(self, model: nn.Module, step: Callable[[BatchT], StepResult]) -> None:
        super().__init__()
        self.model = model
        self.step = step

    def forward(self, batch: BatchT) -> tuple[Tensor, dict[str, Tensor]]:
        result = self.step(batch)
        return result.loss, {name: value.detach() for name, value in result.metrics.items()}
