"""The driver's hand on a running sweep: news of workers go to board, view and recorder."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING

from cmkd.config.paths import slug
from cmkd.config.trial import TrialConfig
from cmkd.sweep.expand import PlannedTrial, teachers_of
from cmkd.sweep.failures import Failure
from cmkd.sweep.identity import Origin, teacher_identity, trial_identity
from cmkd.sweep.plan import Plan
from cmkd.sweep.progress import Board, SweepView
from cmkd.sweep.recorder import Recorder
from cmkd.sweep.worker import Update

if TYPE_CHECKING:
    from cmkd.sweep.runner import Engine
    from cmkd.sweep.signals import SignalGuard


CONFIG = "config.json"


class Driver:
    """Trains what a plan lacks.

    Args:
        recorded_teachers: teacher ids whose run in the store is finished.

    Attributes:
        finished: trials finished so far.
        failures: (name, cause) of trials and teachers that failed so far.
    """

    def __init__(
        self,
        plan: Plan,
        origin: Origin,
        recorder: Recorder,
        view: SweepView,
        recorded_teachers: Collection[str],
    ) -> None:
        self.finished = 0
        self.failures: list[tuple[str, Failure]] = []
        self._plan = plan
        self._origin = origin
        self._recorder = recorder
        self._view = view
        self._recorded_teachers = frozenset(recorded_teachers)
        self._lost_teachers: dict[str, Failure] = {}
        self._trials: dict[str, PlannedTrial] = {trial.id: trial for trial in plan.to_run}
        self._board = Board.of(plan)

    def train_teachers(self, engine: Engine, guard: SignalGuard) -> None:
        """Train or open the teachers that the trials to run need; each has a run of its own."""
        teachers = teachers_of(self._plan.to_run)
        epochs = {key: one.setting.teacher.training.epochs for key, one in teachers.items()}
        reached = dict.fromkeys(teachers, 0)
        for key, config in teachers.items():
            if key not in self._recorded_teachers:
                identity = teacher_identity(config, self._origin)
                self._recorder.open(identity, {})
        if teachers:
            self._view.stage("training teachers", 0, sum(epochs.values()))
        for update in engine.train_teachers(teachers, guard.check):
            key = update.trial_id
            if key not in self._recorded_teachers:
                self._record(update)
            if update.failure is not None:
                self._lost_teachers[key] = update.failure
                self.failures.append((f"teacher of fold {teachers[key].fold}", update.failure))
            reached[key] = epochs[key] if update.done else update.epochs[-1].step
            self._view.stage("training teachers", sum(reached.values()), sum(epochs.values()))

    def train_trials(self, engine: Engine, guard: SignalGuard) -> None:
        """Train the trials; one whose teacher failed fails of that, untried."""
        from cmkd.sweep.runner import Events

        configs: dict[str, TrialConfig] = {}
        for trial in self._trials.values():
            lost = self._lost_teachers.get(trial.config.teacher_id)
            if trial.needs_teacher and lost is not None:
                self._started(trial.id)
                cause = Failure("TeacherFailed", lost.cause, lost.trace, epoch=0)
                self._updated(Update(trial.id, failure=cause))
            else:
                configs[trial.id] = trial.config
        if configs:
            self._view.show(self._board)
            events = Events(self._started, self._updated, guard.check)
            name = slug(f"{self._origin.sweep}-{self._origin.info.name}")
            engine.train_trials(configs, events, name)

    def _started(self, trial_id: str) -> None:
        trial = self._trials[trial_id]
        identity = trial_identity(trial, self._origin)
        resolved = {"trial_id": trial_id, **trial.config.as_json()}
        text = json.dumps(resolved, indent=2, sort_keys=True) + "\n"
        self._recorder.open(identity, {CONFIG: text})
        self._board.started(trial_id)
        self._view.show(self._board)

    def _updated(self, update: Update) -> None:
        self._record(update)
        progress = self._board.trials[update.trial_id]
        if update.epochs:
            accuracies = [epoch.metrics["val_acc"] for epoch in update.epochs]
            self._board.advanced(
                update.trial_id, update.epochs[-1].step, update.trained, accuracies
            )
        if update.outcome is not None:
            self.finished += 1
            summary = update.outcome.summary
            self._board.finished(
                update.trial_id, summary["test_acc"], summary.get("seconds_train", 0.0)
            )
        if update.failure is not None:
            self.failures.append((progress.name, update.failure))
            self._board.failed(update.trial_id, update.failure.cause)
        if update.done:
            self._view.ended(progress, self._board)
        else:
            self._view.show(self._board)

    def _record(self, update: Update) -> None:
        self._recorder.log(update.trial_id, update.epochs)
        if update.outcome is not None:
            # A trial's config went with the start of its run.
            started = update.trial_id in self._trials
            files = [path for path in update.outcome.files if not started or path.name != CONFIG]
            self._recorder.close(
                update.trial_id,
                "FINISHED",
                summary=update.outcome.summary,
                timestamp_ms=update.epochs[-1].timestamp_ms,
                files=files,
            )
        if update.failure is not None:
            self._recorder.close(update.trial_id, "FAILED", tags=update.failure.tags())
