"""Where runs are kept: tracking URIs, and who owns a run that is being written."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from cmkd.errors import InputError

SECRET = re.compile(
    r"((?:password|passwd|pwd|token|secret)(?:=|%3D))(?:(?!%3B)[^&;\s'\"])+", re.IGNORECASE
)
"""A secret of a query string, also of an ODBC string inside one."""

LOGIN = re.compile(r"((?:postgresql|mysql|mssql)(?:\+\w+)?)://\S+@|://[^/\s]+@")
"""User and password; those of a database may hold a slash, which ends a server's."""

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")


def default_uri() -> str:
    """``$MLFLOW_TRACKING_URI``, else the SQLite file where a bare ``mlflow ui`` looks."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def redact(text: str) -> str:
    """`text` with the user and password of every URL in it hidden, and secrets in its query."""
    return SECRET.sub(r"\1***", LOGIN.sub(r"\1://***@", text))


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI, absolute; None for any other store."""
    found = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", uri)
    return Path(found.group(1)).absolute() if found else None


def store_exists(uri: str | None = None) -> bool:
    """Whether there is anything to read; a server is taken to exist."""
    path = sqlite_file(uri or default_uri())
    return path is None or path.is_file()


def checked_uri(uri: str) -> str:
    """`uri` with the file of a SQLite store made absolute, and the driver of PostgreSQL named.

    Raises:
        InputError: not a kind of store that is supported, or a folder that cannot be written.
    """
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    path = sqlite_file(uri)
    if scheme not in SCHEMES or (scheme == "sqlite" and path is None):
        raise InputError(
            f"tracking URI {redact(uri)!r} is not supported; give sqlite:///FILE, "
            "postgresql://USER@HOST/DATABASE or another database URL, or http(s)://HOST:PORT of "
            "an MLflow server"
        )
    if path is None:
        # Which driver a bare one means depends on the version of SQLAlchemy.
        return re.sub("^postgresql://", "postgresql+psycopg://", uri)
    if not path.parent.is_dir():
        raise InputError(
            f"{path.parent}: no such folder for the tracking store {path.name}; create it"
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written; choose another place with --tracking-uri")
    return f"sqlite:///{path}"


def owner() -> str:
    """This process, as the ``owner`` tag of the runs that it writes: ``host:pid-start``."""
    return f"{socket.gethostname()}:{os.getpid()}{_start(os.getpid())}"


def _start(pid: int) -> str:
    """``-TICKS`` from the start of the machine to that of the process, where Linux tells it.

    The number of a process is given to another one some day, in containers soon.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = line.rpartition(")")[2].split()
    # A killed process whose parent has not asked for it is still listed.
    return "-ended" if fields[0] in "ZX" else f"-{fields[19]}"


def is_here(tag: str) -> bool:
    """Whether the process of an ``owner`` tag is, or was, one of this host."""
    return tag.rpartition(":")[0] == socket.gethostname()


def named(tag: str) -> str:
    """``process 12 on host here``."""
    host, _, process = tag.rpartition(":")
    return f"process {process.partition('-')[0]} on host {host}"


def owner_is_gone(tag: str) -> bool:
    """Whether `tag` names a process of this host that no longer runs.

    To be asked before this process opens runs: its own number then is that of a dead one.
    """
    pid, _, start = tag.rpartition(":")[2].partition("-")
    if not is_here(tag) or not pid.isdecimal():
        return False
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return bool(start) and _start(int(pid)) not in ("", f"-{start}")
