"""Progress of a running sweep: counts, best so far, time left; the view of it and its status file.

The driver refreshes ``<cache>/sweeps/<sweep>-<data>.json``; `cmkd status` reads it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from cmkd.config.paths import slug
from cmkd.config.trial import TrialConfig
from cmkd.machine import owner, owner_is_gone
from cmkd.sweep.failures import digest
from cmkd.sweep.plan import Plan
from cmkd.sweep.trials import epochs_of, teachers_of
from cmkd.tracking.store import EpochRecord, redact, sqlite_file

Status = Literal["done", "pruned", "running", "failed", "to go"]

TEACHER_ARM = "teacher (RGB)"
PERIOD_SECONDS = 2.0
"""Least time between two writes of the status file while trials run."""


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def teacher_name(config: TrialConfig) -> str:
    """Short label of the teacher of a trial."""
    backbone = config.setting.teacher.backbone
    return f"teacher {backbone} seed {config.teacher_seed} fold {config.fold}"


@dataclass
class TrialProgress:
    """One trial or teacher as seen by the driver; accuracies in percent.

    Attributes:
        epoch: last epoch that is recorded, of `epochs`.
        trained: epochs of this session, and their seconds.
        seconds: of training, at its end.
        cause: of a failure or of pruning.
    """

    arm: str
    name: str
    epochs: int
    status: Status = "to go"
    epoch: int = 0
    trained: int = 0
    trained_seconds: float = 0.0
    val_acc: float | None = None
    test_acc: float | None = None
    seconds: float = 0.0
    cause: str = ""


@dataclass
class Progress:
    """Trials and teachers of a sweep; the time left is estimated from this session alone."""

    trials: dict[str, TrialProgress]
    teachers: dict[str, TrialProgress] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _started: float | None = field(default=None, repr=False)

    @classmethod
    def of(cls, plan: Plan, clock: Callable[[], float] = time.monotonic) -> Progress:
        """Progress at the start of a plan."""
        to_run = {trial.id for trial in plan.to_run}
        ended: dict[str, Status] = {"done": "done", "pruned": "pruned"}
        trials = {}
        for trial in plan.trials:
            trials[trial.id] = TrialProgress(trial.arm, trial.name, epochs_of(trial.config.setting))
            if trial.id not in to_run:
                trials[trial.id].status = ended.get(plan.states[trial.id], "failed")
        teachers = {
            key: TrialProgress(
                TEACHER_ARM, teacher_name(config), config.setting.teacher.training.epochs
            )
            for key, config in teachers_of(plan.to_run).items()
        }
        return cls(trials, teachers, clock)

    @property
    def everyone(self) -> list[TrialProgress]:
        """Teachers, then trials in the order of the sweep."""
        return [*self.teachers.values(), *self.trials.values()]

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
        trial.trained += trained
        recent = epochs[len(epochs) - trained :]
        trial.trained_seconds += sum(epoch.metrics.get("seconds", 0.0) for epoch in recent)

    def ended(
        self,
        key: str,
        status: Status,
        cause: str = "",
        *,
        test_acc: float | None = None,
        seconds: float = 0.0,
    ) -> None:
        """The trial or teacher is done, failed or pruned."""
        trial = self.one(key)
        trial.status, trial.cause = status, cause
        trial.test_acc, trial.seconds = test_acc, seconds

    def count(self, status: Status, arm: str | None = None) -> int:
        """Trials in `status`, of one arm (or the teachers) or of all."""
        if arm is None:
            return sum(trial.status == status for trial in self.trials.values())
        return sum(trial.status == status and trial.arm == arm for trial in self.everyone)

    def arms(self) -> list[str]:
        """Teachers, then arms in the order of the sweep."""
        return list(dict.fromkeys(trial.arm for trial in self.everyone))

    def best(self, arm: str) -> float | None:
        """Best validation accuracy of the arm in this session."""
        seen = [trial.val_acc for trial in self.everyone if trial.arm == arm]
        return max((value for value in seen if value is not None), default=None)

    def seconds_left(self) -> float | None:
        """Estimated time to the end; None before the first epoch.

        Assumes the mean seconds per epoch of each arm, and the wall time per second of training.
        """
        trained: dict[str | None, int] = {}
        seconds: dict[str | None, float] = {}
        for trial in self.everyone:
            for arm in (trial.arm, None) if trial.trained else ():
                trained[arm] = trained.get(arm, 0) + trial.trained
                seconds[arm] = seconds.get(arm, 0.0) + trial.trained_seconds
        if self._started is None or not seconds.get(None):
            return None
        pace = {arm: seconds[arm] / trained[arm] for arm in trained}
        todo = [
            (trial.epochs - trial.epoch) * pace.get(trial.arm, pace[None])
            for trial in self.everyone
            if trial.status in ("to go", "running")
        ]
        elapsed = self.clock() - self._started
        return max(sum(todo) * elapsed / seconds[None], *todo, 0.0)


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


@dataclass(frozen=True)
class ArmStatus:
    """Trials of one arm by state; accuracy in percent."""

    arm: str
    done: int
    running: int
    failed: int
    to_go: int
    best_val_acc: float | None


@dataclass(frozen=True)
class RunningTrial:
    """A trial or teacher that is being trained."""

    name: str
    epoch: int
    epochs: int


@dataclass(frozen=True)
class SweepStatus:
    """Progress of a sweep on one data set, as kept in its status file.

    Attributes:
        owner: owner tag of the driver.
        store: tracking URI without secrets.
        started, updated: seconds since 1970.
        ending: empty while it runs.
        stage: work before the training.
        seconds_left: forecast of the driver at `updated`.
        failures: a line per cause.
    """

    sweep: str
    data: str
    store: str
    owner: str
    started: float = 0.0
    updated: float = 0.0
    ending: str = ""
    stage: str = ""
    done: int = 0
    pruned: int = 0
    running: int = 0
    failed: int = 0
    to_go: int = 0
    seconds_left: float | None = None
    arms: tuple[ArmStatus, ...] = ()
    training: tuple[RunningTrial, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """``running``, ``died`` (no driver, no ending), or how it ended."""
        return self.ending or ("died" if owner_is_gone(self.owner) else "running")

    def at(self, progress: Progress) -> SweepStatus:
        """The status at `progress`."""
        everyone = progress.everyone
        running = [trial for trial in everyone if trial.status == "running"]
        failed = [trial for trial in everyone if trial.status == "failed" and trial.cause]
        return replace(
            self,
            stage="",
            done=progress.count("done"),
            pruned=progress.count("pruned"),
            running=progress.count("running"),
            failed=progress.count("failed"),
            to_go=progress.count("to go"),
            seconds_left=progress.seconds_left(),
            arms=tuple(
                ArmStatus(
                    arm,
                    progress.count("done", arm),
                    progress.count("running", arm),
                    progress.count("failed", arm),
                    progress.count("to go", arm),
                    progress.best(arm),
                )
                for arm in progress.arms()
            ),
            training=tuple(RunningTrial(run.name, run.epoch, run.epochs) for run in running),
            failures=tuple(digest([(trial.name, trial.cause) for trial in failed])),
        )


class StatusWriter:
    """`SweepView` that writes the status file and passes everything to another view.

    A failed write never stops a sweep.
    """

    def __init__(
        self,
        view: SweepView,
        path: Path,
        fresh: SweepStatus,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.confirm, self.note = view.confirm, view.note
        self._view = view
        self._path = path
        self._now = fresh
        self._clock = clock
        self._written = 0.0

    def stage(self, text: str, done: int, total: int) -> None:
        """Pass it on, and write it."""
        self._view.stage(text, done, total)
        self._now = replace(self._now, stage=f"{text}: {done}/{total}")
        if self._is_due():
            self._write()

    def show(self, progress: Progress) -> None:
        """Pass it on, and write it."""
        self._view.show(progress)
        if not self._now.arms or self._is_due():
            self._now = self._now.at(progress)
            self._write()

    def ended(self, trial: TrialProgress, progress: Progress) -> None:
        """Pass it on, and write it."""
        self._view.ended(trial, progress)
        self._now = self._now.at(progress)
        self._write()

    def close(self, ending: str) -> None:
        """Write the ending; where nothing was to train, the file stays as it was."""
        if self._written:
            now = replace(self._now, ending=ending, seconds_left=None, stage="", training=())
            arms = tuple(replace(arm, running=0, to_go=arm.to_go + arm.running) for arm in now.arms)
            self._now = replace(now, arms=arms, running=0, to_go=now.to_go + now.running)
            self._write()

    def _is_due(self) -> bool:
        return self._clock() - self._written >= PERIOD_SECONDS

    def _write(self) -> None:
        self._written = self._clock()
        self._now = replace(self._now, updated=self._written)
        draft = self._path.with_suffix(".partial")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(asdict(self._now)), encoding="utf-8")
            draft.replace(self._path)


@contextmanager
def status_file(
    view: SweepView, cache: Path, sweep: str, data: str, store: str
) -> Iterator[SweepView]:
    """Keep the status file up to date inside the block; gives the view.

    Args:
        store: tracking URI.
    """
    path = cache / "sweeps" / f"{slug(f'{sweep}-{data}')}.json"
    fresh = SweepStatus(sweep, data, named_store(store), owner(), started=time.time())
    writer = StatusWriter(view, path, fresh)
    try:
        yield writer
    except BaseException as error:
        writer.close(f"stopped, {type(error).__name__}: {error}")
        raise
    writer.close("ended")


def named_store(uri: str) -> str:
    """Tracking URI to show: a file by its whole path, no secret."""
    path = sqlite_file(uri)
    return f"sqlite:///{path}" if path is not None else redact(uri)


def saved_statuses(cache: Path) -> list[SweepStatus]:
    """Status of all sweeps of a cache, the latest first; files of other versions are skipped."""
    from pydantic import TypeAdapter

    read = TypeAdapter(SweepStatus).validate_json
    found = []
    for path in (cache / "sweeps").glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append(read(path.read_bytes()))
    return sorted(
        found, key=lambda status: (status.state == "running", status.updated), reverse=True
    )
