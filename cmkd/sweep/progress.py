"""Progress of a running sweep: counts, best so far, time left. Pure; the CLI renders it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cmkd.config.trial import TrialConfig
from cmkd.sweep.identity import TEACHER_ARM, teacher_name
from cmkd.sweep.plan import Plan, PlannedTrial, epochs_of, teachers_of
from cmkd.tracking.store import EpochRecord

Status = Literal["done", "pruned", "running", "failed", "to go"]


@dataclass
class TrialProgress:
    """One trial or teacher as seen by the driver. Accuracies in percent."""

    arm: str
    name: str
    epochs: int
    status: Status = "to go"
    epoch: int = 0
    val_acc: float | None = None
    test_acc: float | None = None
    seconds: float = 0.0
    cause: str = ""


@dataclass
class _Pace:
    """Epochs of this session and their seconds."""

    epochs: int = 0
    seconds: float = 0.0

    def more(self, epochs: int, seconds: float) -> None:
        self.epochs += epochs
        self.seconds += seconds

    def __call__(self) -> float:
        return self.seconds / self.epochs


@dataclass
class Progress:
    """Trials and teachers of a sweep; the time left is estimated from this session alone."""

    trials: dict[str, TrialProgress]
    teachers: dict[str, TrialProgress] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _started: float | None = field(default=None, repr=False)
    _pace: _Pace = field(default_factory=_Pace, repr=False)
    _paces: dict[str, _Pace] = field(default_factory=lambda: defaultdict(_Pace), repr=False)

    @classmethod
    def of(cls, plan: Plan, clock: Callable[[], float] = time.monotonic) -> Progress:
        """Progress at the start of a plan."""
        teachers = {key: _teacher(config) for key, config in teachers_of(plan.to_run).items()}
        progress = cls({trial.id: _fresh(trial) for trial in plan.trials}, teachers, clock)
        pending = {trial.id for trial in plan.to_run}
        for trial in plan.trials:
            if trial.id not in pending:
                state = plan.states[trial.id]
                progress.trials[trial.id].status = (
                    "pruned" if state == "pruned" else ("done" if state == "done" else "failed")
                )
        return progress

    def one(self, key: str) -> TrialProgress:
        """The trial or teacher of this id."""
        return self.trials.get(key) or self.teachers[key]

    def started(self, key: str) -> None:
        """A worker took the trial or teacher."""
        if self._started is None:
            self._started = self.clock()
        self.one(key).status = "running"

    def advanced(self, key: str, trained: int, epochs: Sequence[EpochRecord]) -> None:
        """Further epochs, of which this session trained the last `trained`."""
        trial = self.one(key)
        trial.epoch = epochs[-1].step
        known = [trial.val_acc, *(epoch.metrics.get("val_acc") for epoch in epochs)]
        trial.val_acc = max((value for value in known if value is not None), default=None)
        if trained:
            seconds = sum(epoch.metrics.get("seconds", 0.0) for epoch in epochs[-trained:])
            for pace in (self._pace, self._paces[trial.arm]):
                pace.more(trained, seconds)

    def finished(self, key: str, test_acc: float | None, seconds: float) -> None:
        """The trial or teacher succeeded."""
        trial = self.one(key)
        trial.status, trial.test_acc, trial.seconds = "done", test_acc, seconds

    def pruned(self, key: str, cause: str) -> None:
        """The trial of a search was pruned."""
        trial = self.one(key)
        trial.status, trial.cause = "pruned", cause

    def failed(self, key: str, cause: str) -> None:
        """The trial or teacher failed."""
        trial = self.one(key)
        trial.status, trial.cause = "failed", cause

    def count(self, status: Status, arm: str | None = None) -> int:
        """Trials in `status`, of one arm (or the teachers) or of all."""
        if arm is None:
            return sum(trial.status == status for trial in self.trials.values())
        return sum(trial.status == status and trial.arm == arm for trial in self._all())

    def arms(self) -> list[str]:
        """Teachers, then arms in the order of the sweep."""
        return list(dict.fromkeys(trial.arm for trial in self._all()))

    def best(self, arm: str) -> float | None:
        """Best validation accuracy of the arm in this session."""
        seen = [
            trial.val_acc for trial in self._all() if trial.arm == arm and trial.val_acc is not None
        ]
        return max(seen, default=None)

    def seconds_left(self) -> float | None:
        """Estimated time to the end; None before the first epoch.

        Assumes the mean seconds per epoch of each arm, and the wall time per second of training.
        """
        if self._started is None or not self._pace.seconds:
            return None
        todo = [
            (trial.epochs - trial.epoch) * (self._paces.get(trial.arm) or self._pace)()
            for trial in self._all()
            if trial.status in ("to go", "running")
        ]
        elapsed = self.clock() - self._started
        return max(sum(todo) * elapsed / self._pace.seconds, *todo, 0.0)

    def _all(self) -> list[TrialProgress]:
        return [*self.teachers.values(), *self.trials.values()]


class SweepView(Protocol):
    """View of a sweep; called from the driver's thread, `note` from any."""

    def confirm(self, question: str) -> bool:
        """Ask the user; False without a terminal."""

    def note(self, text: str) -> None:
        """A line to keep."""

    def stage(self, text: str, done: int, total: int) -> None:
        """Work before the training: `done` of `total` units."""

    def show(self, progress: Progress) -> None:
        """The progress changed."""

    def ended(self, trial: TrialProgress, progress: Progress) -> None:
        """A trial or teacher was finished or failed."""


def _fresh(trial: PlannedTrial) -> TrialProgress:
    return TrialProgress(trial.arm, trial.name, epochs_of(trial.config.setting))


def _teacher(config: TrialConfig) -> TrialProgress:
    epochs = config.setting.teacher.training.epochs
    return TrialProgress(TEACHER_ARM, teacher_name(config), epochs)
