"""``cmkd ui``: MLflow pages of the tracking store, on this machine alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from typing import Annotated

import typer

from cmkd.errors import InfrastructureError, InputError
from cmkd.tracking.store import checked_uri, default_uri, redact, store_exists

HOST = "127.0.0.1"
START_SECONDS = 120.0
"""MLflow's own start takes several seconds, more on a busy machine."""
MODE = "workflowType=machine_learning"
"""Without it MLflow 3 opens its pages for language models, which show no runs."""


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    tracking_uri: Annotated[
        str | None, typer.Option(help="Store to show; default: that of `cmkd sweep`.")
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="Also open the page in a browser.")
    ] = False,
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
    address = runs_address(uri, f"http://{HOST}:{port}")
    # By the environment and not by an argument: a password in it must not show in `ps`.
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    # One user needs one server process; MLflow would start four.
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port)]
    server = subprocess.Popen([*command, "--workers", "1"], env=environment)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        _wait_until_open(server, port)
        typer.echo(f"{redact(uri)} is shown at {address} (Ctrl-C ends it)")
        sys.stdout.flush()
        if browser:
            webbrowser.open(address)
        code = server.wait()
    except KeyboardInterrupt:
        # The terminal sends the signal to the server as well.
        code = server.wait()
    finally:
        if server.poll() is None:
            server.terminate()
    raise typer.Exit(code if code > 0 else 0)


def runs_address(uri: str, server: str) -> str:
    """Page of `server` with the runs of the newest experiment; its list without any run."""
    from cmkd.tracking.reader import open_reader

    reader = open_reader(uri)
    runs = reader.find({"kind": "trial"}) or reader.find({"kind": "teacher"})
    if not runs:
        return f"{server}/#/experiments?{MODE}"
    return f"{server}/#/experiments/{runs[-1].experiment_id}/runs?{MODE}"


def _require_free(port: int) -> None:
    """InputError if something listens on `port`."""
    with socket.socket() as probe:
        # As the server does: a port that was closed just now can be used again.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            with socket.socket() as other:
                other.bind((HOST, 0))
                free = other.getsockname()[1]
            raise InputError(
                f"--port {port}: cannot be used ({error.strerror}); try: cmkd ui --port {free}"
            ) from None


def _wait_until_open(server: subprocess.Popen[bytes], port: int) -> None:
    """Return when the server accepts connections.

    Raises:
        InfrastructureError: it ended, or did not come up.
    """
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise InfrastructureError("the MLflow server did not start; its messages are above")
