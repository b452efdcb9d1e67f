"""Sweeps whose tracking store is a server: whole ones, and what becomes of those it leaves."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers import MlflowServer, mlflow_server, postgres_binaries, postgres_server
from cmkd.errors import InfrastructureError
from cmkd.sweep.recorder import Recorder
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.reader import open_reader
from cmkd.tracking.store import EpochRecord, RunEnding, RunIdentity

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CANARY = "canary-9f2c"
IDENTITY = RunIdentity("t1", "smoke/synthetic", "both", {"trial_id": "t1"}, {"seed": "0"})
LONG = 24
OUTAGE = 15.0
"""Seconds; longer than a request is waited for."""

Make = Callable[..., Any]

needs_postgres = pytest.mark.skipif(
    postgres_binaries() is None, reason="no PostgreSQL server: apt-get install postgresql"
)


def on_postgres(space: Any, url: str) -> Any:
    """`space`, whose records are looked up in PostgreSQL."""
    import psycopg

    class OnPostgres(type(space)):  # type: ignore[misc]
        """A workspace whose store is no file in it."""

        def query(self, sql: str) -> list[tuple[object, ...]]:
            try:
                with psycopg.connect(url) as connection:
                    return connection.execute(sql).fetchall()
            except psycopg.errors.UndefinedTable:
                return []

    return OnPostgres(space.folder, space.cache, space.environment)


def epoch_times(space: Any) -> list[float]:
    """Seconds since 1970 at which the epochs of the trials ended, as the trials themselves say."""
    outcomes = [
        json.loads(path.read_text())["data"] for path in space.cache.glob("trials/*/outcome.json")
    ]
    return [epoch["timestamp_ms"] / 1000 for one in outcomes for epoch in one["history"]]


@pytest.mark.parametrize(
    "uri", ["http://me:canary@127.0.0.1:9", "postgresql://me:canary@127.0.0.1:9/db"]
)
def test_a_server_that_is_down_at_the_start_is_named(new_workspace: Make, uri: str) -> None:
    space = new_workspace()
    code, output = space.run("sweep", "tiny.yaml", "--tracking-uri", uri)
    assert code == 3, output
    assert "://***@127.0.0.1:9" in output
    assert "canary" not in output
    assert "to go on: cmkd sweep tiny.yaml" in output
    assert "starting" not in output, "no engine for nothing"


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_hangs_at_the_start_is_named_within_ten_seconds(scheme: str) -> None:
    with pytest.raises(InfrastructureError):  # So that importing MLflow is not what is timed.
        open_store("http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"{scheme}://127.0.0.1:{mute.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(InfrastructureError, match=address.partition("://")[2]):
            open_store(address)
    assert time.monotonic() - began < 10


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def store(request: pytest.FixtureRequest, new_workspace: Make) -> Iterator[tuple[Any, str]]:
    """A workspace, and the URL of the MLflow server in front of its store."""
    space = new_workspace()
    with ExitStack() as stack:
        backend = f"sqlite:///{space.folder}/mlflow.db"
        if request.param == "postgresql":
            backend = stack.enter_context(postgres_server()).url
            space = on_postgres(space, backend)
        server = stack.enter_context(mlflow_server(space.folder, backend))
        yield space, server.url


def test_a_whole_sweep_and_its_report_over_http(store: tuple[Any, str]) -> None:
    space, url = store
    code, output = space.run("sweep", "smoke", "--tracking-uri", url)
    assert code == 0, output
    assert space.disorder() == []
    assert set(space.statuses().values()) == {"FINISHED"}
    # Artifacts went through the server, whose folder it is.
    assert len(list(space.folder.glob("artifacts/**/predictions.csv"))) == 4, "and the teacher"
    assert not (space.folder / "mlartifacts").exists()
    reader = open_reader(url)
    (run,) = reader.find({"arm": "both", "kind": "trial"})
    assert json.loads(reader.read_text(run.run_id, "config.json"))["trial_id"] == run.trial_id
    assert list(reader.histories([run.run_id], "val_acc")[run.run_id]) == [1, 2]

    code, output = space.run("sweep", "smoke", "--tracking-uri", url)
    assert (code, output.splitlines()[-1]) == (0, "nothing to train: 3 of 3 done")
    command = ("report", "tables", "--sweep", "smoke", "--data", "synthetic-smoke")
    code, output = space.run(*command, "--tracking-uri", url)
    assert code == 0, output
    pages = [path.read_text() for path in (space.folder / "reports/generated").glob("*.md")]
    assert any(run.trial_id in page or "both" in page for page in pages), pages


@pytest.mark.parametrize("fault", ["killed", "hanging"])
def test_a_server_that_goes_during_a_sweep_stops_no_training(
    new_workspace: Make, fault: str
) -> None:
    space = new_workspace(LONG)
    with mlflow_server(space.folder, f"sqlite:///{space.folder}/mlflow.db") as server:
        command = ("sweep", "tiny.yaml", "--workers", "1", "--tracking-uri", server.url)
        process = space.start(*command)
        space.wait_until_training(process, 2)
        went = time.time()
        if fault == "killed":
            server.kill()
        else:
            server.send(signal.SIGSTOP)
        time.sleep(OUTAGE)
        came = time.time()
        if fault == "killed":
            server.start()
        else:
            server.send(signal.SIGCONT)
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert output.count("training goes on and the records follow when it is back") == 1
    assert space.disorder() == []
    assert set(space.statuses().values()) == {"FINISHED"}
    times = sorted(epoch_times(space))
    assert len(times) == 2 * LONG
    assert len([moment for moment in times if went < moment < came]) >= 3, "it trained meanwhile"


def test_a_run_that_a_hanging_server_makes_later_is_there_once(tmp_path: Path) -> None:
    server = MlflowServer(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    try:
        store = open_store(server.url)
        ask, lost = store._client.create_run, []

        def unanswered(*arguments: Any, **named: Any) -> Any:
            # The first request is in the hands of a server that hangs: it is made, but late.
            if not lost:
                lost.append(threading.Timer(0.0, ask, arguments, named))
                raise OSError("Read timed out")
            made = ask(*arguments, **named)
            lost[0].start()
            lost[0].join()
            return made

        identity = RunIdentity("t1", "e", "n", {"kind": "trial"}, {"p": "1"})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._client, "create_run", unanswered)
            with pytest.raises(InfrastructureError, match="timed out"):
                store.open(identity, {})
            run_id = store.open(identity, {})
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as rows:
            states = rows.execute("select lifecycle_stage from runs order by 1").fetchall()
        assert states == [("active",), ("deleted",)], "the late one was made, and one is left"
        store.log(run_id, [EpochRecord(1, 1, {"val_acc": 1.0})])
        store.close(run_id, RunEnding("FINISHED", summary={"test_acc": 1.0}, timestamp_ms=1))
        (run,) = store.find({"trial_id": "t1"})
        assert (run.run_id, run.status) == (run_id, "FINISHED")
    finally:
        server.kill()


def test_a_server_that_dies_loses_nothing_doubles_nothing_and_tells_no_password(
    tmp_path: Path,
) -> None:
    server = MlflowServer(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    try:
        _dies_and_comes_back(server, tmp_path)
    finally:
        server.kill()


def _dies_and_comes_back(server: MlflowServer, tmp_path: Path) -> None:
    said: list[str] = []
    refused = threading.Event()

    def warn(text: str) -> None:
        said.append(text)
        refused.set()

    recorder = Recorder(open_store(f"http://me:{CANARY}@127.0.0.1:{server.port}"), warn)
    recorder.open(IDENTITY, {"config.json": "{}"})
    recorder.log("t1", [_epoch(1)])
    database = tmp_path / "mlflow.db"
    while len(_rows(database, "select * from metrics")) < 2:
        time.sleep(0.1)
    server.kill()
    recorder.log("t1", [_epoch(2), _epoch(3)])
    assert refused.wait(60)
    file = tmp_path / "predictions.csv"
    file.write_text("clip,label\n")
    recorder.close(
        "t1", RunEnding("FINISHED", summary={"test_acc": 5.0}, timestamp_ms=9, files=[file])
    )
    server.start()
    recorder.drain()

    assert _rows(database, "select key, step, count(*), max(value) from metrics group by 1, 2") == [
        ("lr", 1, 1, 0.5),
        ("lr", 2, 1, 0.5),
        ("lr", 3, 1, 0.5),
        ("test_acc", 0, 1, 5.0),
        ("val_acc", 1, 1, 10.0),
        ("val_acc", 2, 1, 20.0),
        ("val_acc", 3, 1, 30.0),
    ]
    assert _rows(database, "select name, status from runs") == [("both", "FINISHED")]
    kept = {path.name: path.read_text() for path in (tmp_path / "artifacts").rglob("*.*")}
    assert kept == {"config.json": "{}", "predictions.csv": "clip,label\n"}

    (warning,) = said
    assert f"http://***@127.0.0.1:{server.port}" in warning
    searched = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"mlflow.db", "server.log"} <= {path.name for path in searched}
    assert [path for path in searched if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in warning


def _epoch(step: int) -> EpochRecord:
    return EpochRecord(step, 1_700_000_000_000 + step, {"val_acc": 10.0 * step, "lr": 0.5})


def _rows(database: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return connection.execute(query).fetchall()


@needs_postgres
@pytest.mark.parametrize("fault", ["restarted", "stopped"])
def test_a_database_server_that_goes_during_a_sweep_loses_nothing(
    new_workspace: Make, fault: str
) -> None:
    space = new_workspace(LONG)
    with postgres_server() as postgres:
        space = on_postgres(space, postgres.url)
        process = space.start("sweep", "tiny.yaml", "--tracking-uri", postgres.url)
        space.wait_until_training(process, 2)
        if fault == "restarted":
            postgres.restart()
        else:
            postgres.stop()
            time.sleep(30.0)
            postgres.start()
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        assert space.disorder() == []
        assert set(space.statuses().values()) == {"FINISHED"}
