"""Ray Train: one trial in several processes, each with a GPU of its own or a CPU."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from cmkd.config.trial import TrialConfig
from cmkd.sweep.failures import failure_of
from cmkd.sweep.worker import Update, plain, trial_lock

if TYPE_CHECKING:
    from ray.util.queue import Queue

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class _Task:
    """What every process of a trial is given; rank 0 puts an `Update` per epoch into `news`."""

    trial_id: str
    config: TrialConfig
    cache: Path
    news: Queue


class TrialCrew:
    """Like `TrialWorker`, for trials that several processes train together.

    The number of processes is no part of a trial: losses are equal but for rounding and dropout,
    and any number of them goes on from the same checkpoint.

    Args:
        cache: on a disk that all processes share.
        processes: of one trial.
        gpus: whether each of them takes a whole GPU.
    """

    def __init__(
        self, configs: Mapping[str, TrialConfig], cache: Path, processes: int, *, gpus: bool
    ) -> None:
        # Ctrl-C reaches the whole process group; only the driver decides what it means.
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
        """Take this trial; its processes are started by the first `step`."""
        self._end()
        self._trial_id = trial_id

    def step(self) -> Update:
        """The next news of the trial.

        Raises:
            RayError: a process died; to try again goes on from the last checkpoint.
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

        one = {"CPU": 1.0, "GPU": 1.0} if self._gpus else {"CPU": 1.0}
        trainer = TorchTrainer(
            lambda: _train_share(task),
            scaling_config=ScalingConfig(
                num_workers=self._processes, use_gpu=self._gpus, resources_per_worker=one
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
            # Ray's own notes; the trial's folder is the state.
            shutil.rmtree(self._cache / "ray" / self._trial_id, ignore_errors=True)
        self._thread = self._news = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _train_share(task: _Task) -> None:
    from ray.train.torch import get_device

    from cmkd.training.parallel import Peers
    from cmkd.training.run import TrialRun
    from cmkd.training.runtime import configure

    configure(threads=1)
    peers = Peers.of_group()
    reported = 0
    try:
        run = TrialRun(task.config, task.cache, device=str(get_device()), peers=peers)
        while True:
            trained = 0
            if not run.finished:
                run.train_epoch()
                trained = 1
            outcome = plain(run.finish()) if run.finished else None
            if peers.first:
                epochs = run.history[reported:]
                task.news.put(Update(task.trial_id, epochs, trained, outcome))
            reported = len(run.history)
            if outcome is not None:
                return
    except Exception as error:
        task.news.put(Update(task.trial_id, failure=failure_of(error, reported)))
        # The other processes wait for this one until Ray Train ends them.
        raise
