"""Calls of MLflow: retries, timeouts, errors as messages."""

from __future__ import annotations

import getpass
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast
from urllib.parse import unquote, urlsplit

from cmkd.errors import CmkdError, InfrastructureError, InputError
from cmkd.io import sync, writing
from cmkd.tracking.store import History, RunIdentity, RunRecord, RunStatus, redact, sqlite_file

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run


P = ParamSpec("P")
T = TypeVar("T")

BUSY_SECONDS = 60.0
REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"})
"""MLflow's codes of what fails however often it is tried."""
TABLES_LOCK = 7209
"""Number of the lock in PostgreSQL; any, but the same in all processes."""
PAGE = 100
"""Entries of one answer: 500 runs took a server on a busy machine longer than the time limit below.
"""

COLUMNS = [f"metrics.`{name}`" for name in ("test_acc", "best_val_acc", "selected_epoch")]
COLUMNS += [f"tags.`{name}`" for name in ("arm", "fold", "seed")]
"""Columns of MLflow's table of runs."""

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Every error reaches the user in a line of ours; MLflow would log its traceback as well.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    # Whoever calls tries again, after a look at what the first attempt has done.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Each line about a run that has ended costs two requests.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PGCONNECT_TIMEOUT": "5",
}
"""No telemetry, no migration log, and a dead server noticed in seconds; read at import."""


def quieten() -> None:
    """Set `DEFAULTS` where the user has set nothing; to be called before MLflow is imported."""
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)


class Calls:
    """Calls of the store at `uri`: ``calls(action, ...)`` is ``action(...)``.

    A database that is locked is tried for up to `BUSY_SECONDS`.

    Raises:
        InfrastructureError: the store does not answer.
        InputError: it refuses, and would again.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._file = sqlite_file(uri)
        self._inode: int | None = None

    def _require_same_file(self) -> None:
        """Connections that are open would go on writing a file that nobody finds any more."""
        if self._file is None:
            return
        inode = self._file.stat().st_ino if self._file.exists() else None
        if self._inode is not None and inode != self._inode:
            what = "removed" if inode is None else "replaced"
            raise InfrastructureError(
                f"tracking store {self._file}: the file was {what} while it was in use; run it "
                "again, and what the cache has of this sweep is recorded in the file that is there"
            )
        self._inode = inode

    def __call__(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        self._require_same_file()
        deadline, pause = time.monotonic() + BUSY_SECONDS, 0.05
        while True:
            try:
                return action(*args, **kwargs)
            except (MlflowException, SQLAlchemyError, OSError) as error:
                if "is locked" not in str(error) or time.monotonic() + pause > deadline:
                    raise refusal(self._uri, error) from error
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def pages(self, fetch: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
        """All entries that `fetch` gives page by page."""
        token: str | None = None
        while True:
            page = self(fetch, max_results=PAGE, page_token=token, **arguments)
            yield from page
            token = page.token
            if not token:
                return


@contextmanager
def making_tables(uri: str) -> Iterator[None]:
    """Find a database server there, and be alone in making MLflow's tables during this block.

    MLflow by itself would ask a dead one for two minutes, and of two processes that make the
    tables at once one fails. The lock is PostgreSQL's; other servers are asked alone.

    Raises:
        InfrastructureError: it does not answer, does not let this user in, or another process
            makes tables for longer than `BUSY_SECONDS`.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    with ExitStack() as held:
        try:
            connection = held.enter_context(create_engine(uri, poolclass=NullPool).connect())
            if connection.dialect.name == "postgresql":
                # Held to the end of the transaction, which is that of the connection.
                connection.execute(text(f"set local lock_timeout = '{BUSY_SECONDS:.0f}s'"))
                connection.execute(text(f"select pg_advisory_xact_lock({TABLES_LOCK})"))
        except SQLAlchemyError as error:
            raise refusal(uri, error) from error
        yield


def refusal(uri: str, error: Exception) -> CmkdError:
    """Error of the store at `uri` as a message for the user."""
    text, where = str(error), redact(uri)
    if "out-of-date database schema" in text:
        return InputError(
            f"tracking store {where} was made by another version of MLflow; take a backup, then "
            f"run `mlflow db upgrade {where}`"
        )
    if "file is not a database" in text:
        return InputError(
            f"{sqlite_file(uri)} is not a SQLite database; choose another with --tracking-uri"
        )
    lines = redact(text).strip().splitlines()
    # SQLAlchemy's hint to programmers comes before what happened.
    reason = next((line for line in lines if not line.startswith("(raised as a result of")), "")
    kind = InputError if getattr(error, "error_code", "") in REFUSALS else InfrastructureError
    return kind(f"tracking store {where}: {reason[:300]}")


