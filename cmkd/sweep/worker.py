"""What runs inside a worker process: trials one after another, and teachers. Knows no engine."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from cmkd.config.trial import TrialConfig
from cmkd.sweep.failures import Failure, failure_of
from cmkd.tracking.records import EpochRecord

if TYPE_CHECKING:
    from cmkd.training.run import TrialOutcome, TrialRun


@dataclass(frozen=True)
class Outcome:
    """Final figures and files, in plain types that the driver reads without torch.

    `notes` are lines for the user about checkpoints that were damaged.
    """

    summary: Mapping[str, float]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Update:
    """News of a trial or teacher.

    Attributes:
        epochs: records that this process has not reported yet; after a start, all there are.
            The last epoch comes with the outcome.
        trained: how many of them were trained just now.
        outcome: set at the end of a success.
        failure: set at the end of a failure.
    """

    trial_id: str
    epochs: tuple[EpochRecord, ...] = ()
    trained: int = 0
    outcome: Outcome | None = None
    failure: Failure | None = None

    @property
    def done(self) -> bool:
        """Whether it is the last news of this trial."""
        return self.outcome is not None or self.failure is not None


class TrialWorker:
    """Trains trials in this process, one epoch at a time.

    An exception of a trial becomes an `Update`, so that the process stays and takes the next.
    """

    def __init__(self, configs: Mapping[str, TrialConfig], cache: Path) -> None:
        # Ctrl-C reaches the whole process group; only the driver decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from cmkd.training.runtime import configure

        configure(threads=1)
        self._configs = configs
        self._cache = cache
        self._trial_id = ""
        self._run: TrialRun | None = None
        self._lock: FileLock | None = None
        self._reported = 0

    def start(self, trial_id: str) -> None:
        """Take this trial; it is opened by the first `step`, where its errors are caught."""
        self._release()
        self._trial_id = trial_id

    def step(self) -> Update:
        """One epoch, or what is left to do of a trial whose epochs are done."""
        try:
            update = self._advance()
        except Exception as error:
            update = Update(self._trial_id, failure=failure_of(error, self._reported))
        if update.done:
            self._release()
        return update

    def _advance(self) -> Update:
        from cmkd.training.run import TrialRun

        if self._run is None:
            self._lock = trial_lock(self._cache, self._trial_id)
            self._lock.acquire()
            self._run = TrialRun(self._configs[self._trial_id], self._cache)
        trained = 0
        if not self._run.finished:
            self._run.train_epoch()
            trained = 1
        epochs = self._run.history[self._reported :]
        self._reported = len(self._run.history)
        outcome = plain(self._run.finish()) if self._run.finished else None
        return Update(self._trial_id, epochs, trained, outcome)

    def _release(self) -> None:
        self._run = None
        self._reported = 0
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def trial_lock(cache: Path, trial_id: str) -> FileLock:
    """Held while a trial is trained: two sweeps that share a trial take turns."""
    folder = cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"trial-{trial_id}.lock")


def train_teacher(config: TrialConfig, cache: Path) -> Iterator[Update]:
    """Train or open the teacher of `config`, with news of every epoch as it ends."""
    news: queue.SimpleQueue[Update] = queue.SimpleQueue()
    thread = threading.Thread(target=_teach, args=(config, cache, news))
    thread.start()
    while True:
        update = news.get()
        yield update
        if update.done:
            thread.join()
            return


def _teach(config: TrialConfig, cache: Path, news: queue.SimpleQueue[Update]) -> None:
    done = 0

    def on_epoch(record: EpochRecord, _epochs: int) -> None:
        nonlocal done
        done = record.step
        news.put(Update(config.teacher_id, (record,), 1))

    try:
        from cmkd.training.runtime import configure
        from cmkd.training.teacher import ensure_teacher

        configure(threads=1)
        bundle = ensure_teacher(config, cache, on_epoch=on_epoch)
    except Exception as error:
        news.put(Update(config.teacher_id, failure=failure_of(error, done)))
        return
    outcome = Outcome(dict(bundle.summary), tuple(bundle.files), bundle.notes)
    news.put(Update(config.teacher_id, bundle.history, 0, outcome))


def plain(outcome: TrialOutcome) -> Outcome:
    """`outcome` in plain types."""
    return Outcome(dict(outcome.summary), tuple(outcome.files), tuple(outcome.notes))
