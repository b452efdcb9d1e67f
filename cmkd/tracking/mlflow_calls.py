"""Calls of MLflow: how long they wait, and what their errors mean to a user."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

from cmkd.errors import CmkdError, InfrastructureError, InputError
from cmkd.tracking.location import redact, sqlite_file

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

    def __call__(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

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
    lines = redact(text).strip().splitlines()
    # SQLAlchemy's hint to programmers comes before what happened.
    reason = next((line for line in lines if not line.startswith("(raised as a result of")), "")
    kind = InputError if getattr(error, "error_code", "") in REFUSALS else InfrastructureError
    return kind(f"tracking store {where}: {reason[:300]}")
