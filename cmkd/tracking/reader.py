"""Reader of runs, with fast reads of SQLite stores.

MLflow takes seconds to start and tens of milliseconds per artifact. A SQLite store with the
expected tables is read directly; any other store is read by MLflow.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from cmkd.errors import InfrastructureError, InputError
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.store import History, RunRecord, default_uri, sqlite_file
from cmkd.tracking.store import RunReader as RunReader

BUSY_SECONDS = 60.0
COLUMNS = {
    "experiments": "experiment_id, lifecycle_stage",
    "runs": "run_uuid, experiment_id, status, lifecycle_stage, start_time, artifact_uri",
    "tags": "run_uuid, key, value",
    "params": "run_uuid, key, value",
    "latest_metrics": "run_uuid, key, value, is_nan",
    "metrics": "run_uuid, key, step, timestamp, value, is_nan",
}
"""Columns of MLflow's tables that are read."""
VERSIONS = "alembic_version"
"""Table of all MLflow databases."""


def open_reader(uri: str | None = None) -> RunReader:
    """The runs at `uri`, at `default_uri` when None.

    Raises:
        InputError: the file is a database of something else, in which MLflow would make tables of
            its own; beside what `open_store` refuses.
        InfrastructureError: the store does not answer.
    """
    uri = uri or default_uri()
    path = sqlite_file(uri)
    reader = _open_file(path, uri) if path is not None and path.is_file() else None
    return reader or open_store(uri)


