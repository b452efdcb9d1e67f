"""Ray: the only door to `ray`. Trials by Ray Tune on reused workers, teachers as tasks."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from cmkd.config.trial import TrialConfig
from cmkd.errors import InfrastructureError
from cmkd.sweep.failures import Failure, failure_of
from cmkd.sweep.worker import TrialWorker, Update, train_teacher

if TYPE_CHECKING:
    from ray.tune import Callback
    from ray.tune.experiment import Trial

P = ParamSpec("P")

ENVIRONMENT = {
    # Despite its name this binds every socket of Ray to 127.0.0.1: whoever reaches them runs code.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Threads that spin while they wait slow each other tenfold where CPUs are shared.
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # The tracking store and the trials' folders are the state; Ray's own snapshot is not used.
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
}
"""Read by Ray when it is imported and when it starts."""

OBJECT_STORE_BYTES = 100 * 2**20
RETRIES = 2
"""How often a trial or teacher whose process died is started again."""

WORKER_DIED = Failure(
    "WorkerDied",
    f"its process was killed {RETRIES + 1} times, perhaps for want of memory; use fewer --workers",
    trace="",
    epoch=0,
)


@dataclass(frozen=True)
class Events:
    """What the driver does on news.

    Attributes:
        started: a worker takes this trial, again perhaps.
        updated: news of a trial.
        tick: called many times a second; may raise to stop everything.
    """

    started: Callable[[str], None]
    updated: Callable[[Update], None]
    tick: Callable[[], None]


@dataclass(frozen=True)
class Engine:
    """A running Ray on this machine.

    Attributes:
        workers: processes that train at once, one CPU each.
        gpu_share: part of a GPU that each may use; 0 without GPUs.
    """

    workers: int
    gpu_share: float
    cache: Path

    def train_teachers(
        self, configs: Mapping[str, TrialConfig], tick: Callable[[], None]
    ) -> Iterator[Update]:
        """Train teachers, as many at once as there are CPUs for; yields news as it comes.

        `tick` is called several times a second and may raise to stop everything.
        """
        import ray

        task = ray.remote(num_cpus=1, num_gpus=self.gpu_share, max_retries=0)(train_teacher)

        def launch(teacher_id: str) -> Any:
            return task.remote(configs[teacher_id], self.cache)

        running: dict[Any, tuple[str, int]] = {
            launch(teacher_id): (teacher_id, RETRIES) for teacher_id in configs
        }
        while running:
            tick()
            ready, _ = ray.wait(list(running), num_returns=1, timeout=0.2)
            stream: Any
            for stream in ready:
                teacher_id, retries = running[stream]
                try:
                    update: Update = ray.get(next(stream))
                except ray.exceptions.RayError as error:
                    del running[stream]
                    if retries and not isinstance(error, ray.exceptions.RayTaskError):
                        running[launch(teacher_id)] = (teacher_id, retries - 1)
                    else:
                        yield Update(teacher_id, failure=_failure(error))
                    continue
                if update.done:
                    del running[stream]
                yield update

    def train_trials(self, configs: Mapping[str, TrialConfig], events: Events, name: str) -> None:
        """Train every trial once, in the given order; returns when all have ended.

        Args:
            name: of a folder for Ray, which no other running sweep uses.

        Raises:
            InfrastructureError: Ray Tune stopped. What `events` raise passes as it is.
        """
        from ray import tune

        storage = self.cache / "ray"
        shutil.rmtree(storage / name, ignore_errors=True)
        raised: list[Exception] = []
        trainable = tune.with_resources(
            tune.with_parameters(_trainable(), configs=dict(configs), cache=self.cache),
            {"cpu": 1, "gpu": self.gpu_share},
        )
        tuner = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(list(configs))},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=self.workers),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(storage),
                verbose=0,
                callbacks=[_callback(_kept(events, raised))],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
            ),
        )
        try:
            tuner.fit()
        except tune.TuneError as error:
            if not raised:
                raise InfrastructureError(f"Ray Tune stopped: {error}") from error
        finally:
            shutil.rmtree(storage / name, ignore_errors=True)
        if raised:
            raise raised[0]


@contextmanager
def start_engine(workers: int, cache: Path) -> Iterator[Engine]:
    """Start Ray for this block, reachable from this machine alone.

    Raises:
        InfrastructureError: Ray does not start, or stops inside the block.
    """
    os.environ.update(ENVIRONMENT)
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        _start_ray(workers)
        address = ray.get_runtime_context().gcs_address
        assert address.startswith("127.0.0.1:"), f"Ray listens on {address}"
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield Engine(workers, gpu_share(resources.get("GPU", 0.0), workers), cache)
    except ray.exceptions.RayError as error:
        raise InfrastructureError(f"Ray stopped: {error}") from error
    finally:
        ray.shutdown()


def _start_ray(workers: int) -> None:
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise InfrastructureError(
            f"Ray does not start: {_first_line(error)}; a short RAY_TMPDIR may help"
        ) from error


def gpu_share(gpus: float, workers: int) -> float:
    """Part of one GPU for each of `workers`, so that all of them fit."""
    return 1.0 / math.ceil(workers / gpus) if gpus else 0.0


def _trainable() -> type:
    from ray import tune

    class TrialTrainable(tune.Trainable):
        """Ray's calls handed to a `TrialWorker`."""

        def setup(
            self,
            config: dict[str, Any],
            configs: Mapping[str, TrialConfig] | None = None,
            cache: Path | None = None,
        ) -> None:
            assert configs is not None and cache is not None
            self.worker = TrialWorker(configs, cache)
            self.worker.start(config["trial"])

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.worker.start(new_config["trial"])
            return True

        def step(self) -> dict[str, Any]:
            update = self.worker.step()
            return {"update": update, "done": update.done}

    return TrialTrainable


