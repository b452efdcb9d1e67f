"""Runs in MLflow: the only door to `mlflow`. One process writes; a run is found by its trial id."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from filelock import FileLock

from cmkd.errors import CmkdError, InfrastructureError, InputError
from cmkd.tracking.location import (
    checked_uri,
    default_uri,
    owner,
    owner_is_gone,
    redact,
    sqlite_file,
)
from cmkd.tracking.records import (
    EpochRecord,
    History,
    RunIdentity,
    RunRecord,
    RunStatus,
    RunStore,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

P = ParamSpec("P")
T = TypeVar("T")

BUSY_SECONDS = 60.0
FAILURE_TAGS = frozenset({"failure", "failure_epoch", "failure_trace"})
ORIGIN_TAGS = frozenset({"git_commit", "sweep", "arm", "arms"})
"""They say who made a run; a sweep that shares it leaves them as they are."""
REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"})
"""MLflow's codes of what fails however often it is tried."""
MAX_METRICS, MAX_TEXTS, PAGE = 1000, 100, 1000
"""Limits of one MLflow request."""


def open_store(uri: str | None = None) -> MlflowStore:
    """Open a store, creating its tables first when it is a new SQLite file.

    Args:
        uri: SQLite, PostgreSQL, MySQL or SQL Server URL, or that of an MLflow server;
            `default_uri` when None.

    Raises:
        InputError: the URI is of no such kind, its folder cannot be written, or what lies there
            is no store of this version of MLflow.
        InfrastructureError: the store does not answer.
    """
    uri = checked_uri(uri or default_uri())
    path = sqlite_file(uri)
    if path is None:
        return MlflowStore(uri)
    # Two processes that create the tables of one file at once leave it half made.
    with FileLock(path.with_name(f"{path.name}.lock")):
        return MlflowStore(uri)


