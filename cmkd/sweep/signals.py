"""SIGINT and SIGTERM as one exception that leaves the sweep in good order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The user or the machine asked the sweep to stop; not an error, hence no Exception."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class SignalGuard:
    """Raises `Interrupted` in the main thread at the first signal; the second leaves at once."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._deferred = False

    def install(self) -> None:
        """Take the signals, also back from a library that took them meanwhile."""
        for signum in SIGNALS:
            signal.signal(signum, self._handle)

    def check(self) -> None:
        """Raise `Interrupted` when a signal came while raising was deferred."""
        if self._received is not None:
            raise Interrupted(self._received)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside the block only `check` raises: compiled code of Ray breaks when a handler does."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._received is not None:
            os._exit(128 + signum)
        self._received = signum
        if not self._deferred:
            raise Interrupted(signum)


@contextmanager
def guarded_signals() -> Iterator[SignalGuard]:
    """Handle signals by a `SignalGuard` inside the block, as before after it."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    guard = SignalGuard()
    guard.install()
    try:
        yield guard
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
