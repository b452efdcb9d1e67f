"""Failures of trials: records that cross processes, and a digest of many."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cmkd.errors import CmkdError, InfrastructureError, InputError

TRACE_LINES = 12
SHOWN_NAMES = 4
OF_THE_DISK = ("InfrastructureError", "OSError")
OF_THE_INPUT = ("InputError", "DataError", "ConfigError")
OF_MEMORY = ("WorkerDied", "MemoryError", "OutOfMemoryError")
"""Kinds of failures that fewer trials at once may avoid."""
TRANSIENT = (*OF_MEMORY, *OF_THE_DISK, *OF_THE_INPUT)
"""Kinds of failures of the machine; the next call retries these trials."""
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|_ALLOC_FAILED")
UNTAUGHT = "TeacherFailed"
"""Kind of failure of a trial whose teacher failed."""


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
            "failure": self.cause[:4000],
            "failure_kind": self.origin or self.kind,
            "failure_epoch": str(self.epoch),
            "failure_trace": self.trace[-4000:],
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


def is_transient(kind: str) -> bool:
    """True if the machine, not the trial, causes failures of this kind."""
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
    return [_line(group) for group in sorted(groups.values(), key=len, reverse=True)]


def _line(group: Sequence[tuple[str, str]]) -> str:
    names = ", ".join(name for name, _ in group[:SHOWN_NAMES])
    more = f" and {len(group) - SHOWN_NAMES} more" if len(group) > SHOWN_NAMES else ""
    return f"{len(group)} x {group[0][1]} [{names}{more}]"
