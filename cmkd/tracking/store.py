"""What a run is, independent of where runs are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

History = Mapping[int, float]
"""Values of one metric by step, in ascending order."""


@dataclass(frozen=True)
class EpochRecord:
    """Metrics of one epoch. The time is kept with them, so writing them twice changes nothing."""

    step: int
    timestamp_ms: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class RunIdentity:
    """What names a run: its trial id, the experiment it is shown under, and its tags.

    Attributes:
        about: what the experiment is of, for who looks at it.
    """

    trial_id: str
    experiment: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    about: str = ""


@dataclass(frozen=True)
class RunRecord:
    """A run as read back."""

    run_id: str
    trial_id: str
    status: RunStatus
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    experiment_id: str = ""


class RunStore(Protocol):
    """Runs found by trial id. One process writes; any number may read."""

    def find(self, tags: Mapping[str, str]) -> Sequence[RunRecord]:
        """All runs whose tags include `tags`."""

    def open(self, identity: RunIdentity, artifacts: Mapping[str, str]) -> str:
        """Create the trial's run or reopen it, never a second one; returns its run id.

        This and the writes below raise InputError for what trying again does not mend.
        """

    def log(self, run_id: str, epochs: Iterable[EpochRecord]) -> None:
        """Write metrics; records that are already there change nothing."""

    def close(
        self,
        run_id: str,
        status: RunStatus,
        *,
        summary: Mapping[str, float] | None = None,
        timestamp_ms: int | None = None,
        tags: Mapping[str, str] | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        """End the run with final metrics, tags and artifact files.

        Give the time of the last epoch with the summary: closing twice then changes nothing.
        """

    def read_text(self, run_id: str, name: str) -> str:
        """The text of one artifact."""
