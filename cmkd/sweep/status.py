"""Status file of a running sweep, refreshed by the driver, read by `cmkd status`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cmkd.config.paths import slug
from cmkd.machine import owner, owner_is_gone
from cmkd.sweep.failures import digest
from cmkd.tracking.uri import redact, sqlite_file

if TYPE_CHECKING:
    from cmkd.sweep.progress import Progress, SweepView, TrialProgress

SCHEMA = 1
PERIOD_SECONDS = 2.0
"""Least time between two writes while trials run."""


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
    """Progress of a sweep on one data set.

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
        self._view = view
        self._path = path
        self._now = fresh
        self._clock = clock
        self._written = 0.0

    def confirm(self, question: str) -> bool:
        """Pass through."""
        return self._view.confirm(question)

    def note(self, text: str) -> None:
        """Pass through."""
        self._view.note(text)

    def stage(self, text: str, done: int, total: int) -> None:
        """Pass it on, and write it."""
        self._view.stage(text, done, total)
        self._now = replace(self._now, stage=f"{text}: {done}/{total}")
        self._write(urgent=False)

    def show(self, progress: Progress) -> None:
        """Pass it on, and write it."""
        self._view.show(progress)
        self._take(progress, urgent=False)

    def ended(self, trial: TrialProgress, progress: Progress) -> None:
        """Pass it on, and write it."""
        self._view.ended(trial, progress)
        self._take(progress, urgent=True)

    def close(self, ending: str) -> None:
        """Write the ending; where nothing was to train, the file stays as it was."""
        if self._written:
            now = replace(self._now, ending=ending, seconds_left=None, stage="", training=())
            arms = tuple(replace(arm, running=0, to_go=arm.to_go + arm.running) for arm in now.arms)
            to_go = now.to_go + now.running
            self._now = replace(now, arms=arms, running=0, to_go=to_go)
            self._write(urgent=True)

    def _take(self, progress: Progress, *, urgent: bool) -> None:
        if urgent or self._clock() - self._written >= PERIOD_SECONDS:
            self._now = replace(status_of(progress, self._now), stage="")
            self._write(urgent=True)

    def _write(self, *, urgent: bool) -> None:
        now = self._clock()
        if not urgent and now - self._written < PERIOD_SECONDS:
            return
        self._written = now
        self._now = replace(self._now, updated=now)
        draft = self._path.with_suffix(".partial")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps({"schema": SCHEMA, **asdict(self._now)}), encoding="utf-8")
            draft.replace(self._path)


@contextmanager
def status_file(
    view: SweepView, cache: Path, sweep: str, data: str, store: str
) -> Iterator[SweepView]:
    """Keep ``<cache>/sweeps/<sweep>-<data>.json`` up to date inside the block; gives the view.

    Args:
        store: tracking URI.
    """
    path = cache / "sweeps" / f"{slug(f'{sweep}-{data}')}.json"
    fresh = SweepStatus(sweep, data, named_store(store), owner(), started=time.time())
    journal = StatusWriter(view, path, fresh)
    try:
        yield journal
    except BaseException as error:
        journal.close(f"stopped, {type(error).__name__}: {error}")
        raise
    journal.close("ended")


def named_store(uri: str) -> str:
    """Tracking URI to show: a file by its whole path, no secret."""
    path = sqlite_file(uri)
    return f"sqlite:///{path}" if path is not None else redact(uri)


def status_of(progress: Progress, before: SweepStatus) -> SweepStatus:
    """The status by `progress`."""
    everyone = [*progress.teachers.values(), *progress.trials.values()]
    failures = [
        (trial.name, trial.cause) for trial in everyone if trial.status == "failed" and trial.cause
    ]
    return replace(
        before,
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
        training=tuple(
            RunningTrial(trial.name, trial.epoch, trial.epochs)
            for trial in everyone
            if trial.status == "running"
        ),
        failures=tuple(digest(failures)),
    )


def saved_statuses(cache: Path) -> list[SweepStatus]:
    """Status of all sweeps of a cache, the latest first; files of other versions are skipped."""
    found = []
    for path in (cache / "sweeps").glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.pop("schema") == SCHEMA:
                arms = tuple(ArmStatus(**arm) for arm in stored.pop("arms"))
                training = tuple(RunningTrial(**trial) for trial in stored.pop("training"))
                failures = tuple(stored.pop("failures"))
                found.append(SweepStatus(**stored, arms=arms, training=training, failures=failures))
    return sorted(found, key=lambda one: (one.state == "running", one.updated), reverse=True)
