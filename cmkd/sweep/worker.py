"""Worker process: trains trials and teachers one after another."""

from __future__ import annotations

import queue
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cmkd.config.trial import TrialConfig
from cmkd.io import QUIET_SECONDS
from cmkd.machine import waiting_for
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
        note: line for the user.
    """

    trial_id: str
    epochs: tuple[EpochRecord, ...] = ()
    trained: int = 0
    outcome: TrainingResult | None = None
    failure: Failure | None = None
    note: str = ""

    @property
    def done(self) -> bool:
        """True for the last update of this trial."""
        return self.outcome is not None or self.failure is not None


Updates = Generator[Update, None, None]


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
        self._configs = configs
        self._cache = cache
        self._updates: Updates | None = None
        self._lock: FileLock | None = None

    def start(self, trial_id: str) -> None:
        """Take this trial or teacher; the first `step` opens it."""
        self._release()
        self._updates = self._train(trial_id, self._configs[trial_id])

    def step(self) -> Update:
        """Train one epoch, or finish the trial."""
        assert self._updates is not None, "no trial was started"
        update = next(self._updates)
        if update.done:
            self._release()
        return update

    def _train(self, trial_id: str, config: TrialConfig) -> Updates:
        if trial_id == config.id:
            self._lock = trial_lock(self._cache, trial_id)
            return train_trial(trial_id, lambda: self._open(config), self._lock)
        return train_teacher(config, self._cache)

    def _open(self, config: TrialConfig) -> TrialRun:
        from cmkd.training.runtime import configure
        from cmkd.training.trial import TrialRun

        configure(threads=1)
        return TrialRun(config, self._cache)

    def _release(self) -> None:
        if self._updates is not None:
            self._updates.close()
            self._updates = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def trial_lock(cache: Path, trial_id: str) -> FileLock:
    """Lock of a trial in training, for sweeps that share it."""
    folder = cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"trial-{trial_id}.lock")


def _acquired(lock: FileLock, trial_id: str) -> Updates:
    """Acquire the lock of a trial; yields an update if another process trains it meanwhile."""
    try:
        lock.acquire(timeout=QUIET_SECONDS)
    except Timeout:
        yield Update(trial_id, note=waiting_for(Path(lock.lock_file)))
        lock.acquire()


def train_trial(
    trial_id: str, open_run: Callable[[], TrialRun], lock: FileLock | None = None
) -> Updates:
    """Train a trial; yields an update per epoch, the last one with the outcome or failure.

    Args:
        lock: acquired first and left to the caller.
    """
    reported = 0
    try:
        if lock is not None:
            yield from _acquired(lock, trial_id)
        run = open_run()
        while True:
            trained = 0
            if not run.finished:
                run.train_epoch()
                trained = 1
            outcome = run.finish() if run.finished else None
            epochs, reported = run.history[reported:], len(run.history)
            yield Update(trial_id, epochs, trained, outcome)
            if outcome is not None:
                return
    except Exception as error:
        yield Update(trial_id, failure=failure_of(error, reported))


def train_teacher(config: TrialConfig, cache: Path) -> Updates:
    """Train or open the teacher of `config`, by a thread; yields an update per epoch."""
    news: queue.SimpleQueue[Update] = queue.SimpleQueue()
    thread = threading.Thread(target=_teach, args=(config, cache, news.put))
    thread.start()
    for update in iter(news.get, None):
        yield update
        if update.done:
            thread.join()
            return


def _teach(config: TrialConfig, cache: Path, report: Callable[[Update], None]) -> None:
    done = 0

    def on_epoch(record: EpochRecord) -> None:
        nonlocal done
        done = record.step
        report(Update(config.teacher_id, (record,), 1))

    def on_wait(line: str) -> None:
        report(Update(config.teacher_id, note=line))

    try:
        from cmkd.training.runtime import configure
        from cmkd.training.teacher import ensure_teacher

        configure(threads=1)
        outcome = ensure_teacher(config, cache, on_epoch=on_epoch, on_wait=on_wait)
    except Exception as error:
        report(Update(config.teacher_id, failure=failure_of(error, done)))
        return
    report(Update(config.teacher_id, outcome.history, 0, outcome))


POLL_SECONDS = 1.0


@dataclass(frozen=True)
class _Task:
    """Arguments of every process of a trial; rank 0 puts an `Update` per epoch into `news`."""

    trial_id: str
    config: TrialConfig
    cache: Path
    news: Queue


class DistributedTrialWorker(TrialWorker):
    """`TrialWorker` for trials that several processes train together.

    The number of processes is no part of a trial: losses are equal but for rounding and dropout,
    and checkpoints fit any number. `step` raises a RayError if a process died; a retry resumes
    from the last checkpoint.

    Args:
        cache: on a disk that all processes share.
        processes: of one trial.
        gpus: each process takes a whole GPU.
    """

    def __init__(
        self, configs: Mapping[str, TrialConfig], cache: Path, processes: int, *, gpus: bool
    ) -> None:
        super().__init__(configs, cache)
        self._processes = processes
        self._gpus = gpus

    def _train(self, trial_id: str, config: TrialConfig) -> Updates:
        from ray.util.queue import Empty, Queue

        self._lock = trial_lock(self._cache, trial_id)
        yield from _acquired(self._lock, trial_id)
        news = Queue(actor_options={"num_cpus": 0})
        errors: list[Exception] = []
        task = _Task(trial_id, config, self._cache, news)
        thread = threading.Thread(target=self._fit, args=(task, errors), daemon=True)
        thread.start()
        try:
            while True:
                is_alive = thread.is_alive()
                try:
                    yield news.get(timeout=POLL_SECONDS)
                except Empty:
                    if not is_alive:
                        errors.append(RuntimeError("Ray Train ended without an outcome"))
                        raise errors[0] from None
        finally:
            thread.join()
            news.shutdown(force=True)
            # The trial's folder is the state; Ray's is not needed.
            shutil.rmtree(self._cache / "ray" / trial_id, ignore_errors=True)

    def _fit(self, task: _Task, errors: list[Exception]) -> None:
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
            errors.append(error)


def _train_share(task: _Task) -> None:
    from ray.train.torch import get_device

    from cmkd.training.runtime import ProcessGroup, configure
    from cmkd.training.trial import TrialRun

    configure(threads=1)
    group = ProcessGroup.current()

    def open_run() -> TrialRun:
        return TrialRun(task.config, task.cache, device=str(get_device()), group=group)

    for update in train_trial(task.trial_id, open_run):
        if group.is_main or update.failure is not None:
            task.news.put(update)
        if update.failure is not None:
            # The other processes wait for this one until Ray Train ends them.
            raise RuntimeError(update.failure.cause)