class MlflowRuns:
    """The runs of the store at `uri`; errors as those of `MlflowStore`."""

    def __init__(self, uri: str) -> None:
        quieten()
        from mlflow import MlflowClient

        self.uri = uri
        self._call = Calls(uri)
        try:
            # A SQLite file is locked by who opens it, and a server makes its tables by itself.
            alone = uri.startswith("http") or sqlite_file(uri) is not None
            with nullcontext() if alone else making_tables(uri):
                self._client = self._call(MlflowClient, tracking_uri=uri)
                self._experiments()
        except ModuleNotFoundError as error:
            raise InputError(
                f"tracking URI {redact(uri)!r} needs the package {error.name!r}; install it"
            ) from None

    def find(self, tags: Mapping[str, str]) -> Sequence[RunRecord]:
        """All runs, of any experiment, whose tags include `tags`; oldest first."""
        return self._find(tags, self._experiments().values())

    def read_text(self, run_id: str, name: str) -> str:
        """The text of one artifact; InfrastructureError also where it was lost."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = self._call(self._client.download_artifacts, run_id, name, folder)
            except InputError as lost:
                raise InfrastructureError(str(lost)) from lost
            return Path(path).read_bytes().decode()

    def histories(self, run_ids: Sequence[str], name: str) -> Mapping[str, History]:
        """All logged values of the metric `name`, by run; runs that have none are left out."""
        found: dict[str, History] = {}
        for run_id in run_ids:
            logged = self._call(self._client.get_metric_history, run_id, name)
            if logged:
                ordered = sorted(logged, key=lambda entry: (entry.step, entry.timestamp))
                found[run_id] = {entry.step: entry.value for entry in ordered}
        return found

    def _logged(self, run_id: str) -> list[tuple[str, int, float]]:
        """(metric, step, value) of all that the store has of a run."""
        names = self._call(self._client.get_run, run_id).data.metrics
        histories = [self._call(self._client.get_metric_history, run_id, name) for name in names]
        return [(one.key, one.step, one.value) for many in histories for one in many]

    def _keep_files(self, run_id: str, paths: Sequence[Path]) -> None:
        """Copy files to a run; on this machine's disk they are synced, which MLflow leaves out."""
        for path in paths:
            self._call(self._client.log_artifact, run_id, str(path))
        if not paths or self.uri.startswith("http"):
            return
        place = urlsplit(self._call(self._client.get_run, run_id).info.artifact_uri)
        if place.scheme == "file":
            folder = Path(unquote(place.path))
            with writing(folder):
                for path in (*folder.iterdir(), folder, *folder.parents[:3]):
                    sync(path)

    def _experiments(self) -> dict[str, str]:
        """Ids of the active experiments by name."""
        pages = self._call.pages(self._client.search_experiments)
        return {str(entry.name): str(entry.experiment_id) for entry in pages}

    def _find(self, tags: Mapping[str, str], experiments: Iterable[str]) -> list[RunRecord]:
        # MLflow's filter language cannot quote all values safely.
        plain = {k: v for k, v in tags.items() if re.fullmatch(r"[\w.:/@ +-]+", v)}
        condition = " and ".join(f"tags.`{k}` = '{v}'" for k, v in plain.items())
        records = (record_of(run) for run in self._search(condition, experiments))
        return [entry for entry in records if tags.items() <= dict(entry.tags).items()]

    def _search(self, condition: str, experiments: Iterable[str]) -> Iterator[Run]:
        return self._call.pages(
            self._client.search_runs,
            experiment_ids=list(experiments),
            filter_string=condition,
            order_by=["attributes.start_time ASC"],
        )


def record_of(run: Run) -> RunRecord:
    """A run of MLflow as a record."""
    tags = dict(run.data.tags)
    return RunRecord(
        run_id=str(run.info.run_id),
        trial_id=tags.get("trial_id", ""),
        status=cast(RunStatus, run.info.status),
        tags=tags,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        experiment_id=str(run.info.experiment_id),
    )


def as_kept(value: float) -> float | None:
    """A value as databases of MLflow keep it, which know no infinity; None for NaN."""
    return None if math.isnan(value) else max(-sys.float_info.max, min(value, sys.float_info.max))


def share_view(uri: str, experiment: str) -> str | None:
    """Key of a view of an experiment with `COLUMNS`, kept as "Share" in MLflow's pages does.

    None if the store cannot be written.
    """
    quieten()
    from mlflow import MlflowClient

    key, view = "cmkd", json.dumps({"selectedColumns": COLUMNS})
    tag = f"mlflow.sharedViewState.{key}"
    with suppress(CmkdError):
        Calls(uri)(lambda: MlflowClient(uri).set_experiment_tag(experiment, tag, view))
        return key
    return None


def page_tags(identity: RunIdentity) -> dict[str, str]:
    """User, source and commit of a run where MLflow's pages look for them."""
    tags = {"mlflow.source.type": "JOB"}
    with suppress(OSError, KeyError):  # A container may run as a number without a name.
        tags["mlflow.user"] = getpass.getuser()
    if sweep := identity.tags.get("sweep"):
        tags["mlflow.source.name"] = f"cmkd sweep {sweep}"
    if commit := identity.tags.get("git_commit"):
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
    return tags


def data_inputs(identity: RunIdentity) -> list[DatasetInput]:
    """The data set of a run for MLflow's pages; its digest is the data_id."""
    from mlflow.entities import Dataset, DatasetInput

    data = identity.tags.get("data")
    if data is None:
        return []
    return [DatasetInput(Dataset(data, identity.tags["data_id"], source_type="cmkd", source=data))]
