"""Runs read from MLflow, whatever it keeps them in."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cmkd.errors import InfrastructureError, InputError
from cmkd.tracking.location import redact, sqlite_file
from cmkd.tracking.mlflow_calls import Calls, making_tables, quieten
from cmkd.tracking.records import History, RunRecord, RunStatus

if TYPE_CHECKING:
    from mlflow.entities import Run


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

    def _experiments(self) -> dict[str, str]:
        """Ids of the active experiments by name."""
        pages = self._call.pages(self._client.search_experiments)
        return {str(one.name): str(one.experiment_id) for one in pages}

    def _find(self, tags: Mapping[str, str], experiments: Iterable[str]) -> list[RunRecord]:
        # What MLflow's filter language cannot quote safely is compared here alone.
        plain = {k: v for k, v in tags.items() if re.fullmatch(r"[\w.:/@ +-]+", v)}
        condition = " and ".join(f"tags.`{k}` = '{v}'" for k, v in plain.items())
        records = (record_of(run) for run in self._search(condition, experiments))
        return [one for one in records if tags.items() <= dict(one.tags).items()]

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
