"""Ray engine: trials and teachers by Ray Tune on reused workers."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmkd.errors import InfrastructureError, InputError
from cmkd.machine import claim
from cmkd.sweep.cluster import UNHEARD_SECONDS, HealthCheck, joined, require_alike, servers
from cmkd.sweep.events import TrialEvents
from cmkd.sweep.failures import first_line

OWN_RAY = {
    # Despite its name this binds every socket of Ray to 127.0.0.1: whoever reaches them runs code.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Imported by workers as they start, while this process is still busy.
    "RAY_preload_python_modules": "cmkd.sweep.tune_adapter,cmkd.training.trial",
    # By default those that wait a second for a trial are ended, however long the store takes.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
"""For an engine of our own; nodes of a cluster have to reach its driver."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Threads that spin while they wait slow each other tenfold where CPUs are shared.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Memory of large tensors is kept for the next; else a third of a step can be page faults.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # `TrialQueue` says how many start; Tune alone would bring up one process after the other.
    "TUNE_MAX_PENDING_TRIALS_PG": str(10**6),
    # When Ray's server is gone, calls that wait for it fail before Ray ends this process.
    "RAY_gcs_server_request_timeout_seconds": "30",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
    # The tracking store and the trials' folders are the state; Ray's own snapshot is not used.
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
}
"""Read by Ray when it is imported and when it starts."""

