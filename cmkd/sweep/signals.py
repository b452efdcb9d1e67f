"""SIGINT, SIGTERM and SIGHUP as one exception."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 2.0
"""A signal may arrive twice, from the sender and a parent; a later one means to leave at once."""


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
