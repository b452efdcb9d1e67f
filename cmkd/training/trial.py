"""One trial: a student trained, selected on validation and tested, resumable after every epoch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cmkd.config.method import GraphIndex
from cmkd.config.trial import TrialConfig
from cmkd.data.dataset import open_planned
from cmkd.data.decoded_cache import open_arrays
from cmkd.provenance import Provenance, makers, sign
from cmkd.tracking.store import EpochRecord
from cmkd.training.batches import ClipReader, first_rows
from cmkd.training.checkpoint import drop_checkpoints, read_json, write_json
from cmkd.training.diagnostics import FILE as INSIDE_FILE
from cmkd.training.diagnostics import chosen_clips, graphs_of, motion_lengths, write_inside
from cmkd.training.distributed import ALONE, Peers
from cmkd.training.evaluate import accuracy, write_predictions
from cmkd.training.features import ensure_features, online_features
from cmkd.training.frozen import teacher_folder
from cmkd.training.graph_stats import mean_edges
from cmkd.training.motion_svm import MotionSvm
from cmkd.training.runtime import pick_device
from cmkd.training.student import Learner, StudentLearner


@dataclass(frozen=True)
class TrialOutcome:
    """Final figures (accuracies in percent) and the files that belong to the run.

    `notes` are lines for the user about checkpoints that were damaged.
    """

    summary: Mapping[str, float]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    made_by: tuple[Provenance, ...] = ()


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
        if self.peers.first:
            sign(self.folder)
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
            self.learner = StudentLearner(
                config,
                self.reader,
                self.split,
                len(self.dataset.info.classes),
                self.folder,
                cache,
                features=features,
                edges=edges,
                peers=self.peers,
            )
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
        files = [self.folder / "config.json", self.folder / "predictions.csv"]
        if (inside := self.folder / INSIDE_FILE).is_file():
            files.append(inside)
        return TrialOutcome(self._stored["summary"], tuple(files), self.notes, makers(self.folder))

    def _read_outcome(self) -> dict[str, Any] | None:
        path = self.folder / "outcome.json"
        if not path.is_file():
            return None
        stored: dict[str, Any] = read_json(path, remedy=f"the folder {self.folder}")
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
        self._look_inside()
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

    def _look_inside(self) -> None:
        clips = chosen_clips(self.dataset, self.split.test)
        rows = self.reader.arrays.test_index[clips, 0]
        inside = self.learner.inside(rows)
        if inside is None:
            return
        method = self.config.setting.method
        if method.needs_teacher:
            teacher = online_features(self.config, self.cache, self.dataset, self.reader)
            h = teacher.targets(rows, {}).h
            inside = replace(inside, teacher=graphs_of(h, method))
        motion = motion_lengths(self.reader.arrays.motion[rows])
        write_inside(self.folder / INSIDE_FILE, self.dataset, clips, motion, inside)
