"""A recorder whose store is a real MLflow server, killed and started again; and its password."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from cmkd.sweep.recorder import Recorder
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.records import EpochRecord, RunIdentity

pytestmark = pytest.mark.slow
CANARY = "canary-9f2c"
IDENTITY = RunIdentity("t1", "smoke/synthetic", "both", {"trial_id": "t1"}, {"seed": "0"})


class Server:
    """``mlflow server`` on loopback, in front of a SQLite file and a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        arguments = {
            "--backend-store-uri": f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination": f"{self.folder}/artifacts",
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *sum(arguments.items(), ())],
                env={
                    **os.environ,
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill it with its workers, as a machine that loses power does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    running.kill()


def epoch(step: int) -> EpochRecord:
    return EpochRecord(step, 1_700_000_000_000 + step, {"val_acc": 10.0 * step, "lr": 0.5})


def test_a_server_that_dies_loses_nothing_doubles_nothing_and_tells_no_password(
    server: Server, tmp_path: Path
) -> None:
    said: list[str] = []
    refused = threading.Event()

    def warn(text: str) -> None:
        said.append(text)
        refused.set()

    recorder = Recorder(open_store(f"http://me:{CANARY}@127.0.0.1:{server.port}"), warn)
    recorder.open(IDENTITY, {"config.json": "{}"})
    recorder.log("t1", [epoch(1)])
    database = tmp_path / "mlflow.db"
    while len(rows(database, "select * from metrics")) < 2:
        time.sleep(0.1)
    server.kill()
    recorder.log("t1", [epoch(2), epoch(3)])
    assert refused.wait(60)
    file = tmp_path / "predictions.csv"
    file.write_text("clip,label\n")
    recorder.close("t1", "FINISHED", summary={"test_acc": 5.0}, timestamp_ms=9, files=[file])
    server.start()
    recorder.drain()

    assert rows(database, "select key, step, count(*), max(value) from metrics group by 1, 2") == [
        ("lr", 1, 1, 0.5),
        ("lr", 2, 1, 0.5),
        ("lr", 3, 1, 0.5),
        ("test_acc", 0, 1, 5.0),
        ("val_acc", 1, 1, 10.0),
        ("val_acc", 2, 1, 20.0),
        ("val_acc", 3, 1, 30.0),
    ]
    assert rows(database, "select name, status from runs") == [("both", "FINISHED")]
    kept = {path.name: path.read_text() for path in (tmp_path / "artifacts").rglob("*.*")}
    assert kept == {"config.json": "{}", "predictions.csv": "clip,label\n"}

    (warning,) = said
    assert f"http://***@127.0.0.1:{server.port}" in warning
    searched = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"mlflow.db", "server.log"} <= {path.name for path in searched}
    assert [path for path in searched if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in warning


def rows(database: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return connection.execute(query).fetchall()
