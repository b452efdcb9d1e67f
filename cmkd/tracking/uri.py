"""Tracking URIs: default, validation, redaction."""

from __future__ import annotations

import os
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from cmkd.errors import InputError

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