class MlflowStore(RunStore):
    """A `RunStore` in MLflow; made by `open_store`.

    Every method retries a busy database for up to a minute and raises InfrastructureError when
    the store does not answer, InputError when it refuses.
    """

    def __init__(self, uri: str) -> None:
        _quieten()
        from mlflow import MlflowClient

        self.uri = uri
        # Absolute, and never ./mlruns, which MLflow would take for its own default store.
        artifacts = (Path.cwd() / "mlartifacts").as_uri()
        self._artifacts = None if uri.startswith("http") else artifacts
        self._written: dict[str, set[tuple[str, int]]] = {}
        try:
            self._client = self._call(MlflowClient, tracking_uri=uri)
            self._experiments()
        except ModuleNotFoundError as error:
            raise InputError(
                f"tracking URI {redact(uri)!r} needs the package {error.name!r}; install it"
            ) from None

    def find(self, tags: Mapping[str, str]) -> Sequence[RunRecord]:
        """All runs, of any experiment, whose tags include `tags`; oldest first."""
        # What MLflow's filter language cannot quote safely is compared here alone.
        plain = {k: v for k, v in tags.items() if re.fullmatch(r"[\w.:/@ +-]+", v)}
        runs = self._search(" and ".join(f"tags.`{k}` = '{v}'" for k, v in plain.items()))
        records = (_record(run) for run in runs)
        return [one for one in records if tags.items() <= dict(one.tags).items()]

    def open(self, identity: RunIdentity, artifacts: Mapping[str, str]) -> str:
        """Create the trial's run or reopen it, never a second one; returns its run id.

        Its history stays, and so do the tags of who made it; the marks of an earlier failure go.
        A FINISHED run is left as it is. `artifacts` maps names to texts.
        """
        known = self.find({"trial_id": identity.trial_id})
        if known and known[0].status == "FINISHED":
            return known[0].run_id
        run_id = self._reopen(known[0]) if known else self._create(identity)
        params, tags = dict(identity.params), {**identity.tags, "owner": owner()}
        if known:
            kept = ORIGIN_TAGS | ({"owner"} if _is_held(known[0].tags) else set())
            params = _without(params, known[0].params.keys())
            tags = _without(tags, kept & known[0].tags.keys())
        self._log_texts(run_id, params, tags)
        for name, text in artifacts.items():
            self._call(self._client.log_text, run_id, text, name)
        return run_id

    def log(self, run_id: str, epochs: Iterable[EpochRecord]) -> None:
        """Write metrics; a (step, name) that is already there is left as it is."""
        from mlflow.entities import Metric

        written = self._steps_written(run_id)
        batch = [
            Metric(name, value, epoch.timestamp_ms, epoch.step)
            for epoch in epochs
            for name, value in epoch.metrics.items()
            if (name, epoch.step) not in written
        ]
        # What a failed call has written is not known; the next one asks the store.
        del self._written[run_id]
        for part in _chunks(batch, MAX_METRICS):
            self._call(self._client.log_batch, run_id, metrics=part)
            written.update((metric.key, metric.step) for metric in part)
        self._written[run_id] = written

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
        """End the run with final metrics (step 0), tags and files.

        The status is written last, so a FINISHED run is a complete one, and one that is FINISHED
        stays so. A run that another living process writes is not KILLED.

        Args:
            timestamp_ms: time of the summary; now when None.

        Raises:
            InputError: also where one of `files` is not there.
        """
        now = _record(self._call(self._client.get_run, run_id))
        if status != "FINISHED" and now.status == "FINISHED":
            return
        if status == "KILLED" and _is_held(now.tags):
            return
        for path in files:
            if not path.is_file():
                raise InputError(
                    f"{path}: gone before it was kept with run {run_id}; remove the folder "
                    f"{path.parent} and what it is of is trained again"
                )
            self._call(self._client.log_artifact, run_id, str(path))
        if summary:
            moment = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
            self.log(run_id, [EpochRecord(0, moment, summary)])
        self._log_texts(run_id, {}, tags or {})
        self._release(now, status)

    def close_orphans(self) -> int:
        """Mark as KILLED the RUNNING runs of dead processes of this host; returns how many.

        To be called before this process opens its first run.
        """
        running = [_record(run) for run in self._search("attributes.status = 'RUNNING'")]
        orphans = [run for run in running if owner_is_gone(run.tags.get("owner", ""))]
        for run in orphans:
            self._release(run, "KILLED")
        return len(orphans)

    def read_text(self, run_id: str, name: str) -> str:
        """The text of one artifact; InfrastructureError also where it was lost."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = self._call(self._client.download_artifacts, run_id, name, folder)
            except InputError as lost:
                raise InfrastructureError(str(lost)) from lost
            return Path(path).read_text(encoding="utf-8")

    def histories(self, run_ids: Sequence[str], name: str) -> Mapping[str, History]:
        """All logged values of the metric `name`, by run; runs that have none are left out."""
        found: dict[str, History] = {}
        for run_id in run_ids:
            logged = self._call(self._client.get_metric_history, run_id, name)
            if logged:
                ordered = sorted(logged, key=lambda one: (one.step, one.timestamp))
                found[run_id] = {one.step: one.value for one in ordered}
        return found

    def _create(self, identity: RunIdentity) -> str:
        experiment = self._experiment(identity.experiment)
        # The tag comes with the creation: killed between the two, the run would be lost.
        tags = {"trial_id": identity.trial_id, "owner": owner()}
        run = self._call(self._client.create_run, experiment, tags=tags, run_name=identity.name)
        run_id = str(run.info.run_id)
        self._written[run_id] = set()
        return run_id

    def _reopen(self, run: RunRecord) -> str:
        self._call(self._client.update_run, run.run_id, status="RUNNING")
        for tag in FAILURE_TAGS & run.tags.keys():
            self._call(self._client.delete_tag, run.run_id, tag)
        return run.run_id

    def _release(self, run: RunRecord, status: RunStatus) -> None:
        if "owner" in run.tags:
            self._call(self._client.delete_tag, run.run_id, "owner")
        self._call(self._client.set_terminated, run.run_id, status)

    def _log_texts(self, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        for some in _chunks([Param(key, value) for key, value in params.items()], MAX_TEXTS):
            self._call(self._client.log_batch, run_id, params=some)
        for more in _chunks([RunTag(key, value) for key, value in tags.items()], MAX_TEXTS):
            self._call(self._client.log_batch, run_id, tags=more)

    def _steps_written(self, run_id: str) -> set[tuple[str, int]]:
        if run_id not in self._written:
            names = self._call(self._client.get_run, run_id).data.metrics
            histories = [
                self._call(self._client.get_metric_history, run_id, name) for name in names
            ]
            self._written[run_id] = {(one.key, one.step) for many in histories for one in many}
        return self._written[run_id]

    def _experiment(self, name: str) -> str:
        found = self._call(self._client.get_experiment_by_name, name)
        if found is None:
            return self._call(self._client.create_experiment, name, self._artifacts)
        if found.lifecycle_stage != "active":
            raise InputError(
                f"experiment {name!r} was deleted in {redact(self.uri)}; bring it back with "
                f"`mlflow experiments restore -x {found.experiment_id}` or empty the bin with "
                "`mlflow gc`"
            )
        return str(found.experiment_id)

    def _experiments(self) -> list[str]:
        pages = self._pages(self._client.search_experiments)
        return [str(one.experiment_id) for one in pages]

    def _search(self, condition: str) -> Iterator[Run]:
        return self._pages(
            self._client.search_runs,
            experiment_ids=self._experiments(),
            filter_string=condition,
            order_by=["attributes.start_time ASC"],
        )

    def _pages(self, fetch: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
        token: str | None = None
        while True:
            page = self._call(fetch, max_results=PAGE, page_token=token, **arguments)
            yield from page
            token = page.token
            if not token:
                return

    def _call(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        deadline, pause = time.monotonic() + BUSY_SECONDS, 0.05
        while True:
            try:
                return action(*args, **kwargs)
            except (MlflowException, SQLAlchemyError, OSError) as error:
                if "is locked" not in str(error) or time.monotonic() + pause > deadline:
                    raise _refusal(self.uri, error) from error
            time.sleep(pause)
            pause = min(2 * pause, 2.0)


def _quieten() -> None:
    """No telemetry, no migration log, and a dead server noticed in seconds; read at import."""
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


def _refusal(uri: str, error: Exception) -> CmkdError:
    """What an error of the store at `uri` means to the user."""
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
    reason = redact(text).strip().splitlines()[0][:300]
    kind = InputError if getattr(error, "error_code", "") in REFUSALS else InfrastructureError
    return kind(f"tracking store {where}: {reason}")


def _is_held(tags: Mapping[str, str]) -> bool:
    """Whether another process, as far as one can tell a living one, writes the run."""
    tag = tags.get("owner", "")
    return tag not in ("", owner()) and not owner_is_gone(tag)


def _without(texts: Mapping[str, str], keys: Collection[str]) -> dict[str, str]:
    return {key: value for key, value in texts.items() if key not in keys}


def _record(run: Run) -> RunRecord:
    tags = dict(run.data.tags)
    return RunRecord(
        run_id=str(run.info.run_id),
        trial_id=tags.get("trial_id", ""),
        status=cast(RunStatus, run.info.status),
        tags=tags,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
    )


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
