"""One trial: a student trained, selected on validation and tested, resumable after every epoch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmkd.config.method import GraphIndex
from cmkd.config.trial import TrialConfig
from cmkd.data.arrays import open_arrays
from cmkd.data.datasets import open_planned
from cmkd.method.attention_gate import entropy
from cmkd.method.losses import TeacherTargets, total_loss
from cmkd.tracking.records import EpochRecord
from cmkd.training.checkpoint import drop_checkpoints, write_json, write_tensors
from cmkd.training.clips import (
    ClipReader,
    CompressedBatch,
    first_rows,
    in_order,
    num_batches,
    shuffled,
    view_rows,
)
from cmkd.training.edges import mean_edges
from cmkd.training.evaluate import (
    Validation,
    accuracy,
    eval_batch,
    validation,
    write_predictions,
)
from cmkd.training.features import TeacherFeatures, ensure_features
from cmkd.training.frozen import teacher_folder
from cmkd.training.loop import EpochLoop, StepResult, epoch_seed
from cmkd.training.motion_svm import MotionSvm
from cmkd.training.multiview import clip_scores
from cmkd.training.parallel import ALONE, Peers
from cmkd.training.runtime import autocast, pick_device, place
from cmkd.training.students import build_student

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class TrialOutcome:
    """Final figures (accuracies in percent) and the files that belong to the run.

    `notes` are lines for the user about checkpoints that were damaged.
    """

    summary: Mapping[str, float]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


class Learner(Protocol):
    """What a trial trains: the student network, or the reference on motion vectors."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    best: Validation
    notes: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""

    def train_epoch(self) -> EpochRecord:
        """Train, validate and checkpoint one epoch."""

    def predict(self, rows: Rows) -> tuple[Rows, Rows]:
        """Classes of clips, given by their rows (N, M), at the selected and at the last epoch."""

    def figures(self) -> Mapping[str, float]:
        """Further summary figures."""

    def save(self, folder: Path) -> None:
        """Keep the selected weights."""


