"""The state of a running sweep: counts, best so far, time left. Pure; rendering is the CLI's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cmkd.sweep.expand import PlannedTrial, epochs_of
from cmkd.sweep.plan import Plan

Status = Literal["done", "pruned", "running", "failed", "to go"]


@dataclass
class TrialProgress:
    """One trial as seen by the driver. Accuracies in percent."""

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
class Board:
    """All trials of a sweep, updated as results come in.

    The time left comes from the epochs of this session, so it holds whatever the number of
    workers and however much was done before.
    """

    trials: dict[str, TrialProgress]
    clock: Callable[[], float] = time.monotonic
    _started: float | None = field(default=None, repr=False)
    _epochs_done: int = field(default=0, repr=False)

    @classmethod
    def of(cls, plan: Plan, clock: Callable[[], float] = time.monotonic) -> Board:
        """The board of a plan: what is done counts as done, what is left failed as failed."""
        board = cls({trial.id: _fresh(trial) for trial in plan.trials}, clock)
        pending = {trial.id for trial in plan.to_run}
        for trial in plan.trials:
            if trial.id not in pending:
                state = plan.states[trial.id]
                board.trials[trial.id].status = (
                    "pruned" if state == "pruned" else ("done" if state == "done" else "failed")
                )
        return board

    def started(self, trial_id: str) -> None:
        """A worker took the trial."""
        if self._started is None:
            self._started = self.clock()
        self.trials[trial_id].status = "running"

    def advanced(self, trial_id: str, epoch: int, trained: int, val_acc: Sequence[float]) -> None:
        """The trial reached `epoch`, `trained` of its epochs in this session."""
        trial = self.trials[trial_id]
        trial.epoch = epoch
        self._epochs_done += trained
        known = [value for value in (trial.val_acc, *val_acc) if value is not None]
        trial.val_acc = max(known, default=None)

    def finished(self, trial_id: str, test_acc: float | None, seconds: float) -> None:
        """The trial has its outcome."""
        trial = self.trials[trial_id]
        trial.status, trial.test_acc, trial.seconds = "done", test_acc, seconds

    def pruned(self, trial_id: str, cause: str) -> None:
        """The trial of a search was given up."""
        trial = self.trials[trial_id]
        trial.status, trial.cause = "pruned", cause

    def failed(self, trial_id: str, cause: str) -> None:
        """The trial ended without an outcome."""
        trial = self.trials[trial_id]
        trial.status, trial.cause = "failed", cause

    def count(self, status: Status, arm: str | None = None) -> int:
        """Trials in `status`, of one arm or of all."""
        return sum(t.status == status and arm in (None, t.arm) for t in self.trials.values())

    def arms(self) -> list[str]:
        """Arms in the order of the sweep."""
        return list(dict.fromkeys(trial.arm for trial in self.trials.values()))

    def best(self, arm: str) -> float | None:
        """Best validation accuracy of the arm in this session."""
        seen = [t.val_acc for t in self.trials.values() if t.arm == arm and t.val_acc is not None]
        return max(seen, default=None)

    def seconds_left(self) -> float | None:
        """Estimate of the time to the end; None before the first epoch."""
        if self._started is None or not self._epochs_done:
            return None
        todo = sum(
            trial.epochs - trial.epoch
            for trial in self.trials.values()
            if trial.status in ("to go", "running")
        )
        return (self.clock() - self._started) * todo / self._epochs_done


class SweepView(Protocol):
    """Where a sweep shows itself; called from the driver's thread, `note` from any."""

    def confirm(self, question: str) -> bool:
        """Whether the person there says yes; False where nobody can be asked."""

    def note(self, text: str) -> None:
        """A line to keep."""

    def stage(self, text: str, done: int, total: int) -> None:
        """Work before the trials: `done` of `total` units."""

    def show(self, board: Board) -> None:
        """The board changed."""

    def ended(self, trial: TrialProgress, board: Board) -> None:
        """A trial was finished or failed."""


def _fresh(trial: PlannedTrial) -> TrialProgress:
    return TrialProgress(trial.arm, trial.name, epochs_of(trial.config.setting))
