"""Files prepared by the nodes of a Ray cluster, in place of processes on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cmkd.data.workers import RunFiles
from cmkd.errors import CmkdError, DataError, InfrastructureError, InputError
from cmkd.io import make_folder
from cmkd.sweep.cluster import UNHEARD_SECONDS, Pulse, joined, nodes, servers

Task = TypeVar("Task")
Result = TypeVar("Result")

RETRIES = 2
"""Of a file whose node is lost, or whose process is killed."""
_LOOK_SECONDS = 60.0


@contextmanager
def on_cluster(address: str, root: Path, output: Path) -> Iterator[RunFiles]:
    """What runs files on the cluster inside the block, a CPU each, on all CPUs it has by then.

    Args:
        root: folder of the videos.
        output: folder of the data set, which every node must reach under this very path.

    Raises:
        InputError: a node does not see one of the folders, or the address is none.
        InfrastructureError: the cluster cannot be joined or has died.
    """
    make_folder(output)
    with joined(address):
        pulse = Pulse(servers(), patience=UNHEARD_SECONDS)
        _require_shared(root, output)

        def run(
            function: Callable[[Task], Result], tasks: Iterable[Task], *, timeout: float
        ) -> Iterator[tuple[int, Result | CmkdError]]:
            return _run(function, tasks, timeout, pulse)

        yield run


def _run(
    function: Callable[[Task], Result], tasks: Iterable[Task], timeout: float, pulse: Pulse
) -> Iterator[tuple[int, Result | CmkdError]]:
    import ray

    attempt: Any = ray.remote(num_cpus=1, max_retries=RETRIES)(_attempt)
    waiting = enumerate(tasks)
    following = next(waiting, None)
    running: dict[Any, tuple[int, float]] = {}
    told = False
    while following is not None or running:
        # No more than can run at once, so that what is counted is the work and not the queue.
        cpus = int(sum(node.cpus for node in nodes()))
        left: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        free = int(left.get("CPU", 0.0))
        for _ in range(min(max(1, cpus) - len(running), free)):
            if following is not None:
                number, task = following
                running[attempt.remote(function, task)] = number, time.monotonic()
                following = next(waiting, None)
        pulse.check()
        if not running:
            if not told:
                logging.getLogger(__name__).warning(
                    "every CPU of the cluster is taken by others; files wait for a free one"
                )
            told = True
            time.sleep(1.0)
            continue
        ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
        for reference in ready:
            yield running.pop(reference)[0], _answer(reference)
        now = time.monotonic()
        for reference in [one for one, (_, since) in running.items() if now - since > timeout]:
            ray.cancel(reference, force=True)
            late = DataError(f"its process did not finish within {timeout:.0f} s")
            yield running.pop(reference)[0], late


def _attempt(function: Callable[[Task], Result], task: Task) -> Result | CmkdError:
    try:
        return function(task)
    except CmkdError as error:
        return error


def _answer(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.WorkerCrashedError:
        return DataError(f"its process crashed, or was killed, {RETRIES + 1} times")
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise InfrastructureError(f"the cluster does not run a file: {error}") from error


def _require_shared(root: Path, output: Path) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = output / f".{secrets.token_hex(8)}.partial"
    token.touch()
    look = ray.remote(num_cpus=0)(os.path.exists)
    problems = []
    try:
        for node in nodes():
            there = look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
            )
            for path, folder in ((root, root), (token, output)):
                if not ray.get(there.remote(str(path)), timeout=_LOOK_SECONDS):
                    problems.append(f"node {node.address} does not see {folder}")
    except ray.exceptions.RayError as error:
        raise InfrastructureError(f"a node of the cluster does not answer: {error}") from error
    finally:
        token.unlink(missing_ok=True)
    if problems:
        raise InputError(
            f"{'; '.join(problems)}; --address needs both folders on storage that all nodes "
            "share, under one path (give --output)"
        )
