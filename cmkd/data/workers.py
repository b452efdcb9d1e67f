"""Work on files in spawned processes: a crash or a hang costs one file, a kill not even that."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, TypeVar

from cmkd.errors import CmkdError, FileError, InfrastructureError

Task = TypeVar("Task")
Result = TypeVar("Result")
OnProgress = Callable[[int, int], None]
"""Called with (done, total) after each file."""

SECONDS_PER_CLIP = 300.0
"""Time in which a prepared clip is decoded; beyond it the file counts as undecodable."""
ATTEMPTS = 3
"""Processes that may be killed from outside at one task."""
_CRASHES = {
    int(crash): crash.name
    for crash in (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGBUS)
}
"""Signals that end a decoder on a bad file; others come from outside."""
_REMEDY = "repair or convert the file, or remove it"


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int,
    timeout: float | None = None,
    name: Callable[[Task], object] = str,
    on_progress: OnProgress | None = None,
) -> Iterator[tuple[int, Result | FileError]]:
    """Yield (task number, result or the FileError it ended with) as tasks finish.

    Without a `timeout` and with one worker everything runs in this process. Otherwise each
    worker is a spawned process. It is killed when a task takes longer than `timeout` seconds; the
    task then ends with a `FileError`, as it does when the process crashes. A task whose process is
    killed from outside is tried again, and a line is logged. Workers end when this process does.

    Args:
        function: importable by name; task and result must pickle.
        workers: processes, at least 1.
        name: file that a task works on, for messages.
        on_progress: called once the caller has taken the result.

    Raises:
        RuntimeError: `function` raised something that is not a `FileError`; has its traceback.
        InfrastructureError: `function` raised it, a worker process could not start, or several
            were killed from outside at one task.
    """
    results = (
        ((number, _attempt(function, task)) for number, task in enumerate(tasks))
        if timeout is None and workers <= 1
        else _run_spawned(function, tasks, workers, timeout, name)
    )
    for done, result in enumerate(results, 1):
        yield result
        if on_progress:
            on_progress(done, len(tasks))


def _attempt(function: Callable[[Task], Result], task: Task) -> Result | FileError:
    try:
        return function(task)
    except FileError as error:
        return error


def _run_spawned(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    timeout: float | None,
    name: Callable[[Task], object],
) -> Iterator[tuple[int, Result | FileError]]:
    waiting = deque(range(len(tasks)))
    kills: Counter[int] = Counter()
    busy: list[_Worker] = []
    idle: list[_Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker(function)
                busy.append(worker)
                number = waiting.popleft()
                worker.give(number, tasks[number])
            worker = _next_ready(busy, timeout)
            number, path = worker.number, name(tasks[worker.number])
            try:
                reply = worker.reply(path, timeout)
            except _Killed as killed:
                kills[number] += 1
                if kills[number] == ATTEMPTS:
                    raise InfrastructureError(
                        f"{path}: {killed}, the third one at it",
                        "run it again, with fewer --workers if memory ran out",
                    ) from None
                logging.getLogger(__name__).warning(f"{path}: {killed}; it is tried again")
                waiting.appendleft(number)
                busy.remove(worker)
                worker.stop()
                continue
            busy.remove(worker)
            if worker.process.is_alive():
                idle.append(worker)
            else:
                worker.stop()
            yield number, reply
    finally:
        for worker in (*busy, *idle):
            worker.stop()


class _Killed(Exception):
    """A worker process was ended from outside."""


def _serve(connection: Connection, function: Callable[[Any], object]) -> None:
    """Loop of a worker: answer tasks until the connection is closed."""
    # Ctrl-C reaches the whole process group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = connection.recv()
            try:
                reply = _attempt(function, task)
            except CmkdError as error:
                reply = error
            except Exception:
                # As text: not every exception pickles.
                reply = RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
            connection.send(reply)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Processes that start inside import nothing of the program that calls.

    A script without `if __name__ == "__main__"` would run again in each of them, and wait there for
    the locks that this process holds.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _Worker:
    """Spawned process that works on one task at a time."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        context = multiprocessing.get_context("spawn")
        try:
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
            with _without_main():
                self.process.start()
        except OSError as error:
            raise InfrastructureError(
                f"a worker process cannot be started ({error.strerror})", "use fewer --workers"
            ) from error
        theirs.close()

    def give(self, number: int, task: object) -> None:
        """Send a task."""
        self.number, self.since = number, time.monotonic()
        # If the process has ended, `reply` tells why.
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(task)

    def reply(self, path: object, timeout: float | None) -> Any:
        """Answer of a worker that is ready or out of time.

        Raises:
            _Killed: there is none, through no fault of the file.
        """
        if not self.connection.poll():
            self.stop()
            return FileError(path, f"its process did not finish within {timeout:.0f} s", _REMEDY)
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            if code >= 0:
                raise InfrastructureError(
                    f"a worker process ended with exit code {code}; its messages are above"
                ) from None
            if -code in _CRASHES:
                return FileError(path, f"its process crashed ({_CRASHES[-code]})", _REMEDY)
            raise _Killed(
                f"worker process {self.process.pid} was ended from outside (signal {-code})"
            ) from None
        if isinstance(answer, Exception) and not isinstance(answer, FileError):
            raise answer
        return answer

    def stop(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def _next_ready(busy: Sequence[_Worker], timeout: float | None) -> _Worker:
    """First worker with an answer; the oldest one if its time is up."""
    oldest = min(busy, key=lambda worker: worker.since)
    left = None if timeout is None else max(0.0, oldest.since + timeout - time.monotonic())
    ready = wait([worker.connection for worker in busy], left)
    return next((worker for worker in busy if worker.connection in ready), oldest)
