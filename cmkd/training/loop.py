"""Training loop: epochs of optimisation that stop after any of them and go on bit-identically."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from cmkd.config.base import content_id
from cmkd.config.trial import TrainingConfig
from cmkd.data.splits import Split
from cmkd.errors import TrialFailed
from cmkd.tracking.store import EpochRecord
from cmkd.training.batches import Reader, Rows, in_order, num_batches, shuffled
from cmkd.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from cmkd.training.optim import make_optimizer, make_schedule, prepare
from cmkd.training.outcome import UNKNOWN, Predicted, Scores, Validation, accuracy
from cmkd.training.runtime import (
    SINGLE_PROCESS,
    ProcessGroup,
    autocast,
    get_generators,
    prefetch,
    set_generators,
)

ModelT = TypeVar("ModelT", bound=nn.Module)
BatchT = TypeVar("BatchT")

CHECKPOINT_SECONDS = 5.0
"""Least time between checkpoints; less training than this costs less to repeat than to keep."""
WITHIN_EPOCH_SECONDS = 300.0
"""The same inside of an epoch, where keeping waits for the device."""
WITHIN_EPOCH_STEPS = 20
"""Steps after which the time is looked at."""


@dataclass(frozen=True)
class StepResult:
    """Loss of one batch, a mean over its clips, and metrics.

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


