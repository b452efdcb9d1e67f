"""Adapter to Ray Tune: trainable, searcher, stopper and callback.

Imported when the environment of Ray is set, as Ray reads it at its import.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import cloudpickle, tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from cmkd.config.trial import TrialConfig
from cmkd.sweep.failures import Failure, failure_of, first_line
from cmkd.sweep.worker import DistributedTrialWorker, TrialWorker, Update

if TYPE_CHECKING:
    from cmkd.sweep.events import TrialEvents, TrialQueue

RETRIES = 2
"""Restarts of a trial or teacher whose process died."""

KEY, DISTRIBUTED = "trial", "distributed"
"""Keys of the config that Tune has of a trial: its id; whether several processes train it."""
WAITING_BYTES = 2**20
"""Placeholder memory request of the coordinator actor; Ray rejects an empty request."""

WORKER_DIED = Failure(
    "WorkerDied",
    f"its process was killed {RETRIES + 1} times, perhaps for want of memory; use fewer --workers",
    trace="",
    epoch=0,
)
OUT_OF_MEMORY = Failure(
    "OutOfMemoryError",
    f"its process was killed {RETRIES + 1} times, as memory ran low; use fewer --workers",
    trace="",
    epoch=0,
)
_LOW = re.compile(r"running low on memory\. .*?was (\S+ used / \S+) limit")
_HELD = re.compile(r"actual memory used=(\S+B)")


def pass_environment(*, inherited: bool) -> None:
    """Limit the variables that Tune writes into the command lines of workers.

    AWS credentials are never among them: nodes of a cluster have their own.

    Args:
        inherited: none are; workers of this machine have all of them, and those that are told
            once more have to be started anew.
    """
    passed = class_cache.ENV_VARS_TO_PROPAGATE
    if inherited:
        passed.clear()
        class_cache.DEFAULT_ENV_VARS.clear()
    words = ("SECRET", "TOKEN", "KEY", "PASSWORD")
    passed.difference_update([name for name in passed if any(word in name for word in words)])


_REUSE = TuneController._maybe_reuse_cached_actor


def keep_starting_processes() -> None:
    """Let Tune give a free process to a trial that has none, not to one whose own starts.

    It would stop that one, and start another for the next trial: with trials that end sooner than a
    process starts, a single worker trains while all others start.
    """

    def reuse(controller: TuneController, trial: Trial) -> bool:
        own = controller._trial_to_actor.get(trial)
        is_starting = own is not None and controller._actor_manager.is_actor_started(own)
        if is_starting and trial not in controller._resetting_trials:
            return False
        return _REUSE(controller, trial)

    TuneController._maybe_reuse_cached_actor = reuse  # type: ignore[assignment]


class TrialTrainable(tune.Trainable):
    """Ray's calls handed to a worker."""

    def setup(
        self,
        config: dict[str, Any],
        configs: Mapping[str, TrialConfig] | None = None,
        cache: Path | None = None,
        processes: int = 1,
        gpus: bool = False,
    ) -> None:
        assert configs is not None and cache is not None
        # Tune reuses no actor for the other kind, as their resources differ.
        self.worker = (
            DistributedTrialWorker(configs, cache, processes, gpus=gpus)
            if config[DISTRIBUTED]
            else TrialWorker(configs, cache)
        )
        self.worker.start(config[KEY])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.worker.start(new_config[KEY])
        return True

    def step(self) -> dict[str, Any]:
        update = self.worker.step()
        return {"update": update, "done": update.done}


def resources(gpu_share: float) -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
    """Resources of a trial's actor."""
    alone = {"CPU": 1.0} | ({"GPU": gpu_share} if gpu_share else {})
    waits = {"memory": float(WAITING_BYTES)}
    return lambda config: tune.PlacementGroupFactory([waits if config[DISTRIBUTED] else alone])


class NotKept:
    """State left out of Tune's snapshots, which this driver never restores."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class QueueSearcher(NotKept, Searcher):
    """Searcher that takes trials from the queue."""

    def __init__(self, queue: TrialQueue) -> None:
        super().__init__()
        self.queue = queue

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.queue.exhausted:
            # Documented by Tune, but missing in its annotation.
            return Searcher.FINISHED  # type: ignore[return-value]
        key = self.queue.pop()
        return None if key is None else {KEY: key, DISTRIBUTED: self.queue.processes_of(key) > 1}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Unused; `Reporter` tells the driver."""

    def save(self, checkpoint_path: str) -> None:
        """Unused; this driver restores no searcher."""


class GivesUp(NotKept, tune.Stopper):
    """Stopper that asks the driver whether a trial ends early."""

    def __init__(self, events: TrialEvents) -> None:
        self.events = events

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.events.gives_up(result["update"])

    def stop_all(self) -> bool:
        return False


class Reporter(NotKept, tune.Callback):
    """Callback that tells the driver.

    Args:
        tick: called many times a second; may raise to stop the sweep.
        raised: gets what `events` and `tick` raise; Tune replaces it by an error of its own.
    """

    def __init__(
        self,
        events: TrialEvents,
        tick: Callable[[], None],
        raised: list[Exception],
    ) -> None:
        self.events, self.tick, self.raised = events, tick, raised

    @contextmanager
    def kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.raised.append(error)
            raise

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        with self.kept():
            self.tick()

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        with self.kept():
            self.events.started(trial.config[KEY])

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        with self.kept():
            self.events.updated(result["update"])

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        trial_id = trial.config[KEY]
        with self.kept():
            # A worker that failed to start has not started its trial.
            self.events.started(trial_id)
            self.events.updated(Update(trial_id, failure=engine_failure(error_of(trial))))


def error_of(trial: Trial) -> Exception | None:
    """Last error of a trial, from the files of Tune.

    Tune writes the text of every error, but pickles those of tasks and actors alone; an
    out-of-memory error may lie beside the pickle of an earlier one.
    """
    # `get_error` needs a checkpoint.
    written = trial.error_file
    if written is None or not Path(written).is_file():
        return None
    text = re.split(r"^Failure # .*\n", Path(written).read_text("utf-8"), flags=re.MULTILINE)[-1]
    pickled = trial.pickled_error_file
    if pickled is not None and Path(pickled).is_file():
        error: Exception = cloudpickle.loads(Path(pickled).read_bytes())
        if isinstance(error, RayTaskError) or str(error).strip() == text.strip():
            return error
    return tune.TuneError(text.strip())


def engine_failure(error: Exception | None) -> Failure:
    """Failure of a trial or teacher by the error of Ray."""
    if isinstance(error, RayTaskError):
        cause = _of_one_process(error.cause)
        if not isinstance(cause, RayError):
            # Only the wrapper has the frames of the other process.
            return replace(failure_of(cause, 0), trace=failure_of(error, 0).trace)
        error = cause
    if low := _LOW.search(str(error)):
        held = _HELD.search(str(error))
        figures = f"{low[1]} on its machine" + (f"; {held[1]} by this process" if held else "")
        return replace(OUT_OF_MEMORY, message=f"{OUT_OF_MEMORY.message} ({figures})")
    return replace(WORKER_DIED, message=f"{WORKER_DIED.message} ({first_line(error)})")


def _of_one_process(error: Exception) -> Exception:
    """Error of the first process of a trial, unwrapped from Ray Train; else `error`."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    first = next(iter(failures.values()), error)
    found: Exception = getattr(first, "health_check_failure", getattr(first, "_base_exc", first))
    return found
