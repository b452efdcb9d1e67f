"""Work on files in spawned processes: a crash or a hang costs one file, a kill not even that."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar, cast

from cmkd.errors import CmkdError, DataError, InfrastructureError

Task = TypeVar("Task")
Result = TypeVar("Result")

_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGBUS}
"""What a decoder dies of on a bad file; other signals come from outside."""

ATTEMPTS = 3
"""How often a task is given to a process before so many kills are no accident."""

OnProgress = Callable[[int, int], None]
"""Called with (done, total) after each file."""


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int,
    timeout: float | None = None,
    name: Callable[[Task], object] = repr,
) -> Iterator[tuple[int, Result | CmkdError]]:
    """Yield (task number, result or the deliberate error it ended with) as tasks finish.

    Without a `timeout` and with one worker everything runs in this process. Otherwise each
    worker is a spawned process with one CPU's worth of work, killed when its task takes longer
    than `timeout` seconds; the task then counts as a `DataError`, as it does when the process
    crashes. A task whose process is killed from outside is tried again, and a line is logged.
    Workers end by themselves when this process is gone.

    Args:
        function: importable by name; task and result must pickle.
        workers: processes, at least 1.
        name: what a task is called in messages: its file.

    Raises:
        RuntimeError: `function` raised something that is not a `CmkdError`; has its traceback.
        InfrastructureError: a worker process could not start, or several were killed from outside
            at one task.
    """
    if timeout is None and workers <= 1:
        for number, task in enumerate(tasks):
            yield number, _attempt(function, task)
        return
    waiting = iter(enumerate(tasks))
    pool: list[_Worker[Task, Result]] = []
    kills: Counter[int] = Counter()
    try:
        for number, task in itertools.islice(waiting, workers):
            pool.append(_Worker.started(function, number, task))
        while pool:
            worker = _next_ready(pool, timeout)
            reply = worker.reply(timeout)
            finished = worker.number
            if isinstance(reply, _Killed):
                kills[finished] += 1
                _report(reply, f"{name(worker.task)}", kills[finished])
                worker.stop()
                pool[pool.index(worker)] = _Worker.started(function, finished, worker.task)
                continue
            following = next(waiting, None)
            if following is None or not worker.process.is_alive():
                worker.stop()
                pool.remove(worker)
                if following is not None:
                    pool.append(_Worker.started(function, *following))
            else:
                worker.give(*following)
            yield finished, reply
    finally:
        for worker in pool:
            worker.stop()


def _attempt(function: Callable[[Task], Result], task: Task) -> Result | CmkdError:
    try:
        return function(task)
    except CmkdError as error:
        return error


@dataclass(frozen=True)
class _Bug:
    """An unforeseen exception of the worker, as text: not every exception pickles."""

    trace: str


def _serve(connection: Connection, function: Callable[[Task], Result]) -> None:
    # Ctrl-C reaches the whole process group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            task = cast(Task, connection.recv())
        except (EOFError, OSError):
            return
        reply: Result | CmkdError | _Bug
        try:
            reply = _attempt(function, task)
        except Exception:
            reply = _Bug(traceback.format_exc())
        try:
            connection.send(reply)
        except OSError:
            return


@dataclass(frozen=True)
class _Killed:
    """The end of a process that says nothing of its file."""

    process_id: int
    signal: int


def _report(killed: _Killed, name: str, times: int) -> None:
    """Log that the task `name` is tried again, or raise where that was done too often."""
    worker = f"worker process {killed.process_id}"
    if times < ATTEMPTS:
        logging.getLogger(__name__).warning(
            f"{name}: {worker} was ended from outside (signal {killed.signal}); it is tried again"
        )
    elif killed.signal == signal.SIGKILL:
        raise InfrastructureError(
            f"{name}: {worker} was killed at it, the third one, probably for want of memory; "
            "use fewer --workers"
        )
    else:
        raise InfrastructureError(
            f"{name}: {worker} was ended from outside (signal {killed.signal}), the third one "
            "at it; run it again"
        )


@dataclass
class _Worker(Generic[Task, Result]):
    process: SpawnProcess
    connection: Connection
    number: int
    task: Task
    since: float

    @classmethod
    def started(
        cls, function: Callable[[Task], Result], number: int, task: Task
    ) -> _Worker[Task, Result]:
        context = multiprocessing.get_context("spawn")
        try:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, function), daemon=True)
            process.start()
        except OSError as error:
            raise InfrastructureError(
                f"a worker process cannot be started ({error.strerror}); use fewer --workers"
            ) from error
        theirs.close()
        worker = cls(process, ours, number, task, 0.0)
        worker.give(number, task)
        return worker

    def give(self, number: int, task: Task) -> None:
        self.number, self.task, self.since = number, task, time.monotonic()
        # To a process that is gone already: `reply` finds out what became of it.
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(task)

    def reply(self, timeout: float | None) -> Result | CmkdError | _Killed:
        """The answer that lies ready, or what became of a worker that will give none."""
        if not self.connection.poll():
            self.process.kill()
            self.process.join()
            return DataError(f"its process did not finish within {timeout:.0f} s")
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return _end(self.process)
        if isinstance(answer, _Bug):
            raise RuntimeError(f"in a worker process:\n{answer.trace}")
        return cast("Result | CmkdError", answer)

    def stop(self) -> None:
        self.connection.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


def _end(process: SpawnProcess) -> DataError | _Killed:
    """What the end of a process says of its file."""
    code = process.exitcode or 0
    if code >= 0:
        raise InfrastructureError(
            f"a worker process ended with exit code {code} before its work; its messages "
            "are above (a script that calls cmkd needs `if __name__ == '__main__':`)"
        ) from None
    if -code not in _CRASHES:
        return _Killed(process.pid or 0, -code)
    return DataError(f"its process crashed ({signal.Signals(-code).name})")


def _next_ready(
    pool: Sequence[_Worker[Task, Result]], timeout: float | None
) -> _Worker[Task, Result]:
    oldest = min(pool, key=lambda worker: worker.since)
    left = None if timeout is None else max(0.0, oldest.since + timeout - time.monotonic())
    ready = wait([worker.connection for worker in pool], left)
    if not ready:
        return oldest
    return next(worker for worker in pool if worker.connection is ready[0])
