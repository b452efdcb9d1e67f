"""One trial: a student trained, selected on validation and tested, resumable after every epoch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cmkd.config.method import GraphIndex
from cmkd.config.trial import TrialConfig
from cmkd.data.dataset import open_planned
from cmkd.data.decoded_cache import open_arrays
from cmkd.provenance import Provenance, makers, sign
from cmkd.tracking.store import EpochRecord
from cmkd.training.batches import ClipReader, ensure_scales, first_rows
from cmkd.training.checkpoint import drop_checkpoints, read_finished, write_finished, write_json
from cmkd.training.diagnostics import (
    DIAGNOSTICS_FILE,
    ClipDiagnostics,
    choose_clips,
    graphs_of,
    motion_lengths,
    write_diagnostics,
)
from cmkd.training.distributed import SINGLE_PROCESS, ProcessGroup
from cmkd.training.evaluate import PREDICTIONS_FILE, Validation, accuracy, write_predictions
from cmkd.training.features import ensure_features, ensure_mean_edges, online_features
from cmkd.training.runtime import pick_device
from cmkd.training.student import StudentLearner

CONFIG_FILE, OUTCOME_FILE = "config.json", "outcome.json"

Rows = NDArray[np.int64]


class Learner(Protocol):
    """Model that a trial trains: the student network, or the reference on motion vectors."""

    history: tuple[EpochRecord, ...]
    saved_epochs: int
    best_epoch: int
    best: Validation
    notes: tuple[str, ...]

    def train_epoch(self) -> EpochRecord:
        """Train and validate one epoch."""

    def predict(self, rows: Rows) -> tuple[Rows, Rows]:
        """Classes of clips, given by their rows (N, M), at the selected and at the last epoch."""

    def diagnose(self, rows: Rows) -> ClipDiagnostics | None:
        """Gate and graphs on single rows (B,) at the selected epoch; None without any."""

    def summary(self) -> Mapping[str, float]:
        """Further figures of the trial."""

    def save(self, folder: Path) -> tuple[str, ...]:
        """Write the selected weights; returns names of files."""


@dataclass(frozen=True)
class TrialResult:
    """Final figures (accuracies in percent) and the files that belong to the run.

    `notes` are lines for the user about damaged checkpoints.
    """

    summary: Mapping[str, float]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    made_by: tuple[Provenance, ...] = ()


class TrialRun:
    """The trial of `config` in this process, under ``<cache>/trials/<trial id>``.

    An unfinished trial goes on after its last checkpointed epoch; a finished one is only read.

    Args:
        group: the processes that train this trial together; each has a `TrialRun` of its own on
            the same cache, and all of them make the same calls.

    Raises:
        DataError: the data set or its arrays cannot be read.
        InfrastructureError: a file of the trial or its teacher was damaged, or cannot be read.
        TrialFailed: the loss is not finite (from `train_epoch`).
    """

    def __init__(
        self,
        config: TrialConfig,
        cache: Path,
        *,
        device: str = "auto",
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.config = config
        self.group = group
        self.cache = cache
        self.folder = cache / "trials" / config.id
        self.folder.mkdir(parents=True, exist_ok=True)
        self.epochs = 1 if config.setting.model == "motion_svm" else config.setting.training.epochs
        self._stored = self._read_outcome()
        # All of them must have looked before one can write.
        group.barrier()
        if self._stored is None:
            self._open(device)

    def _open(self, device: str) -> None:
        started = time.perf_counter()
        config, cache = self.config, self.cache
        if self.group.is_main:
            sign(self.folder)
        self.dataset = open_planned(config.data, config.data_id, cache)
        arrays = open_arrays(self.dataset, config.setting.reading, cache)
        self.split = self.dataset.split(config.fold)
        scales = ensure_scales(config, cache, arrays, self.split)
        self.reader = ClipReader(arrays, scales, pick_device(device), config.setting)
        self.learner = self._make_learner()
        self._open_seconds = time.perf_counter() - started

    def _make_learner(self) -> Learner:
        config, cache = self.config, self.cache
        if config.setting.model == "motion_svm":
            # Here, as scikit-learn takes 1.3 s and 150 MiB to import.
            from cmkd.training.motion_svm import MotionSvm

            return MotionSvm(self.reader, self.split)
        features = None
        mean_edges: Mapping[GraphIndex, float] = {}
        if config.setting.method.needs_teacher:
            features = ensure_features(config, cache, self.dataset, self.reader)
            plain = first_rows(self.reader.arrays, self.split.train)
            mean_edges = ensure_mean_edges(config, cache, features, plain)
        return StudentLearner(
            config,
            self.reader,
            self.split,
            len(self.dataset.info.classes),
            self.folder,
            cache,
            features=features,
            mean_edges=mean_edges,
            group=self.group,
        )

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """All epochs done so far, those of earlier processes included."""
        if self._stored is not None:
            return tuple(EpochRecord(**record) for record in self._stored["history"])
        return self.learner.history

    @property
    def saved_epochs(self) -> int:
        """Number of epochs that a later process finds done."""
        return self.epochs if self._stored is not None else self.learner.saved_epochs

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user about damaged checkpoints."""
        return tuple(self._stored["notes"]) if self._stored is not None else self.learner.notes

    @property
    def finished(self) -> bool:
        """True if all epochs are done."""
        return len(self.history) >= self.epochs

    def train_epoch(self) -> EpochRecord:
        """One epoch with validation; see `EpochLoop.train_epoch` for its checkpoint."""
        return self.learner.train_epoch()

    def finish(self) -> TrialResult:
        """Test the selected and the last epoch and write the outcome; repeatable."""
        assert self.finished
        if self._stored is None:
            self._test()
            self.group.barrier()
            self._stored = self._read_outcome()
        assert self._stored is not None
        names = (CONFIG_FILE, PREDICTIONS_FILE, DIAGNOSTICS_FILE)
        files = tuple(self.folder / name for name in names if name in self._stored["files"])
        return TrialResult(self._stored["summary"], files, self.notes, makers(self.folder))

    def _read_outcome(self) -> dict[str, Any] | None:
        path = self.folder / OUTCOME_FILE
        if not path.is_file():
            return None
        stored: dict[str, Any] = read_finished(path, self.config.id)
        return stored

    def _test(self) -> None:
        rows = self.reader.arrays.test_index[list(self.split.test)]
        labels = self.reader.arrays.labels[rows[:, 0]]
        selected, last = self.learner.predict(rows)
        if not self.group.is_main:
            return
        write_predictions(
            self.folder / PREDICTIONS_FILE, self.dataset, self.split.test, selected, last
        )
        write_json(self.folder / CONFIG_FILE, {"trial_id": self.config.id, **self.config.as_json()})
        files = (CONFIG_FILE, PREDICTIONS_FILE, *self._diagnose(), *self.learner.save(self.folder))
        steps = [record.metrics.get("step_seconds", 0.0) for record in self.history]
        summary = {
            "test_acc": accuracy(selected, labels),
            "test_acc_last": accuracy(last, labels),
            "best_val_acc": self.learner.best.accuracy,
            "selected_epoch": float(self.learner.best_epoch),
            "seconds_step": sum(steps),
            "seconds_train": sum(record.metrics["seconds"] for record in self.history),
            "seconds_open": self._open_seconds,
            **self.learner.summary(),
        }
        history = [asdict(record) for record in self.history]
        stored = {"summary": summary, "history": history, "notes": list(self.notes)}
        write_finished(self.folder / OUTCOME_FILE, self.config.id, files, stored)
        # Only now: a kill before this line must leave something to go on from.
        drop_checkpoints(self.folder)

    def _diagnose(self) -> tuple[str, ...]:
        """Write gate and graphs on a few test clips; returns names of files."""
        clips = choose_clips(self.dataset, self.split.test)
        rows = self.reader.arrays.test_index[clips, 0]
        found = self.learner.diagnose(rows)
        if found is None:
            return ()
        method = self.config.setting.method
        if method.needs_teacher:
            teacher = online_features(self.config, self.cache, self.dataset, self.reader)
            h = teacher.targets(rows, {}).h
            found = replace(found, teacher=graphs_of(h, method))
        motion = motion_lengths(self.reader.arrays.motion[rows])
        write_diagnostics(self.folder / DIAGNOSTICS_FILE, self.dataset, clips, motion, found)
        return (DIAGNOSTICS_FILE,)