class TrainingLoop(ABC, Generic[ModelT, BatchT]):
    """Training of a classifier of clips under its `TrainingConfig`, with checkpoints.

    Subclasses give a batch (`load`), its loss (`batch_loss`) and the scores of clips (`logits`).

    Args:
        folder: of the checkpoints; a valid one of the same `owner` is continued.
        owner: id of the trial or teacher that is trained.
        eval_batch: clips of one forward pass without gradients.
        group: the processes that train this model together.

    Attributes:
        history: records of the epochs done, those of earlier processes included.
        best_epoch: selected epoch, from 1; `best` is its validation, `best_weights` its state.
            Without validation clips it is the last one.
        notes: lines for the user about damaged checkpoints.
        saved_epochs: epochs in the newest checkpoint.
        is_first_of_epoch: no batch of the epoch has been computed.
        network: `model`, or what sums its gradients over GPUs while others are computed; training
            calls this one.
        reads_compressed, reads_frames: parts of a clip that `load` reads; `logits` reads the
            frames only where `load` reads nothing else.
    """

    reads_compressed = True
    reads_frames = False

    def __init__(
        self,
        model: ModelT,
        config: TrainingConfig,
        reader: Reader,
        split: Split,
        folder: Path,
        *,
        owner: str,
        seed: int,
        eval_batch: int,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.model = model
        self.config = config
        self.reader = reader
        self.split = split
        self.folder = folder
        self.owner = owner
        self.seed = seed
        self.eval_batch = eval_batch
        self.group = group
        self.device = next(model.parameters()).device
        group.convert_batch_norm(model)
        self._frozen = prepare(model, config)
        self.network: nn.Module = model
        if group.size > 1 and self.device.type == "cuda":
            self.network = group.overlapping(model)
        self.optimizer = make_optimizer(model, config)
        steps = num_batches(len(split.train), config.batch_size)
        self.scheduler = make_schedule(self.optimizer, config, steps)
        self.history: tuple[EpochRecord, ...] = ()
        self.best_epoch = 0
        self.best = UNKNOWN
        self.best_weights: Mapping[str, Tensor] = {}
        self.notes: tuple[str, ...] = ()
        self.is_first_of_epoch = True
        self._progress = Progress()
        self._generators: list[Tensor] = []
        self._resume()
        self.saved_epochs = len(self.history)
        self._saved_at = time.monotonic()

    @abstractmethod
    def load(self, rows: Rows) -> BatchT:
        """Argument of `batch_loss`, on the device; must not wait for the device."""

    @abstractmethod
    def batch_loss(self, batch: BatchT) -> StepResult:
        """Forward pass and loss; on CUDA it should not wait for the device either."""

    @abstractmethod
    def logits(self, rows: Rows) -> Float[Tensor, "R K"]:
        """Scores of single rows of the clip arrays, without gradients."""

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
        if len(self._generators) == self.group.size:
            set_generators(self._generators[self.group.rank], self.device)
        started = time.perf_counter() - self._progress.seconds
        metrics = self._train_steps(epoch)
        step_seconds = time.perf_counter() - started
        self._progress, self._generators = Progress(), []
        validated = self.select(epoch + 1)
        record = EpochRecord(
            step=epoch + 1,
            timestamp_ms=int(time.time() * 1000),
            metrics={
                **metrics,
                **validated,
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
        done = self._progress
        started = time.perf_counter() - done.seconds
        loss = torch.zeros((), device=self.device)
        parts = list(self._parts(epoch, done.steps))
        done.expect(done.steps + sum(part.last for part in parts), self.device)
        announced = self.reader.ahead(
            [part.rows for part in parts],
            compressed=self.reads_compressed,
            frames=self.reads_frames,
        )
        pairs = zip(announced, parts, strict=True)
        for (_, part), batch in prefetch(pairs, lambda pair: self.load(pair[0]), self.device):
            self.is_first_of_epoch = not done.clips
            with self._unsent(part):
                result = self.batch_loss(batch)
                weighted = result.loss * part.weight
                weighted.backward()
            loss = loss + weighted.detach()
            for name, value in {"train_loss": result.loss, **result.metrics}.items():
                done.add(name, value, result.clips)
            if part.last:
                self.group.sum_gradients(self.network)
                nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad(set_to_none=True)
                done.losses[done.steps] = loss
                done.steps += 1
                loss = torch.zeros_like(loss)
                if done.steps % WITHIN_EPOCH_STEPS == 0 and self._is_time():
                    done.seconds = time.perf_counter() - started
                    self._save_within(epoch)
        # Nothing but a checkpoint waits for the device before this line.
        self._require_finite(epoch)
        counts = torch.tensor([*done.clips.values()], dtype=torch.float32, device=self.device)
        totals = self.group.sum(torch.stack([torch.stack([*done.sums.values()]), counts])).tolist()
        return {name: total / count for name, total, count in zip(done.sums, *totals, strict=True)}

    def _unsent(self, part: _Part) -> AbstractContextManager[None]:
        """Context of a part after which other parts of its batch follow: no gradient is sent."""
        if part.last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()

    def _require_finite(self, epoch: int) -> None:
        finite = self.group.sum(self._progress.losses).isfinite()
        if not bool(finite.all()):
            step = int((~finite).nonzero()[0]) + 1
            raise TrialFailed(
                f"loss is not finite (NaN or infinite) at epoch {epoch + 1}, step {step}; "
                f"lower training.lr (now {self.config.lr}) or the KD weights"
            )

    def _is_time(self) -> bool:
        """Whether a checkpoint is due; the main process decides for all."""
        late = time.monotonic() - self._saved_at >= WITHIN_EPOCH_SECONDS
        flag = torch.tensor(float(late and self.group.is_main), device=self.device)
        return bool(self.group.sum(flag)) if self.group.size > 1 else late

    def _save_within(self, epoch: int) -> None:
        self._require_finite(epoch)
        self._progress.hand_over(self.group)
        self._generators = self.group.gather(get_generators(self.device))
        self._save()

    def batches(self, epoch: int) -> Iterable[Rows]:
        """Rows of the batches of an epoch (from 0), of all processes."""
        rows = self.reader.epoch_rows(self.split.train, epoch)
        return shuffled(rows, self.config.batch_size, epoch_seed(self.seed, epoch))

    def _parts(self, epoch: int, done: int) -> Iterator[_Part]:
        """Parts of the batches of an epoch without its first ones."""
        for rows in islice(self.batches(epoch), done, None):
            # Parts before shares, so that a part is the same clips for any number of processes.
            most = max(1, len(rows) // self.group.size)
            parts = np.array_split(rows, min(self.config.accumulate, most))
            for number, part in enumerate(parts, 1):
                own = self.group.shard(part)
                yield _Part(own, len(own) / len(rows), number == len(parts))

    def select(self, epoch: int) -> Mapping[str, float]:
        """Validate the model and keep its weights if they are the best so far; gives metrics."""
        if not self.split.val:
            self.best_epoch, self.best_weights = epoch, self.model.state_dict()
            return {}
        reached = self.validate()
        if reached > self.best:
            self.best_epoch, self.best = epoch, reached
            self.best_weights = copy.deepcopy(self.model.state_dict())
        return {"val_acc": reached.accuracy, "val_loss": -reached.negative_loss}

    def validate(self) -> Validation:
        """Accuracy and loss on the validation clips; the same in all processes."""
        rows = self.reader.plain_rows(self.split.val)
        scores, labels = self._scores(rows), self.reader.classes(rows)
        loss = F.cross_entropy(scores, torch.from_numpy(labels))
        return Validation(accuracy(scores.argmax(1).numpy(), labels), -float(loss))

    def _scores(self, rows: Rows) -> Float[Tensor, "R K"]:
        """Scores of single rows, on the CPU; each process computes its share."""
        self.model.eval()
        own = self.group.shard(np.arange(len(rows)))
        with torch.inference_mode(), autocast(self.config.precision, self.device):
            batches = list(in_order(rows[own], self.eval_batch))
            announced = self.reader.ahead(
                batches, compressed=self.reads_compressed, frames=not self.reads_compressed
            )
            parts = [self.logits(part).float() for part in announced]
        scores = parts[0].new_zeros(len(rows), parts[0].shape[1])
        scores[own] = torch.cat(parts)
        return self.group.sum(scores).cpu()

    def predict(self, rows: Int64[np.ndarray, "N M"]) -> Predicted:
        """Predictions for clips, given by their M rows, whose scores are averaged."""
        selected = last = self._clip_scores(rows)
        if self.best_epoch != len(self.history):
            with self.selected():
                selected = self._clip_scores(rows)
        return Predicted(selected.argmax(1), last.argmax(1), selected)

    def _clip_scores(self, rows: Int64[np.ndarray, "N M"]) -> Scores:
        scores = self._scores(rows.reshape(-1)).unflatten(0, rows.shape).mean(1)
        return np.asarray(scores.numpy())

    @contextmanager
    def selected(self) -> Iterator[None]:
        """Give the model its selected weights while the block runs."""
        last = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.best_weights)
        yield
        self.model.load_state_dict(last)

    def figures(self) -> dict[str, float]:
        """Number of parameters."""
        return {"parameters": float(sum(p.numel() for p in self.model.parameters()))}

    def save_checkpoint(self) -> None:
        """Keep the state of the training after its last epoch, unless that is done."""
        if self.saved_epochs < len(self.history):
            self._save()

    def _save(self) -> None:
        if self.group.is_main:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "history": [asdict(record) for record in self.history],
                "best_epoch": self.best_epoch,
                "best": asdict(self.best),
                "best_weights": self.best_weights,
                "notes": list(self.notes),
                "progress": vars(self._progress),
                "generators": self._generators,
            }
            save_checkpoint(self.folder, self.owner, state)
        self.saved_epochs = len(self.history)
        self._saved_at = time.monotonic()

    def _resume(self) -> None:
        state, note = load_checkpoint(self.folder, self.owner)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.history = tuple(EpochRecord(**record) for record in state["history"])
            self.best_epoch = state["best_epoch"]
            self.best = Validation(**state["best"])
            self.best_weights = state["best_weights"]
            self.notes = tuple(state["notes"])
            self._progress = Progress.restored(state["progress"], self.group, self.device)
            self._generators = state["generators"]
        if note:
            self.notes = (*self.notes, f"epoch {len(self.history)}: {note}")
