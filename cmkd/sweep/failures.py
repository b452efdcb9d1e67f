"""Failures of trials as records that cross processes, and signals that stop a sweep."""

from __future__ import annotations

import os
import re
import signal
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from cmkd.errors import CmkdError, InfrastructureError, InputError

TRACE_LINES = 12
SHOWN_NAMES = 4
MAX_TAG = 4000
"""Characters of a tag; stores of MLflow hold at least 5000."""
OF_THE_DISK = ("InfrastructureError", "OSError")
OF_THE_INPUT = ("InputError", "DataError", "ConfigError")
OF_MEMORY = ("WorkerDied", "MemoryError", "OutOfMemoryError")
"""Kinds of failures that fewer trials at once may avoid."""
TRANSIENT = (*OF_MEMORY, *OF_THE_DISK, *OF_THE_INPUT, "FileError")
"""Kinds of failures of the machine or the input; the next call retries these trials."""
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|_ALLOC_FAILED")
UNTAUGHT = "TeacherFailed"
"""Kind of failure of a trial whose teacher failed."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 2.0
"""A signal may arrive twice, from the sender and a parent; a later one means to leave at once."""


@dataclass(frozen=True)
class Failure:
    """Failure of a trial.

    Attributes:
        kind: name of the exception's class.
        message: its text, on one line.
        trace: the innermost lines of the traceback.
        epoch: epochs that were complete.
        origin: kind of the teacher's failure, where `kind` is `UNTAUGHT`.
    """

    kind: str
    message: str
    trace: str
    epoch: int
    origin: str = ""

    @property
    def cause(self) -> str:
        """One line: kind and message."""
        return f"{self.kind}: {self.message}"

    def tags(self) -> dict[str, str]:
        """Tags of the run."""
        return {
            "failure": self.cause[:MAX_TAG],
            "failure_kind": self.origin or self.kind,
            "failure_epoch": str(self.epoch),
            "failure_trace": self.trace[-MAX_TAG:],
        }


def failure_of(error: BaseException, epoch: int) -> Failure:
    """Failure of an exception, as plain text."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    message = " ".join(str(error).split()) or "no message"
    kind = type(error).__name__
    # CPU, cuBLAS and cuDNN report lack of memory as RuntimeError.
    if isinstance(error, RuntimeError) and _NO_MEMORY.search(message):
        kind = "OutOfMemoryError"
    return Failure(kind, message, "\n".join(lines[-TRACE_LINES:]), epoch)


def first_line(error: Exception | None) -> str:
    """First line of the message."""
    return next(iter(str(error or "").strip().splitlines()), "no cause given")


def is_transient(kind: str) -> bool:
    """True if machine or input cause failures of this kind, so that the next call retries."""
    return kind in TRANSIENT


def beyond_the_trials(failures: Iterable[Failure]) -> CmkdError | None:
    """Error of the machine or input among `failures`; None if all are of their trials."""
    messages = {failure.kind: failure.message for failure in failures}
    for kinds, error in ((OF_THE_DISK, InfrastructureError), (OF_THE_INPUT, InputError)):
        if found := [messages[kind] for kind in kinds if kind in messages]:
            return error(found[0])
    return None


def digest(causes: Sequence[tuple[str, str]]) -> list[str]:
    """One line per cause, the most frequent first, with the trials that it hit.

    Causes that differ in numbers or ids only are one cause.

    Args:
        causes: (name of the trial, `Failure.cause`).
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, cause in causes:
        pattern = re.sub(r"\b[0-9a-f]{12,}\b|[-+]?\d+(\.\d+)?(e[-+]?\d+)?", "#", cause)
        groups.setdefault(pattern, []).append((name, cause))
    lines = []
    for group in sorted(groups.values(), key=len, reverse=True):
        names = ", ".join(name for name, _ in group[:SHOWN_NAMES])
        more = f" and {len(group) - SHOWN_NAMES} more" if len(group) > SHOWN_NAMES else ""
        lines.append(f"{len(group)} x {group[0][1]} [{names}{more}]")
    return lines


class Interrupted(BaseException):
    """Request to stop the sweep; not an error, hence no Exception."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class SignalGuard:
    """Raises `Interrupted` in the main thread at the first signal; a later one leaves at once."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._moment = 0.0
        self._deferred = False

    def install(self) -> None:
        """Set the handlers, also after a library replaced them."""
        for signum in SIGNALS:
            # nohup ignores SIGHUP.
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._handle)

    def check(self) -> None:
        """Raise `Interrupted` when a signal came while raising was deferred."""
        if self._received is not None:
            raise Interrupted(self._received)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Raise in `check` alone inside the block; handlers that raise break Ray."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received is not None:
            if now - self._moment > ECHO_SECONDS:
                os.write(2, b"cmkd: left at once; the same command goes on\n")
                os._exit(128 + signum)
            return
        self._received, self._moment = signum, now
        if not self._deferred:
            raise Interrupted(signum)


@contextmanager
def guarded_signals() -> Iterator[SignalGuard]:
    """Handle signals by a `SignalGuard` inside the block."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    guard = SignalGuard()
    guard.install()
    try:
        yield guard
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
