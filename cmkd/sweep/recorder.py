"""The one writer of a sweep: a thread that carries records to the tracking store in order.

The queue is the spool. While the store does not answer, records wait in it and training goes
on; they are tried again until the store is back or the sweep gives up at its end. Every write
is idempotent, so trying again never doubles anything. A run of which the store refuses a record
for good loses what follows of it, so that one bad record does not hold up all others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cmkd.errors import InfrastructureError, InputError
from cmkd.tracking.records import EpochRecord, RunIdentity, RunStatus, RunStore

RETRY_SECONDS = 5.0
LAST_ATTEMPTS = 3

Write = Callable[[], None]


class Recorder:
    """Records of running trials on their way to the store; methods return at once.

    Args:
        store: written from the recorder's thread alone, from `start` to `drain`.
        warn: told once when the store first fails, and once per run that it refuses.
    """

    def __init__(self, store: RunStore, warn: Callable[[str], None]) -> None:
        self._store = store
        self._warn = warn
        self._runs: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._open: set[str] = set()
        self._refused: set[str] = set()
        self._queue: deque[tuple[str, Write]] = deque()
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._attempts_left: int | None = None
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def open(self, identity: RunIdentity, artifacts: Mapping[str, str]) -> None:
        """Create or reopen the run of `identity`; a run that is open stays as it is."""
        if identity.trial_id in self._open:
            return
        self._open.add(identity.trial_id)
        self._names[identity.trial_id] = identity.name

        def write() -> None:
            self._runs[identity.trial_id] = self._store.open(identity, artifacts)

        self._put(identity.trial_id, write)

    def log(self, trial_id: str, epochs: Sequence[EpochRecord]) -> None:
        """Write the metrics of these epochs."""
        if epochs:
            self._put(trial_id, lambda: self._store.log(self._runs[trial_id], epochs))

    def close(
        self,
        trial_id: str,
        status: RunStatus,
        *,
        summary: Mapping[str, float] | None = None,
        timestamp_ms: int | None = None,
        tags: Mapping[str, str] | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        """End the run."""
        self._open.discard(trial_id)
        self._put(
            trial_id,
            lambda: self._store.close(
                self._runs[trial_id],
                status,
                summary=summary,
                timestamp_ms=timestamp_ms,
                tags=tags,
                files=files,
            ),
        )

    def drain(self, timeout: float | None = None) -> None:
        """Close what is still open as KILLED and wait until everything is written.

        Args:
            timeout: seconds to wait; None waits until the store has refused three more times.

        Raises:
            InfrastructureError: the store refused all, or some runs, which are named; what it
                lacks is on disk with the trials.
        """
        for trial_id in tuple(self._open):
            self.close(trial_id, "KILLED")
        with self._changed:
            self._attempts_left = LAST_ATTEMPTS
            self._changed.notify_all()
        self._thread.join(timeout)
        reasons: list[str] = []
        if self._queue or self._thread.is_alive():
            error = self._error or InfrastructureError(f"tracking store: no answer in {timeout} s")
            if not isinstance(error, InfrastructureError):
                raise error
            reasons.append(f"{error} ({len(self._queue)} records not written)")
        if self._refused:
            names = ", ".join(sorted(self._names[trial_id] for trial_id in self._refused))
            reasons.append(f"the tracking store refused records of {names}")
        if reasons:
            raise InfrastructureError("; ".join(reasons))

    def _put(self, trial_id: str, write: Write) -> None:
        with self._changed:
            if trial_id not in self._refused:
                self._queue.append((trial_id, write))
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    if self._attempts_left is not None:
                        return
                    self._changed.wait()
                trial_id, write = self._queue[0]
            try:
                write()
            except InputError as error:
                self._drop(trial_id, error)
                continue
            except Exception as error:
                if not self._go_on(error):
                    return
                continue
            with self._changed:
                self._error = None
                self._queue.popleft()

    def _drop(self, trial_id: str, error: InputError) -> None:
        """Give up the records of a run that the store refuses for good."""
        with self._changed:
            self._error = None
            self._refused.add(trial_id)
            self._queue = deque(entry for entry in self._queue if entry[0] != trial_id)
        self._warn(f"{error}; nothing more of {self._names[trial_id]!r} is recorded")

    def _go_on(self, error: Exception) -> bool:
        """After a refusal: wait for the next attempt; False when there is none left."""
        if self._error is None and self._attempts_left is None:
            self._warn(f"{error}; training goes on and the records follow when it is back")
        self._error = error
        with self._changed:
            if self._attempts_left is None:
                self._changed.wait_for(lambda: self._attempts_left is not None, RETRY_SECONDS)
                return True
            self._attempts_left -= 1
            left = self._attempts_left
        time.sleep(1.0 if left else 0.0)
        return left > 0
