"""Epochs of optimisation that can stop after any of them and go on bit-identically."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from cmkd.config.base import content_id
from cmkd.config.training import TrainingConfig
from cmkd.errors import TrialFailed
from cmkd.tracking.records import EpochRecord
from cmkd.training.checkpoint import load_checkpoint, save_checkpoint
from cmkd.training.evaluate import Validation

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class StepResult:
    """What one batch gives: the loss to minimise and figures to average, weighted by clips."""

    loss: Tensor
    figures: Mapping[str, Tensor]
    clips: int


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of one epoch's order and dropout, so that resuming needs no generator state."""
    return int(content_id("epoch", seed, epoch), 16) % 2**31


class EpochLoop(Generic[BatchT]):
    """AdamW and one-cycle over a model, checkpointed after every epoch.

    Args:
        folder: where checkpoints live; an existing valid one is continued.
        batches: epoch (0-based) -> batches of that epoch.
        step: forward pass of one batch.
        validate: the model as it stands, on validation clips.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        folder: Path,
        *,
        seed: int,
        steps_per_epoch: int,
        batches: Callable[[int], Iterable[BatchT]],
        step: Callable[[BatchT], StepResult],
        validate: Callable[[], Validation],
    ) -> None:
        self.model = model
        self.config = config
        self.folder = folder
        self.seed = seed
        self.batches = batches
        self.step = step
        self.validate = validate
        self.device = next(model.parameters()).device
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=config.lr, total_steps=config.epochs * steps_per_epoch + 1
        )
        self.history: tuple[EpochRecord, ...] = ()
        self.best_epoch = 0
        self.best = Validation(-math.inf, -math.inf)
        self.best_weights: dict[str, Tensor] = {}
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
        torch.manual_seed(epoch_seed(self.seed, epoch))
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
        save_checkpoint(self.folder, self._state())
        return record

    def _optimise(self, epoch: int) -> tuple[dict[str, float], float]:
        self.model.train()
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        losses: list[Tensor] = []
        clips = 0
        step_seconds = 0.0
        for batch in self.batches(epoch):
            began = time.perf_counter()
            result = self.step(batch)
            self.optimizer.zero_grad(set_to_none=True)
            result.loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
            self.optimizer.step()
            self.scheduler.step()
            losses.append(result.loss.detach())
            for name, value in {"train_loss": result.loss, **result.figures}.items():
                sums[name] += value.detach() * result.clips
            clips += result.clips
            step_seconds += time.perf_counter() - began
        finite = torch.stack(losses).isfinite()
        if not bool(finite.all()):
            step = int((~finite).nonzero()[0]) + 1
            raise TrialFailed(
                f"loss is not finite (NaN or infinite) at epoch {epoch + 1}, step {step}; "
                f"lower training.lr (now {self.config.lr}) or the KD weights"
            )
        return {name: float(value) / clips for name, value in sums.items()}, step_seconds

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": [asdict(record) for record in self.history],
            "best_epoch": self.best_epoch,
            "best": asdict(self.best),
            "best_weights": self.best_weights,
        }

    def _resume(self) -> None:
        state = load_checkpoint(self.folder, self.device)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.history = tuple(EpochRecord(**record) for record in state["history"])
        self.best_epoch = state["best_epoch"]
        self.best = Validation(**state["best"])
        self.best_weights = state["best_weights"]
