"""``cmkd ui``: the MLflow user interface on the store that sweeps write to."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cmkd.errors import InputError
from cmkd.tracking.uri import checked_uri, default_uri, redact, store_exists


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    tracking_uri: Annotated[
        str | None, typer.Option(help="Store to show; default: that of `cmkd sweep`.")
    ] = None,
) -> None:
    """Open the MLflow UI on the tracking store, reachable from this machine alone."""
    uri = tracking_uri or default_uri()
    if uri.startswith(("http://", "https://")):
        typer.echo(f"{redact(uri)} is an MLflow server; open it in a browser")
        return
    uri = checked_uri(uri)
    if not store_exists(uri):
        raise InputError(f"{redact(uri)}: no tracking store there yet; run cmkd sweep first")
    typer.echo(f"{redact(uri)} is shown at http://127.0.0.1:{port} (Ctrl-C ends it)")
    sys.stdout.flush()
    # By the environment and not by an argument: a password in it must not show in `ps`.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # One user needs one server process; MLflow would start four.
    arguments = ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, *arguments])