OBJECT_STORE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Engine:
    """A running Ray, on this machine alone or a cluster.

    Attributes:
        gpu_share: part of a GPU that each worker may use; 0 without GPUs.
        processes: that train one trial together; teachers are trained by one each.
        address: of a cluster that others started; None: Ray on this machine.
    """

    gpu_share: float
    cache: Path
    processes: int
    health: HealthCheck
    address: str | None = None

    def train(self, events: TrialEvents, tick: Callable[[], None]) -> None:
        """Train every trial and teacher of the queue of `events` once, until all have ended.

        Args:
            tick: called many times a second; may raise to stop the sweep.

        Raises:
            InputError: a node of the cluster does not fit; see `require_alike`.
            InfrastructureError: Ray Tune stopped, or a server of Ray has died. What `events`
                and `tick` raise passes as it is.
        """
        import ray
        from ray import tune

        from cmkd.sweep import tune_adapter

        def watch() -> None:
            tick()
            self.health.check()

        if self.address is not None:
            require_alike(self.cache, next(iter(events.configs.values())), watch)
        tune_adapter.pass_environment(inherited=self.address is None)
        tune_adapter.keep_starting_processes()
        storage = self.cache / "ray"
        shutil.rmtree(storage / events.name, ignore_errors=True)
        raised: list[Exception] = []
        parameters = {
            "configs": dict(events.configs),
            "cache": self.cache,
            "processes": self.processes,
            "gpus": self.gpu_share > 0,
        }
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(tune_adapter.TrialTrainable, **parameters),
                tune_adapter.resources(self.gpu_share),
            ),
            tune_config=tune.TuneConfig(
                search_alg=tune_adapter.QueueSearcher(events.queue),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=events.name,
                storage_path=str(storage),
                verbose=0,
                stop=tune_adapter.GivesUp(events),
                callbacks=[tune_adapter.Reporter(events, watch, raised)],
                failure_config=tune.FailureConfig(max_failures=tune_adapter.RETRIES),
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
            shutil.rmtree(storage / events.name, ignore_errors=True)
        if raised:
            raise raised[0]


@contextmanager
def start_engine(
    workers: int,
    cache: Path,
    processes: int = 1,
    address: str | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> Iterator[Engine]:
    """Start Ray for this block, reachable from this machine alone, or join a cluster.

    Args:
        address: of a running cluster, see `joined`; it runs on after the block.
        meanwhile: called while Ray starts; what it raises passes, once Ray is stopped.

    Raises:
        InputError: a trial's processes would have to share a GPU, or the cluster is too small.
        InfrastructureError: Ray does not start, or stops inside the block.
    """
    os.environ.update(ENVIRONMENT if address else ENVIRONMENT | OWN_RAY)
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        with joined(address) if address else _own_ray(workers, meanwhile):
            if address:
                meanwhile()
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            if workers > (cpus := resources.get("CPU", 0.0)):
                raise InputError(
                    f"--workers {workers}: the cluster at {address} has {cpus:g} CPUs; give a "
                    f"number from 1 to {cpus:g}, or none"
                )
            share = gpu_share(resources.get("GPU", 0.0), workers)
            if processes > 1 and 0 < share < 1:
                raise InputError(
                    f"--processes {processes}: each needs a GPU of its own, but here are "
                    f"{resources['GPU']:g} for {workers} workers; use fewer --workers"
                )
            patience = UNHEARD_SECONDS if address else math.inf
            health = HealthCheck(servers(), patience=patience)
            yield Engine(share, cache, processes, health, address)
    except ray.exceptions.RayError as error:
        raise InfrastructureError(f"Ray stopped: {error}") from error


def default_workers(address: str) -> int:
    """One worker per GPU of a cluster, or per CPU where it has none.

    Raises:
        InputError: its nodes have no CPUs; and as `joined`.
        InfrastructureError: as `joined`.
    """
    os.environ.update(ENVIRONMENT)
    with joined(address):
        import ray

        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    workers = int(resources.get("GPU") or resources.get("CPU", 0))
    if not workers:
        raise InputError(f"--address {address}: no node of the cluster has CPUs; start one")
    return workers


@contextmanager
def servers_alive_at_connection() -> Iterator[None]:
    """Look at Ray's servers just before a driver that is started inside the block connects.

    Ray ends a driver without a word, exit code 1, if its raylet is dead at that moment.

    Raises:
        InfrastructureError: one of them died while Ray started.
    """
    import ray
    from ray._private import worker

    native: Any = ray._raylet
    connect = native.CoreWorker

    def checked(*arguments: Any, **options: Any) -> Any:
        node: Any = worker._global_node
        for name, _ in node.dead_processes():
            raise InfrastructureError(
                f"Ray's {name} died while Ray started, killed perhaps for want of memory"
            )
        return connect(*arguments, **options)

    native.CoreWorker = checked
    try:
        yield
    finally:
        native.CoreWorker = connect


@contextmanager
def _own_ray(workers: int, meanwhile: Callable[[], object]) -> Iterator[None]:
    import ray

    # Ray's servers take seconds to start. They end with the thread that started them.
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(_start_ray, workers)
        try:
            with _fair_threads():
                meanwhile()
                starting.result()
            yield
        finally:
            wait([starting])
            ray.shutdown()


SPARED = ("start_log_monitor", "start_monitor", "start_api_server")
"""Starters of Ray's processes that are of no use to one driver of one machine: those that collect
logs, scale a cluster, and serve pages."""


@contextmanager
def _without_spared() -> Iterator[None]:
    """Start no process of `SPARED` inside the block; they take a second of CPU."""
    from ray._private.node import Node

    starters = {name: getattr(Node, name) for name in SPARED}
    for name in starters:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, starter in starters.items():
            setattr(Node, name, starter)


@contextmanager
def _fair_threads() -> Iterator[None]:
    """Let threads take turns ten times as often: one that imports holds up all others."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 10)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def _start_ray(workers: int) -> None:
    import ray
    from ray._private import ray_constants, worker

    # A program that imported Ray before has not read `OWN_RAY`.
    cluster, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        with servers_alive_at_connection(), _without_spared():
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        node: Any = worker._global_node
        # Ray itself leaves the files of every session behind.
        claim(Path(node.get_session_dir_path()))
        address = ray.get_runtime_context().gcs_address
        if not address.startswith("127.0.0.1:"):
            raise InfrastructureError(
                f"Ray listens on {address}, beyond this machine; it is stopped"
            )
    except InfrastructureError:
        raise
    except Exception as error:
        # Of no kind of its own where its servers take too long to start.
        raise InfrastructureError(
            f"Ray does not start: {first_line(error)}; a short RAY_TMPDIR may help"
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = cluster


def gpu_share(gpus: float, workers: int) -> float:
    """Part of one GPU for each of `workers`, so that all of them fit."""
    return 1.0 / math.ceil(workers / gpus) if gpus else 0.0
