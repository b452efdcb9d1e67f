"""Tracking stores: the protocol that a tracker implements, its records, and the URIs of stores."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from cmkd.errors import InputError

if TYPE_CHECKING:
    import numpy as np

SECRET = re.compile(
    r"((?:passphrase|password|passwd|pwd|token|secret|credentials?|signature|sig|"
    r"(?:api|access|account|private|secret)[-_]?key(?:[-_]?id)?)(?:=|%3D))"
    r"(?:'[^']*'|\"[^\"]*\"|(?:(?!%3B)[^&;\s'\"])+)",
    re.IGNORECASE,
)
"""A secret of a query string or a key=value string, also of an ODBC string inside one."""

LOGIN = re.compile(
    r"((?:postgresql|postgres|mysql|mssql)(?:\+\w+)?)://\S+@"
    r"|://[^/\s]+@|://[^\s@/:]+:(?!\d+/)[^\s@]*@"
)
"""User and password; the latter may hold a slash."""

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")
"""Kinds of stores that MLflow writes."""
TRACKERS = "cmkd.trackers"
"""Entry points of other trackers: name = scheme of the URI, object = ``URI -> RunStore``."""

MLFLOW_MODE = "workflowType=machine_learning"
"""Without it MLflow 3 opens its pages for language models, which show no runs."""

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

    def metric_arrays(
        self, run_ids: Sequence[str], names: Sequence[str] | None = None
    ) -> Mapping[str, np.ndarray]:
        """By metric, Float "K 3": index in `run_ids`, step and value of all that was logged.

        Args:
            names: of metrics; None: all.
        """
        import numpy as np

        if names is None:
            wanted = set(run_ids)
            runs = [run for run in self.find({}) if run.run_id in wanted]
            names = sorted({name for run in runs for name in run.metrics})
        found: dict[str, np.ndarray] = {}
        for name in names:
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


def is_timing(metric: str) -> bool:
    """True for a duration or a size in memory: it differs each time that a result is made."""
    return not {"seconds", "memory"}.isdisjoint(metric.split("_"))


def default_uri() -> str:
    """``$MLFLOW_TRACKING_URI``, else the SQLite file where a bare ``mlflow ui`` looks.

    Raises:
        InputError: that file cannot be named by a URI.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if not named and "?" in str(Path.cwd()):
        raise InputError(
            f"{Path.cwd()}: a SQLite URI cannot name a folder with a question mark; start in "
            "another folder, or give --tracking-uri"
        )
    return named or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def tracker_of(uri: str) -> EntryPoint | None:
    """The tracker of another package that is registered for the scheme of `uri`."""
    scheme = uri.partition("://")[0]
    if scheme.partition("+")[0] in SCHEMES:
        return None
    return next((point for point in entry_points(group=TRACKERS) if point.name == scheme), None)


def redact(text: str) -> str:
    """`text` with the user and password of every URL in it hidden, and secrets in its query."""
    return SECRET.sub(r"\1***", LOGIN.sub(r"\1://***@", text))


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI, absolute; None for any other store."""
    found = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", uri)
    return Path(found.group(1)).absolute() if found else None


def store_exists(uri: str | None = None) -> bool:
    """True if there is something to read; a server is taken to exist."""
    path = sqlite_file(uri or default_uri())
    return path is None or path.is_file()


def checked_uri(uri: str) -> str:
    """`uri` with the file of a SQLite store made absolute, and the driver of PostgreSQL named.

    Raises:
        InputError: not a kind of store that is supported, or a folder that cannot be written.
    """
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    path = sqlite_file(uri)
    query = uri.partition("?")[2]
    lost = scheme == "sqlite" and bool(query) and "=" not in query
    if scheme not in SCHEMES or (scheme == "sqlite" and path is None) or lost:
        raise InputError(
            f"tracking URI {redact(uri)!r} is not supported; give sqlite:///FILE, "
            "postgresql://USER@HOST/DATABASE or another database URL, or http(s)://HOST:PORT of "
            "an MLflow server"
        )
    if path is None:
        # The default driver depends on the version of SQLAlchemy.
        return re.sub("^postgresql://", "postgresql+psycopg://", uri)
    if not path.parent.is_dir():
        raise InputError(
            f"{path.parent}: no such folder for the tracking store {path.name}; create it"
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written; choose another place with --tracking-uri")
    return f"sqlite:///{path}"
