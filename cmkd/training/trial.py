"""One trial: a student trained, selected on validation and tested, resumable after every epoch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cmkd.config.method import GraphIndex
from cmkd.config.trial import TrialConfig
from cmkd.data.dataset import open_planned
from cmkd.io import file_sha256, mark_used, write_json
from cmkd.provenance import sign
from cmkd.tracking.store import EpochRecord
from cmkd.training.batches import ClipReader
from cmkd.training.checkpoint import drop_checkpoints, write_tensors
from cmkd.training.diagnostics import choose_clips, graphs_of, motion_lengths, write_diagnostics
from cmkd.training.features import (
    ensure_features,
    ensure_mean_edges,
    online_features,
    teacher_folder,
)
from cmkd.training.frozen import imported_network
from cmkd.training.outcome import (
    DIAGNOSTICS_FILE,
    STUDENT_CONFIG_FILE,
    STUDENT_FILE,
    StudentDescription,
    TrainingResult,
    read_result,
    write_result,
)
from cmkd.training.runtime import (
    SINGLE_PROCESS,
    ProcessGroup,
    peak_memory,
    pick_device,
    reset_peak_memory,
)
from cmkd.training.streaming import open_reader
from cmkd.training.student import StudentLearner

if TYPE_CHECKING:
    from cmkd.training.references import Reference

OUTCOME_FILE = "outcome.json"


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
        self._result = self._read_result()
        # All of them must have looked before one can write.
        group.barrier()
        if self._result is None:
            self._open(device)

    def _open(self, device: str) -> None:
        started = time.perf_counter()
        reset_peak_memory()
        config, cache = self.config, self.cache
        if self.group.is_main:
            sign(self.folder)
        self.dataset = open_planned(config.data, config.data_id, cache)
        self.split = self.dataset.split(config.fold)
        self.reader = open_reader(
            config, self.dataset, cache, self.split, pick_device(device), seed=config.seed
        )
        self.learner = self._make_learner()
        self._open_seconds = time.perf_counter() - started

    def _make_learner(self) -> StudentLearner | Reference:
        config, cache = self.config, self.cache
        num_classes = len(self.dataset.info.classes)
        if config.setting.model != "student":
            # Here, as scikit-learn takes 1.3 s and 150 MiB to import.
            from cmkd.training import references

            assert isinstance(self.reader, ClipReader), "`Setting` refuses this of fresh views"
            if config.setting.model == "motion_svm":
                return references.motion_svm(self.reader, self.split, num_classes)
            network = imported_network(
                config.setting.teacher, cache, self.reader.device, complete=True
            )
            trained = [self.dataset.clips[index] for index in self.split.train]
            groups = [clip.group or clip.path for clip in trained]
            return references.frame_probe(self.reader, self.split, num_classes, network, groups)
        features = None
        mean_edges: Mapping[GraphIndex, float] = {}
        if config.setting.method.needs_teacher:
            mark_used(teacher_folder(config, cache))
            features = ensure_features(config, cache, self.dataset, self.reader)
            plain = self.reader.measured_rows(self.split.train)
            mean_edges = ensure_mean_edges(config, cache, features, plain)
        return StudentLearner(
            config,
            self.reader,
            self.split,
            num_classes,
            self.folder,
            cache,
            features=features,
            mean_edges=mean_edges,
            group=self.group,
        )

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """All epochs done so far, those of earlier processes included."""
        return self.learner.history if self._result is None else self._result.history

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user about damaged checkpoints."""
        return self.learner.notes if self._result is None else self._result.notes

    @property
    def finished(self) -> bool:
        """True if all epochs are done."""
        return self._result is not None or self.learner.finished

    def train_epoch(self) -> EpochRecord:
        """One epoch with validation; see `TrainingLoop.train_epoch` for its checkpoint."""
        return self.learner.train_epoch()

    def finish(self) -> TrainingResult:
        """Test the selected and the last epoch and write the outcome; repeatable."""
        assert self.finished
        if self._result is None:
            self._test()
            self.group.barrier()
            self._result = self._read_result()
        assert self._result is not None
        return self._result

    def _read_result(self) -> TrainingResult | None:
        path = self.folder / OUTCOME_FILE
        return read_result(path, self.config.id) if path.is_file() else None

    def _test(self) -> None:
        rows = self.reader.test_rows(self.split.test)
        predicted = self.learner.predict(rows)
        if not self.group.is_main:
            return
        metrics = [record.metrics for record in self.history]
        write_result(
            self.folder / OUTCOME_FILE,
            self.config.id,
            self.learner,
            self.dataset,
            self.split.test,
            predicted,
            self.reader.classes(rows[:, 0]),
            config={"trial_id": self.config.id, **self.config.as_json()},
            figures={
                "seconds_step": sum(epoch["step_seconds"] for epoch in metrics),
                "seconds_train": sum(epoch["seconds"] for epoch in metrics),
                "seconds_open": self._open_seconds,
                **peak_memory(),
                **self.learner.figures(),
            },
            files=self._save(self.learner) if isinstance(self.learner, StudentLearner) else (),
        )
        # Only now: a kill before this line must leave something to go on from.
        drop_checkpoints(self.folder)

    def _save(self, learner: StudentLearner) -> tuple[str, ...]:
        """Write the student, and gate and graphs on a few test clips; names the files."""
        self._save_student(learner)
        files = (STUDENT_FILE, STUDENT_CONFIG_FILE)
        clips = choose_clips(self.dataset, self.split.test)
        rows = self.reader.test_rows(clips)[:, 0]
        found = learner.diagnose(rows)
        if found is None:
            return files
        method = self.config.setting.method
        if method.needs_teacher:
            teacher = online_features(self.config, self.cache, self.dataset, self.reader)
            found = replace(found, teacher=graphs_of(teacher.outputs(rows)[0], method))
        motion = motion_lengths(self.reader.motion(rows))
        write_diagnostics(self.folder / DIAGNOSTICS_FILE, self.dataset, clips, motion, found)
        return (*files, DIAGNOSTICS_FILE)

    def _save_student(self, learner: StudentLearner) -> None:
        """Write the selected weights, and what `cmkd.load_student` needs beside them."""
        weights, info = self.folder / STUDENT_FILE, self.dataset.info
        write_tensors(weights, learner.best_weights, {"id": self.config.id})
        description = StudentDescription(
            trial_id=self.config.id,
            setting=self.config.setting,
            classes=info.classes,
            encoding=info.encoding,
            views=info.views,
            motion_scale=self.reader.scales.motion,
            residual_scale=self.reader.scales.residual,
            weights_sha256=file_sha256(weights),
        )
        write_json(self.folder / STUDENT_CONFIG_FILE, description.as_json())
