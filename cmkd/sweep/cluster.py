"""A Ray cluster that others started: joined, measured, and its nodes asked whether they fit."""

from __future__ import annotations

import logging
import math
import os
import platform
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import cmkd
from cmkd.config.trial import TrialConfig
from cmkd.errors import CmkdError, InfrastructureError, InputError
from cmkd.provenance import code_digest

PERIOD_SECONDS = 2.0


class HealthCheck:
    """Asks servers for a connection, now and then.

    Without it a client of Ray waits for ever for a raylet that was killed, and is ended from
    inside, with no word, a minute after the GCS was.

    Args:
        servers: (host, port) by name.
        patience: seconds without an answer after which a server counts as dead. On this machine
            one that is too busy to answer is not; another machine may be gone without a word.
    """

    def __init__(
        self,
        servers: Mapping[str, tuple[str, int]],
        clock: Callable[[], float] = time.monotonic,
        patience: float = math.inf,
    ) -> None:
        self._servers = servers
        self._clock = clock
        self._patience = patience
        self._next = clock()
        self._heard = dict.fromkeys(servers, self._next)

    def check(self) -> None:
        """Look again, unless that was just done.

        Raises:
            InfrastructureError: one of them takes no connection any more, or is silent too long.
        """
        if self._clock() < self._next:
            return
        for name, address in self._servers.items():
            try:
                socket.create_connection(address, timeout=PERIOD_SECONDS).close()
            except ConnectionRefusedError:
                raise InfrastructureError(
                    f"Ray's {name} has died, killed perhaps for want of memory"
                ) from None
            except OSError:
                if self._clock() - self._heard[name] > self._patience:
                    host, port = address
                    raise InfrastructureError(
                        f"Ray's {name} at {host}:{port} has not answered for {self._patience:.0f} s"
                    ) from None
            else:
                self._heard[name] = self._clock()
        self._next = self._clock() + PERIOD_SECONDS


CONNECT_SECONDS = 5.0
SAME = "install the same on all machines and start the node again"
UNHEARD_SECONDS = 30.0
"""After so long without an answer a server on another machine counts as dead."""


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Be a driver of the cluster inside the block; it runs on afterwards.

    Args:
        address: HOST:PORT of its head, or ``auto`` for the one that this machine belongs to.

    Raises:
        InputError: the address is none, or the cluster has another Ray or Python.
        InfrastructureError: it does not answer, or this machine is no node of it.
    """
    import ray

    _require_answer(address)
    # Attempts of half a minute each; by default it is twenty of them.
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "2")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        if "ersion mismatch" in text:
            raise InputError(
                f"--address {address}: {text}; install the same on all machines"
            ) from error
        raise InfrastructureError(
            f"--address {address}: cannot be joined ({text[:200]}); this machine has to be a node "
            "of the cluster, with no CPUs perhaps: ray start --address HOST:PORT --num-cpus 0"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"--address {address}: give HOST:PORT of the cluster's head, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise InfrastructureError(
            f"--address {address}: no answer ({error.strerror or error}); start the cluster "
            "with: ray start --head"
        ) from error


def nodes() -> dict[str, str]:
    """Addresses, by id, of the living nodes of the cluster that have CPUs."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in found
        if node["Alive"] and node["Resources"].get("CPU")
    }


def servers() -> dict[str, tuple[str, int]]:
    """(host, port) of the processes of Ray without which this driver cannot go on."""
    import ray

    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    own = next(node for node in found if node["NodeID"] == context.get_node_id())
    raylet = (own["NodeManagerAddress"], own["NodeManagerPort"])
    return {"server (GCS)": (host, int(port)), "raylet": raylet}


def require_alike(cache: Path, config: TrialConfig, tick: Callable[[], None]) -> None:
    """Ask every node of the cluster, before anything is trained on it.

    Each must run the same code, Python, torch and Ray as this machine, share the cache folder and
    its locks, and have the data set.

    Args:
        config: any trial of the sweep.
        tick: called several times a second; may raise.

    Raises:
        InputError: names every node that does not fit, its problem, and the remedy.
        InfrastructureError: the cluster has died.
    """
    mark = cache / "locks" / f"cluster-{secrets.token_hex(8)}.lock"
    mark.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(mark):
        arguments = {"ours": versions(), "cache": cache, "config": config, "mark": mark}
        answers = _ask_all(problem_of_node, arguments, tick)
    mark.unlink(missing_ok=True)
    if problems := [f"node {address}: {text}" for address, text in answers if text]:
        raise InputError("; ".join(problems))


def versions() -> dict[str, str]:
    """Versions that all nodes must share."""
    found = {"Python": platform.python_version()}
    for name in ("ray", "torch"):
        # A suffix after + names the build, CPU or CUDA.
        found[name] = metadata.version(name).partition("+")[0]
    return {**found, "code of cmkd": code_digest(Path(cmkd.__file__).parent, skipped=())}


def problem_of_node(ours: Mapping[str, str], cache: Path, config: TrialConfig, mark: Path) -> str:
    """Runs on every node: the reason why it cannot train; empty if it can."""
    theirs = versions()
    for name, version in ours.items():
        if theirs[name] != version:
            return f"{name} is {theirs[name]} there and {version} here; {SAME}"
    if not mark.is_file():
        return (
            f"does not see the cache {cache} of the machine that runs cmkd; mount one file system "
            "under this path on all machines"
        )
    try:
        FileLock(mark, timeout=0).acquire()
    except Timeout:
        pass
    else:
        return (
            f"locks on {cache} do not reach it, so that two processes could write one trial; "
            "mount it with locks (NFS 4, or NFS 3 with lockd)"
        )
    from cmkd.data.dataset import open_planned

    try:
        open_planned(config.data, config.data_id, cache)
    except CmkdError as error:
        return str(error)
    return ""


def _ask_all(
    question: Callable[..., str], arguments: Mapping[str, Any], tick: Callable[[], None]
) -> list[tuple[str, str]]:
    """(address, answer) of the nodes; one that dies meanwhile gives none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(question)
    asked = {}
    for node_id, address in nodes().items():
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        asked[task.options(scheduling_strategy=there).remote(**arguments)] = node_id, address
    answers: list[tuple[str, str]] = []
    waiting = list(asked)
    while waiting:
        tick()
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=0.2)
        for reference in ready:
            node_id, address = asked[reference]
            try:
                answers.append((address, ray.get(reference)))
            except ray.exceptions.RayTaskError as error:
                # Without cmkd, or with another one, the question itself fails.
                answers.append((address, f"cannot be asked ({error.cause}); {SAME}"))
            except ray.exceptions.RayError as error:
                if node_id in nodes():
                    raise InfrastructureError(
                        f"node {address} does not run tasks: {error}"
                    ) from error
    return sorted(answers)
