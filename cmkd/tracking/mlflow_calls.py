"""Calls of MLflow: how long they wait, and what their errors mean to a user."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from cmkd.errors import CmkdError, InfrastructureError, InputError
from cmkd.tracking.location import redact, sqlite_file

P = ParamSpec("P")
T = TypeVar("T")

BUSY_SECONDS = 60.0
REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"})
"""MLflow's codes of what fails however often it is tried."""
PAGE = 500
"""Entries of one answer; a server sends so many runs in far less than the time limit below."""

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
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


def require_answer(uri: str) -> None:
    """Ask a database server whether it is there: MLflow by itself would ask for two minutes.

    Raises:
        InfrastructureError: it does not answer, or does not let this user in.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        with create_engine(uri, poolclass=NullPool).connect():
            pass
    except SQLAlchemyError as error:
        raise refusal(uri, error) from error


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
    reason = redact(text).strip().splitlines()[0][:300]
    kind = InputError if getattr(error, "error_code", "") in REFUSALS else InfrastructureError
    return kind(f"tracking store {where}: {reason}")
