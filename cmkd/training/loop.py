"""Epochs of optimisation that can stop after any of them and go on bit-identically."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from cmkd.training.distributed import ALONE, Peers
from cmkd.training.evaluate import Validation
from cmkd.training.optim import make_optimizer, make_schedule, prepare
from cmkd.training.runtime import Loader

BatchT = TypeVar("BatchT")
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class StepResult:
    """What one batch gives: the loss to minimise and figures to average, weighted by clips."""

    loss: Tensor
    figures: Mapping[str, Tensor]
    clips: int


@dataclass(frozen=True)
class _Part:
    """Rows that one forward pass takes.

    Attributes:
        weight: their share of the whole batch, of all processes.
        last: whether the batch is complete with it.
    """

    rows: Rows
    weight: float
    last: bool


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of one epoch's order and dropout, so that resuming needs no generator state."""
    return int(content_id("epoch", seed, epoch), 16) % 2**31


class EpochLoop(Generic[BatchT]):
    """A model under its `TrainingConfig`, checkpointed after every epoch.

    Args:
        folder: where checkpoints live; an existing valid one is continued.
        batches: epoch (0-based) -> rows of that epoch's batches, of all processes.
        load: rows -> what `step` takes, on the device; it must not wait for the device.
        step: forward pass and loss, a mean over the clips; on CUDA it should not wait either.
        validate: the model as it stands, on validation clips; the same in all processes.
        peers: the processes that train this model together.

    Attributes:
        notes: lines for the user about checkpoints that were damaged.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        folder: Path,
        *,
        seed: int,
        steps_per_epoch: int,
        batches: Callable[[int], Iterable[Rows]],
        load: Callable[[Rows], BatchT],
        step: Callable[[BatchT], StepResult],
        validate: Callable[[], Validation],
        peers: Peers = ALONE,
    ) -> None:
        self.model = model
        self.config = config
        self.folder = folder
        self.seed = seed
        self.batches = batches
        self.load = load
        self.step = step
        self.validate = validate
        self.peers = peers
        self.device = next(model.parameters()).device
        peers.join(model)
        self._frozen = prepare(model, config)
        self.optimizer = make_optimizer(model, config)
        self.scheduler = make_schedule(self.optimizer, config, steps_per_epoch)
        self._loader = Loader(self.device)
        self.history: tuple[EpochRecord, ...] = ()
        self.best_epoch = 0
        self.best = Validation(-math.inf, -math.inf)
        self.best_weights: dict[str, Tensor] = {}
        self.notes: tuple[str, ...] = ()
        self._resume()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return len(self.history) >= self.config.epochs

    def train_epoch(self) -> EpochRecord:
        """One epoch, its validation and its checkpoint.

        Raises:
            TrialFailed: the loss is not finite; names epoch and step.
        """
        epoch = len(self.history)
        assert epoch < self.config.epochs
        torch.manual_seed(epoch_seed(self.seed, epoch) + self.peers.rank)
        started = time.perf_counter()
        figures, step_seconds = self._optimise(epoch)
        reached = self.validate()
        if reached > self.best:
            self.best_epoch, self.best = epoch + 1, reached
            self.best_weights = copy.deepcopy(self.model.state_dict())
        record = EpochRecord(
            step=epoch + 1,
            timestamp_ms=int(time.time() * 1000),
            metrics={
                **figures,
                "val_acc": reached.accuracy,
                "val_loss": -reached.negative_loss,
                "lr": float(self.scheduler.get_last_lr()[0]),
                "step_seconds": step_seconds,
                "seconds": time.perf_counter() - started,
            },
        )
        self.history = (*self.history, record)
        if self.peers.first:
            save_checkpoint(self.folder, self._state())
        return record

    def _optimise(self, epoch: int) -> tuple[dict[str, float], float]:
        self.model.train()
        for module in self._frozen:
            module.eval()
        began = time.perf_counter()
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        losses: list[Tensor] = []
        clips = 0
        loss = torch.zeros((), device=self.device)
        for part, batch in self._loader(self._parts(epoch), lambda part: self.load(part.rows)):
            result = self.step(batch)
            weighted = result.loss * part.weight
            weighted.backward()
            loss = loss + weighted.detach()
            for name, value in {"train_loss": result.loss, **result.figures}.items():
                sums[name] += value.detach() * result.clips
            clips += result.clips
            if part.last:
                self._descend()
                losses.append(loss)
                loss = torch.zeros_like(loss)
        # Nothing before this line waits for the device.
        finite = self.peers.sum(torch.stack(losses)).isfinite()
        if not bool(finite.all()):
            step = int((~finite).nonzero()[0]) + 1
            raise TrialFailed(
                f"loss is not finite (NaN or infinite) at epoch {epoch + 1}, step {step}; "
                f"lower training.lr (now {self.config.lr}) or the KD weights"
            )
        seconds = time.perf_counter() - began
        return self._averages(sums, clips), seconds

    def _parts(self, epoch: int) -> Iterator[_Part]:
        for rows in self.batches(epoch):
            # Parts before shares, so that a part is the same clips whatever the number of peers.
            most = max(1, len(rows) // self.peers.size)
            parts = np.array_split(rows, min(self.config.accumulate, most))
            for number, part in enumerate(parts, 1):
                own = self.peers.share(part)
                yield _Part(own, len(own) / len(rows), number == len(parts))

    def _descend(self) -> None:
        self.peers.sum_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _averages(self, sums: Mapping[str, Tensor], clips: int) -> dict[str, float]:
        count = torch.tensor(float(clips), device=self.device)
        totals = self.peers.sum(torch.stack([*sums.values(), count])).tolist()
        return {name: total / totals[-1] for name, total in zip(sums, totals, strict=False)}

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
        restored = load_checkpoint(self.folder)
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
