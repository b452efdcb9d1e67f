"""Runs, and the protocol of a tracking store: the interface that a tracker implements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

History = Mapping[int, float]
"""Values of one metric by step, in ascending order."""


@dataclass(frozen=True)
class EpochRecord:
    """Metrics of one epoch with their time, so that writes are idempotent."""

    step: int
    timestamp_ms: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class RunIdentity:
    """Identity of a run: trial id, experiment, tags and parameters.

    Attributes:
        about: description of the experiment.
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


@dataclass(frozen=True)
class RunEnding:
    """Final records of a run.

    Attributes:
        history: all epochs of the run; missing ones are written.
        summary: final metrics, kept at step 0.
        timestamp_ms: time of the summary, so that ending is idempotent; None: now.
        files: artifacts.
    """

    status: RunStatus
    history: Sequence[EpochRecord] = ()
    summary: Mapping[str, float] = field(default_factory=dict)
    timestamp_ms: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[Path] = ()


class RunReader(Protocol):
    """Runs of a store, read only."""

    def find(self, tags: Mapping[str, str]) -> Sequence[RunRecord]:
        """All runs whose tags include `tags`, oldest first."""

    def read_text(self, run_id: str, name: str) -> str:
        """Text of an artifact; InfrastructureError if it is lost."""

    def histories(self, run_ids: Sequence[str], name: str) -> Mapping[str, History]:
        """Logged values of the metric `name` by run; runs without any are left out."""

    def params(self, run_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """Parameters by run."""
        wanted = set(run_ids)
        return {run.run_id: run.params for run in self.find({}) if run.run_id in wanted}

    def metric_arrays(self, run_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        """By metric, Float "K 3": index in `run_ids`, step and value of all that was logged."""
        import numpy as np

        wanted = set(run_ids)
        runs = [run for run in self.find({}) if run.run_id in wanted]
        found: dict[str, np.ndarray] = {}
        for name in sorted({name for run in runs for name in run.metrics}):
            logged = self.histories(run_ids, name)
            rows = [
                (index, step, value)
                for index, run_id in enumerate(run_ids)
                for step, value in logged.get(run_id, {}).items()
            ]
            found[name] = np.array(rows, float).reshape(-1, 3)
        return found


class RunStore(RunReader, Protocol):
    """Store of runs, one per trial id.

    Writes are idempotent. They raise InfrastructureError if the store does not answer and the
    caller may retry, InputError if a retry cannot help.
    """

    @property
    def writers(self) -> int:
        """Threads that may write at once."""

    def require_writable(self, experiment: str) -> None:
        """Raise InputError if artifacts of an experiment cannot be written."""

    def close_orphans(self) -> int:
        """Mark RUNNING runs of dead processes as KILLED; returns how many."""

    def open(self, identity: RunIdentity, artifacts: Mapping[str, str]) -> str:
        """Create or reopen the trial's only run; returns its run id.

        `artifacts` maps names to texts. A FINISHED run is left as it is.
        """

    def log(self, run_id: str, epochs: Iterable[EpochRecord]) -> None:
        """Write metrics; stored (step, name) pairs are kept."""

    def close(self, run_id: str, ending: RunEnding) -> None:
        """End the run; the status is written last."""

    def discard(self, run_id: str) -> None:
        """Remove an unfinished run."""
