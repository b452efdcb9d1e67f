"""Worker process: trains trials and teachers one after another."""

from __future__ import annotations

import queue
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from cmkd.config.trial import TrialConfig
from cmkd.sweep.failures import Failure, failure_of
from cmkd.tracking.store import EpochRecord
from cmkd.training.outcome import TrainingResult

if TYPE_CHECKING:
    from ray.util.queue import Queue

    from cmkd.training.trial import TrialRun


@dataclass(frozen=True)
class Update:
    """News of a trial or teacher.

    Attributes:
        epochs: records not yet reported by this process; the last one comes with the outcome.
        trained: number of epochs trained since the last update.
        outcome: of a successful end.
        failure: of a failed end.
    """

    trial_id: str
    epochs: tuple[EpochRecord, ...] = ()
    trained: int = 0
    outcome: TrainingResult | None = None
    failure: Failure | None = None

    @property
    def done(self) -> bool:
        """True for the last update of this trial."""
        return self.outcome is not None or self.failure is not None


class TrialWorker:
    """Trains trials and teachers in this process, one epoch per step.

    An exception of a trial becomes an `Update`; the process goes on with the next trial.

    Args:
        configs: by id of a trial, or of its teacher.
        cache: folder shared by all workers.
    """

    def __init__(self, configs: Mapping[str, TrialConfig], cache: Path) -> None:
        # Ctrl-C reaches the whole process group; the driver alone handles it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from cmkd.training.runtime import configure

        configure(threads=1)
        self._configs = configs
        self._cache = cache
        self._trial_id = ""
        self._run: TrialRun | None = None
        self._lessons: Iterator[Update] | None = None
        self._lock: FileLock | None = None
        self._reported = 0

    def start(self, trial_id: str) -> None:
        """Take this trial or teacher; the first `step` opens it."""
        self._release()
        self._trial_id = trial_id

    def step(self) -> Update:
        """Train one epoch, or finish the trial."""
        config = self._configs[self._trial_id]
        try:
            update = self._advance(config) if self._trial_id == config.id else self._teach(config)
        except Exception as error:
            update = Update(self._trial_id, failure=failure_of(error, self._reported))
        if update.done:
            self._release()
        return update

    def _teach(self, config: TrialConfig) -> Update:
        if self._lessons is None:
            self._lessons = train_teacher(config, self._cache)
        return next(self._lessons)

    def _advance(self, config: TrialConfig) -> Update:
        from cmkd.training.trial import TrialRun

        if self._run is None:
            self._lock = trial_lock(self._cache, self._trial_id)
            self._lock.acquire()
            self._run = TrialRun(config, self._cache)
        trained = 0
        if not self._run.finished:
            self._run.train_epoch()
            trained = 1
        epochs = self._run.history[self._reported :]
        self._reported = len(self._run.history)
        outcome = self._run.finish() if self._run.finished else None
        return Update(self._trial_id, epochs, trained, outcome)

    def _release(self) -> None:
        self._run = self._lessons = None
        self._reported = 0
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def trial_lock(cache: Path, trial_id: str) -> FileLock:
    """Lock of a trial in training, for sweeps that share it."""
    folder = cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"trial-{trial_id}.lock")


def train_teacher(config: TrialConfig, cache: Path) -> Iterator[Update]:
    """Train or open the teacher of `config`; yields an update per epoch."""
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

    def on_epoch(record: EpochRecord) -> None:
        nonlocal done
        done = record.step
        news.put(Update(config.teacher_id, (record,), 1))

    try:
        from cmkd.training.runtime import configure
        from cmkd.training.teacher import ensure_teacher

        configure(threads=1)
        outcome = ensure_teacher(config, cache, on_epoch=on_epoch)
    except Exception as error:
        news.put(Update(config.teacher_id, failure=failure_of(error, done)))
        return
    news.put(Update(config.teacher_id, outcome.history, 0, outcome))


POLL_SECONDS = 1.0


@dataclass(frozen=True)
class _Task:
    """Arguments of every process of a trial; rank 0 puts an `Update` per epoch into `news`."""

    trial_id: str
    config: TrialConfig
    cache: Path
    news: Queue


class DistributedTrialWorker:
    """`TrialWorker` for trials that several processes train together.

    The number of processes is no part of a trial: losses are equal but for rounding and dropout,
    and checkpoints fit any number.

    Args:
        cache: on a disk that all processes share.
        processes: of one trial.
        gpus: each process takes a whole GPU.
    """

    def __init__(
        self, configs: Mapping[str, TrialConfig], cache: Path, processes: int, *, gpus: bool
    ) -> None:
        # Ctrl-C reaches the whole process group; the driver alone handles it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._configs = configs
        self._cache = cache
        self._processes = processes
        self._gpus = gpus
        self._trial_id = ""
        self._lock: FileLock | None = None
        self._news: Queue | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, trial_id: str) -> None:
        """Take this trial; the first `step` starts its processes."""
        self._end()
        self._trial_id = trial_id

    def step(self) -> Update:
        """Next update of the trial.

        Raises:
            RayError: a process died; a retry resumes from the last checkpoint.
        """
        from ray.util.queue import Empty

        if self._thread is None:
            self._begin()
        assert self._news is not None and self._thread is not None
        while True:
            alive = self._thread.is_alive()
            try:
                update: Update = self._news.get(timeout=POLL_SECONDS)
            except Empty:
                if alive:
                    continue
                error = self._error or RuntimeError("Ray Train ended without an outcome")
                self._end()
                raise error from None
            if update.done:
                self._end()
            return update

    def _begin(self) -> None:
        from ray.util.queue import Queue

        self._lock = trial_lock(self._cache, self._trial_id)
        self._lock.acquire()
        self._error = None
        self._news = Queue(actor_options={"num_cpus": 0})
        config = self._configs[self._trial_id]
        task = _Task(self._trial_id, config, self._cache, self._news)
        self._thread = threading.Thread(target=self._fit, args=(task,), daemon=True)
        self._thread.start()

    def _fit(self, task: _Task) -> None:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        resources = {"CPU": 1.0, "GPU": 1.0} if self._gpus else {"CPU": 1.0}
        trainer = TorchTrainer(
            lambda: _train_share(task),
            scaling_config=ScalingConfig(
                num_workers=self._processes, use_gpu=self._gpus, resources_per_worker=resources
            ),
            run_config=RunConfig(name=task.trial_id, storage_path=str(self._cache / "ray")),
        )
        try:
            trainer.fit()
        except Exception as error:
            self._error = error

    def _end(self) -> None:
        if self._thread is not None and self._news is not None:
            self._thread.join()
            self._news.shutdown(force=True)
            # The trial's folder is the state; Ray's is not needed.
            shutil.rmtree(self._cache / "ray" / self._trial_id, ignore_errors=True)
        self._thread = self._news = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _train_share(task: _Task) -> None:
    from ray.train.torch import get_device

    from cmkd.training.runtime import ProcessGroup, configure
    from cmkd.training.trial import TrialRun

    configure(threads=1)
    group = ProcessGroup.current()
    reported = 0
    try:
        run = TrialRun(task.config, task.cache, device=str(get_device()), group=group)
        while True:
            trained = 0
            if not run.finished:
                run.train_epoch()
                trained = 1
            outcome = run.finish() if run.finished else None
            if group.is_main:
                epochs = run.history[reported:]
                task.news.put(Update(task.trial_id, epochs, trained, outcome))
            reported = len(run.history)
            if outcome is not None:
                return
    except Exception as error:
        task.news.put(Update(task.trial_id, failure=failure_of(error, reported)))
        # The other processes wait for this one until Ray Train ends them.
        raise
