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
from typing import Any

from cmkd.config.trial import TrialConfig
from cmkd.errors import InfrastructureError, InputError
from cmkd.sweep.pulse import Pulse
from cmkd.sweep.tuning import (
    RETRIES,
    Events,
    engine_failure,
    first_line,
    kept,
    reporter,
    stopper,
    trainable,
)
from cmkd.sweep.worker import Update, train_teacher

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
    # When Ray's server is gone, calls that wait for it fail before Ray ends this process.
    "RAY_gcs_server_request_timeout_seconds": "30",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
    # The tracking store and the trials' folders are the state; Ray's own snapshot is not used.
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
}
"""Read by Ray when it is imported and when it starts."""

OBJECT_STORE_BYTES = 100 * 2**20
CREW = "crew"
"""A resource of Ray: what waits for the processes of one trial, and so needs no CPU of its own."""


@dataclass(frozen=True)
class Engine:
    """A running Ray on this machine.

    Attributes:
        workers: processes that train at once, one CPU each.
        gpu_share: part of a GPU that each may use; 0 without GPUs.
        processes: that train one trial together; teachers are trained by one each.
    """

    workers: int
    gpu_share: float
    cache: Path
    processes: int
    pulse: Pulse

    def train_teachers(
        self, configs: Mapping[str, TrialConfig], tick: Callable[[], None]
    ) -> Iterator[Update]:
        """Train teachers, as many at once as there are CPUs for; yields news as it comes.

        `tick` is called several times a second and may raise to stop everything.

        Raises:
            InfrastructureError: a server of Ray has died.
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
            self.pulse.check()
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
                        yield Update(teacher_id, failure=engine_failure(error))
                    continue
                if update.done:
                    del running[stream]
                yield update

    def train_trials(self, configs: Mapping[str, TrialConfig], events: Events, name: str) -> None:
        """Train every trial once, in the given order; returns when all have ended.

        Args:
            name: of a folder for Ray, which no other running sweep uses.

        Raises:
            InfrastructureError: Ray Tune stopped, or a server of Ray has died. What `events`
                raise passes as it is.
        """
        import ray
        from ray import tune

        storage = self.cache / "ray"
        shutil.rmtree(storage / name, ignore_errors=True)
        raised: list[Exception] = []

        def tick() -> None:
            events.tick()
            self.pulse.check()

        parameters = {
            "configs": dict(configs),
            "cache": self.cache,
            "processes": self.processes,
            "gpus": self.gpu_share > 0,
        }
        alone = {"cpu": 1, "gpu": self.gpu_share}
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(trainable(), **parameters),
                alone if self.processes == 1 else {"cpu": 0, CREW: 1},
            ),
            param_space={"trial": tune.grid_search(list(configs))},
            tune_config=tune.TuneConfig(
                reuse_actors=True, max_concurrent_trials=self.workers // self.processes
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(storage),
                verbose=0,
                stop=stopper(events),
                callbacks=[reporter(kept(replace(events, tick=tick), raised))],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
            ),
        )
        try:
            tuner.fit()
        except (tune.TuneError, ray.exceptions.RayError) as error:
            if not raised:
                raise InfrastructureError(f"Ray Tune stopped: {first_line(error)}") from error
        finally:
            shutil.rmtree(storage / name, ignore_errors=True)
        if raised:
            raise raised[0]


@contextmanager
def start_engine(workers: int, cache: Path, processes: int = 1) -> Iterator[Engine]:
    """Start Ray for this block, reachable from this machine alone.

    Raises:
        InputError: a trial's processes would have to share a GPU.
        InfrastructureError: Ray does not start, or stops inside the block.
    """
    os.environ.update(ENVIRONMENT)
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        _start_ray(workers, crews=workers // processes)
        address = ray.get_runtime_context().gcs_address
        assert address.startswith("127.0.0.1:"), f"Ray listens on {address}"
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        share = gpu_share(resources.get("GPU", 0.0), workers)
        if processes > 1 and 0 < share < 1:
            raise InputError(
                f"--processes {processes}: each needs a GPU of its own, but here are "
                f"{resources['GPU']:g} for {workers} workers; use fewer --workers"
            )
        yield Engine(workers, share, cache, processes, Pulse(_servers(address)))
    except ray.exceptions.RayError as error:
        raise InfrastructureError(f"Ray stopped: {error}") from error
    finally:
        ray.shutdown()


def _servers(gcs: str) -> dict[str, tuple[str, int]]:
    """(host, port) of the processes without which nothing goes on."""
    import ray

    host, _, port = gcs.rpartition(":")
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    raylet = (node["NodeManagerAddress"], node["NodeManagerPort"])
    return {"server (GCS)": (host, int(port)), "raylet": raylet}


def _start_ray(workers: int, crews: int) -> None:
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=workers,
            resources={CREW: crews},
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise InfrastructureError(
            f"Ray does not start: {first_line(error)}; a short RAY_TMPDIR may help"
        ) from error


def gpu_share(gpus: float, workers: int) -> float:
    """Part of one GPU for each of `workers`, so that all of them fit."""
    return 1.0 / math.ceil(workers / gpus) if gpus else 0.0