class TrialRun:
    """The trial of `config` in this process, under ``<cache>/trials/<trial id>``.

    An unfinished trial goes on after its last checkpointed epoch; a finished one is only read.

    Args:
        peers: the processes that train this trial together; each has a `TrialRun` of its own on
            the same cache, and all of them make the same calls.

    Raises:
        DataError: the data set or its arrays cannot be read.
        InfrastructureError: the disk does not give a checkpoint that is there.
        TrialFailed: the loss is not finite (from `train_epoch`).
    """

    def __init__(
        self, config: TrialConfig, cache: Path, *, device: str = "auto", peers: Peers = ALONE
    ) -> None:
        self.config = config
        self.peers = peers
        self.cache = cache
        self.folder = cache / "trials" / config.id
        self.folder.mkdir(parents=True, exist_ok=True)
        self.epochs = 1 if config.setting.model == "motion_svm" else config.setting.training.epochs
        self._stored = self._read_outcome()
        # All of them must have looked before one can write.
        peers.wait()
        if self._stored is None:
            self._open(cache, device)

    def _open(self, cache: Path, device: str) -> None:
        started = time.perf_counter()
        config = self.config
        self.dataset = open_planned(config.data, config.data_id, cache)
        arrays = open_arrays(self.dataset, config.setting.reading, cache)
        self.split = self.dataset.split(config.fold)
        plain = first_rows(arrays, self.split.train)
        self.reader = ClipReader(arrays, plain, pick_device(device), config.setting)
        self.learner: Learner
        if config.setting.model == "motion_svm":
            self.learner = MotionSvm(self.reader, self.split)
        else:
            features = None
            edges: Mapping[GraphIndex, float] = {}
            method = config.setting.method
            if method.needs_teacher:
                features = ensure_features(config, cache, self.dataset, self.reader)
                record = teacher_folder(config, cache) / "mean_edges.json"
                edges = mean_edges(features, plain, method, record)
            self.learner = StudentLearner(self, features, edges)
        self._open_seconds = time.perf_counter() - started

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """All epochs done so far, those of earlier processes included."""
        if self._stored is not None:
            return tuple(EpochRecord(**record) for record in self._stored["history"])
        return self.learner.history

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user about checkpoints that were damaged."""
        return tuple(self._stored["notes"]) if self._stored is not None else self.learner.notes

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return len(self.history) >= self.epochs

    def train_epoch(self) -> EpochRecord:
        """One epoch with validation, checkpointed before this returns."""
        return self.learner.train_epoch()

    def finish(self) -> TrialOutcome:
        """Test the selected and the last epoch and write the outcome; repeatable."""
        assert self.finished
        if self._stored is None:
            self._write_outcome()
            self.peers.wait()
            self._stored = self._read_outcome()
        assert self._stored is not None
        files = (self.folder / "config.json", self.folder / "predictions.csv")
        return TrialOutcome(self._stored["summary"], files, self.notes)

    def _read_outcome(self) -> dict[str, Any] | None:
        path = self.folder / "outcome.json"
        if not path.is_file():
            return None
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return stored

    def _write_outcome(self) -> None:
        rows = self.reader.arrays.test_index[list(self.split.test)]
        labels = self.reader.arrays.labels[rows[:, 0]]
        selected, last = self.learner.predict(rows)
        if not self.peers.first:
            return
        write_predictions(
            self.folder / "predictions.csv", self.dataset, self.split.test, selected, last
        )
        write_json(
            self.folder / "config.json", {"trial_id": self.config.id, **self.config.as_json()}
        )
        self.learner.save(self.folder)
        steps = [record.metrics.get("step_seconds", 0.0) for record in self.history]
        summary = {
            "test_acc": accuracy(selected, labels),
            "test_acc_last": accuracy(last, labels),
            "best_val_acc": self.learner.best.accuracy,
            "selected_epoch": float(self.learner.best_epoch),
            "seconds_step": sum(steps),
            "seconds_train": sum(record.metrics["seconds"] for record in self.history),
            "seconds_open": self._open_seconds,
            **self.learner.figures(),
        }
        history = [asdict(record) for record in self.history]
        stored = {"summary": summary, "history": history, "notes": list(self.notes)}
        write_json(self.folder / "outcome.json", stored)
        # Only now: a kill before this line must leave something to go on from.
        drop_checkpoints(self.folder)


@dataclass(frozen=True)
class Batch:
    """What a step of the student takes."""

    inputs: CompressedBatch
    labels: Tensor
    targets: TeacherTargets | None


class StudentLearner(EpochLoop[Batch]):
    """The student of one trial, distilled from a frozen teacher."""

    def __init__(
        self, trial: TrialRun, features: TeacherFeatures | None, edges: Mapping[GraphIndex, float]
    ) -> None:
        config = trial.config
        self.method = config.setting.method
        self.reader = trial.reader
        self.split = trial.split
        self.features = features
        self.edges = edges
        self.eval_batch = eval_batch(config.setting.student.backbone)
        torch.manual_seed(epoch_seed(config.seed, -1))
        self.num_classes = len(trial.dataset.info.classes)
        student = build_student(
            config.setting, trial.reader.picture, self.num_classes, cache=trial.cache
        )
        self.student = place(student, trial.reader.device)
        super().__init__(
            self.student,
            config.setting.training,
            trial.folder,
            seed=config.seed,
            steps_per_epoch=num_batches(len(self.split.train), config.setting.training.batch_size),
            batches=self._batches,
            load=self._load,
            step=self._step,
            validate=self._validate,
            peers=trial.peers,
        )

    def _batches(self, epoch: int) -> Iterable[Rows]:
        rows = view_rows(self.reader.arrays, self.split.train, epoch)
        return shuffled(rows, self.config.batch_size, epoch_seed(self.seed, epoch))

    def _load(self, rows: Rows) -> Batch:
        targets = None
        if self.features is not None:
            targets = self.features.targets(rows, self.edges)
        return Batch(self.reader.compressed(rows), self.reader.labels(rows), targets)

    def _step(self, batch: Batch) -> StepResult:
        labels = batch.labels
        with autocast(self.config.precision, self.reader.device):
            output = self.student(*batch.inputs.inputs)
        losses = total_loss(output, labels, batch.targets, self.method)
        figures = {
            "train_acc": 100.0 * (output.logits.argmax(1) == labels).float().mean(),
            "loss_ce": losses.ce,
        }
        terms = {"spatial": losses.spatial, "temporal": losses.temporal, "logits": losses.logits}
        figures |= {f"loss_{name}": term for name, term in terms.items() if term is not None}
        if self.student.gate is not None:
            figures["alpha_entropy"] = entropy(output.alpha.detach())
        return StepResult(losses.total, figures, len(labels))

    def _validate(self) -> Validation:
        rows = first_rows(self.reader.arrays, self.split.val)
        return validation(self._scores(rows), self.reader.arrays.labels[rows])

    def _scores(self, rows: Rows) -> Tensor:
        """Logits (R, K) of single rows; each process computes its share."""
        self.student.eval()
        scores = torch.zeros(len(rows), self.num_classes, device=self.device)
        own = np.array_split(np.arange(len(rows)), self.peers.size)[self.peers.rank]
        with torch.inference_mode(), autocast(self.config.precision, self.device):
            for part in in_order(own, self.eval_batch):
                output = self.student(*self.reader.compressed(rows[part]).inputs)
                scores[part] = output.logits.float()
        return self.peers.sum(scores).cpu()

    def predict(self, rows: Rows) -> tuple[Rows, Rows]:
        """Classes of clips, given by their rows (N, M), at the selected and at the last epoch."""
        last = clip_scores(self._scores, rows).argmax(1).numpy()
        weights = {name: value.clone() for name, value in self.student.state_dict().items()}
        self.student.load_state_dict(self.best_weights)
        selected = clip_scores(self._scores, rows).argmax(1).numpy()
        self.student.load_state_dict(weights)
        return selected, last

    def figures(self) -> Mapping[str, float]:
        """Number of parameters."""
        return {"parameters": float(sum(p.numel() for p in self.student.parameters()))}

    def save(self, folder: Path) -> None:
        """Keep the selected weights, with the scales their inputs are divided by."""
        scales = {
            "motion_scale": repr(self.reader.motion_scale),
            "residual_scale": repr(self.reader.residual_scale),
        }
        write_tensors(folder / "student.safetensors", self.best_weights, scales)
