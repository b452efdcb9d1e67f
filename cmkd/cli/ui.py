"""``cmkd ui``: MLflow pages of the tracking store, on this machine alone."""

from __future__ import annotations

import os
import socket
import sys
from typing import Annotated

import typer

from cmkd.cli.work import TrackingUri
from cmkd.errors import InputError
from cmkd.tracking.store import MLFLOW_MODE, checked_uri, default_uri, redact, store_exists

HOST = "127.0.0.1"


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show the runs of the tracking store in MLflow, reachable from this machine alone."""
    uri = tracking_uri or default_uri()
    if uri.startswith(("http://", "https://")):
        typer.echo(f"{redact(uri)} is an MLflow server; open it in a browser")
        return
    uri = checked_uri(uri)
    if not store_exists(uri):
        raise InputError(f"{redact(uri)}: no tracking store there yet; run cmkd sweep first")
    _require_free(port)
    typer.echo(
        f"{redact(uri)} will be at {runs_address(uri, f'http://{HOST}:{port}')}; Ctrl-C ends it"
    )
    sys.stdout.flush()
    # By the environment and not by an argument: a password in it must not show in `ps`.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    # One user needs one server process; MLflow would start four.
    options = ["--host", HOST, "--port", str(port), "--workers", "1"]
    # A line for every request would push the address out of sight.
    options += ["--uvicorn-opts", "--log-level warning"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *options])


def runs_address(uri: str, server: str) -> str:
    """Page of `server` with the runs of the newest experiment; its list without any run."""
    from cmkd.tracking.reader import open_reader

    reader = open_reader(uri)
    runs = reader.find({"kind": "trial"}) or reader.find({"kind": "teacher"})
    if not runs:
        return f"{server}/#/experiments?{MLFLOW_MODE}"
    experiment = runs[-1].experiment_id
    page = f"{server}/#/experiments/{experiment}/runs?{MLFLOW_MODE}"
    # Imported here, as MLflow takes seconds.
    from cmkd.tracking.mlflow_calls import share_view

    view = share_view(uri, experiment)
    return f"{page}&viewStateShareKey={view}" if view else page


def _require_free(port: int) -> None:
    """InputError if something listens on `port`; it names a free one."""
    with socket.socket() as probe, socket.socket() as other:
        # As the server does: a port that was closed just now can be used again.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            other.bind((HOST, 0))
            free = other.getsockname()[1]
            raise InputError(
                f"--port {port}: cannot be used ({error.strerror}); try: cmkd ui --port {free}"
            ) from None