def _failure(error: Exception | None) -> Failure:
    """What a trial or teacher failed of, from what Ray says about it."""
    from ray.exceptions import RayTaskError

    if isinstance(error, RayTaskError):
        # The frames of the other process are in the text of the wrapper alone.
        return replace(failure_of(error.cause, 0), trace=failure_of(error, 0).trace)
    return replace(WORKER_DIED, message=f"{WORKER_DIED.message} ({_first_line(error)})")


def _first_line(error: Exception | None) -> str:
    return next(iter(str(error or "").strip().splitlines()), "no cause given")


def _kept(events: Events, raised: list[Exception]) -> Events:
    """`events` that put what they raise into `raised` too: Tune makes errors of its own of it."""

    def keep(action: Callable[P, None]) -> Callable[P, None]:
        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                action(*args, **kwargs)
            except Exception as error:
                raised.append(error)
                raise

        return call

    return Events(keep(events.started), keep(events.updated), keep(events.tick))


def _callback(events: Events) -> Callback:
    from ray import tune

    class Reporter(tune.Callback):
        """Tune's news handed to the driver."""

        def __init__(self, events: Events) -> None:
            self.events = events

        def __getstate__(self) -> dict[str, Any]:
            # Tune pickles its callbacks to restore them some day; this driver never does.
            return {}

        def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
            self.events.tick()

        def on_trial_start(
            self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
        ) -> None:
            self.events.started(trial.config["trial"])

        def on_trial_result(
            self,
            iteration: int,
            trials: list[Trial],
            trial: Trial,
            result: dict[str, Any],
            **info: Any,
        ) -> None:
            self.events.updated(result["update"])

        def on_trial_error(
            self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
        ) -> None:
            trial_id = trial.config["trial"]
            # A worker that never came up has not started its trial.
            self.events.started(trial_id)
            failure = _failure(trial.get_pickled_error())
            self.events.updated(Update(trial_id, failure=failure))

    return Reporter(events)