def _open_file(path: Path, uri: str) -> SqliteReader | None:
    """Reader of the file; None for unexpected tables, which MLflow explains."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    try:
        for table, columns in COLUMNS.items():
            connection.execute(f"SELECT {columns} FROM {table} LIMIT 0")
        return SqliteReader(connection, uri)
    except sqlite3.Error:
        with closing(connection), suppress(sqlite3.Error):
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            if tables and VERSIONS not in tables:
                raise InputError(
                    f"{path} is a database, but no store of MLflow: it has the tables "
                    f"{', '.join(sorted(tables)[:5])}; choose another with --tracking-uri"
                ) from None
    return None


class SqliteReader:
    """Read-only runs of a SQLite store; made by `open_reader`."""

    def __init__(self, connection: sqlite3.Connection, uri: str) -> None:
        self._connection = connection
        self._uri = uri
        # Artifact folders of the runs found so far.
        self._places: dict[str, str] = {}
        self._read: set[Path] | None = set()

    @property
    def files(self) -> frozenset[Path] | None:
        """Files that the answers came from, also those that were absent; None after a download."""
        path = sqlite_file(self._uri)
        if path is None or self._read is None:
            return None
        # Without a checkpoint, pages of the database are in its log.
        logs = (path.with_name(f"{path.name}-{kind}") for kind in ("wal", "journal"))
        return frozenset({path, *logs, *self._read})

    def find(self, tags: Mapping[str, str]) -> Sequence[RunRecord]:
        """All runs, of any experiment, whose tags include `tags`; without their parameters."""
        having = "".join(
            " AND r.run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
            for _ in tags
        )
        chosen = (
            "SELECT r.run_uuid FROM runs r JOIN experiments e USING (experiment_id) "
            f"WHERE r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active'{having}"
        )
        values = [part for pair in tags.items() for part in pair]
        found = self._rows(
            "SELECT run_uuid, status, experiment_id, artifact_uri FROM runs "
            f"WHERE run_uuid IN ({chosen}) ORDER BY start_time, run_uuid",
            values,
        )
        self._places |= {run_id: place for run_id, _, _, place in found}
        of_runs = f"WHERE run_uuid IN ({chosen})"
        tags_of = self._by_run(f"SELECT run_uuid, key, value, 0 FROM tags {of_runs}", values)
        metrics_of = self._by_run(
            f"SELECT run_uuid, key, value, is_nan FROM latest_metrics {of_runs}", values
        )
        return [
            RunRecord(
                run_id=run_id,
                trial_id=tags_of[run_id].get("trial_id", ""),
                status=status,
                tags=tags_of[run_id],
                params={},
                metrics=metrics_of[run_id],
                experiment_id=str(experiment_id),
            )
            for run_id, status, experiment_id, _ in found
        ]

    def has_open_runs(self) -> bool:
        """True if the store has RUNNING runs, of living processes or of dead ones."""
        return bool(self._rows("SELECT 1 FROM runs WHERE status = 'RUNNING' LIMIT 1", ()))

    def read_text(self, run_id: str, name: str) -> str:
        """The text of one artifact; those in a folder are read there, others through MLflow."""
        if run_id not in self._places:
            query = "SELECT run_uuid, artifact_uri FROM runs WHERE run_uuid = ?"
            self._places |= dict(self._rows(query, [run_id]))
        place = urlsplit(self._places[run_id]) if run_id in self._places else None
        if place is None or place.scheme not in ("", "file"):
            self._read = None
            return open_store(self._uri).read_text(run_id, name)
        path = Path(unquote(place.path), name)
        if self._read is not None:
            self._read.add(path)
        try:
            return path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise InfrastructureError(f"{path}: {reason}") from error

    def histories(self, run_ids: Sequence[str], name: str) -> Mapping[str, History]:
        """All logged values of the metric `name`, by run; runs that have none are left out."""
        # Ids as one JSON value: SQLite limits the number of parameters.
        query = (
            "SELECT run_uuid, step, value, is_nan FROM metrics "
            "WHERE run_uuid IN (SELECT value FROM json_each(?)) AND key = ? "
            "ORDER BY step, timestamp"
        )
        return dict(self._by_run(query, [json.dumps(list(run_ids)), name]))

    def params(self, run_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """Parameters by run."""
        query = (
            "SELECT run_uuid, key, value, 0 FROM params "
            "WHERE run_uuid IN (SELECT value FROM json_each(?))"
        )
        found = self._by_run(query, [json.dumps(list(run_ids))])
        return {run_id: found[run_id] for run_id in run_ids}

    def metric_arrays(
        self, run_ids: Sequence[str], names: Sequence[str] | None = None
    ) -> Mapping[str, np.ndarray]:
        """By metric, Float "K 3": index in `run_ids`, step and value of all that was logged.

        Of several values of one step the later ones stand behind.

        Args:
            names: of metrics; None: all.
        """
        place = {run_id: number for number, run_id in enumerate(run_ids)}
        known = self._rows("SELECT rowid, run_uuid FROM runs ORDER BY rowid", [])
        if not place or not known:
            return {}
        rowids = np.array([rowid for rowid, _ in known])
        index = np.array([place.get(run_id, -1) for _, run_id in known])
        # Row numbers instead of ids: 0.4 s, not 2, for 275,000 values.
        query = (
            "SELECT r.rowid, m.step, m.value, m.is_nan FROM metrics m CROSS JOIN runs r "
            "WHERE r.run_uuid = m.run_uuid AND m.key = ? ORDER BY m.timestamp"
        )
        found: dict[str, np.ndarray] = {}
        if names is None:
            keys = self._rows("SELECT DISTINCT key FROM metrics ORDER BY key", [])
            names = [name for (name,) in keys]
        for name in names:
            rows: np.ndarray = np.fromiter(self._cursor(query, [name]), np.dtype((float, 4)))
            rows[rows[:, 3] != 0, 2] = np.nan
            rows[:, 0] = index[np.searchsorted(rowids, rows[:, 0])]
            own = rows[rows[:, 0] >= 0, :3]
            if len(own):
                found[name] = own
        return found

    def _by_run(self, query: str, values: Iterable[str]) -> dict[str, dict[Any, Any]]:
        """Values by key and run, of a query for run id, key, value and whether it is NaN."""
        found: dict[str, dict[Any, Any]] = defaultdict(dict)
        for run_id, key, value, is_nan in self._rows(query, values):
            found[run_id][key] = math.nan if is_nan else value
        return found

    def _rows(self, query: str, values: Iterable[str]) -> list[Any]:
        return list(self._cursor(query, values))

    def _cursor(self, query: str, values: Iterable[str]) -> Iterator[Any]:
        try:
            yield from self._connection.execute(query, tuple(values))
        except sqlite3.Error as error:
            raise InfrastructureError(f"{sqlite_file(self._uri)}: {error}") from error
