"""Sweeps whose tracking store is a SQLite file: made by three at once, locked, on a full disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers import postgres_binaries, postgres_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LONG = 24

Make = Callable[..., Any]


def test_three_sweeps_may_start_on_a_store_that_does_not_exist_yet(new_workspace: Make) -> None:
    space = new_workspace()
    spec = (space.folder / "tiny.yaml").read_text()
    for number in range(3):
        # Other names, as one sweep runs once; and other trials.
        other = spec.replace("name: tiny", f"name: tiny{number}")
        other = other.replace("training.epochs: 2", f"training.epochs: {number + 1}", 1)
        (space.folder / f"tiny{number}.yaml").write_text(other)
    started = [space.start("sweep", f"tiny{number}.yaml", "--workers", "1") for number in range(3)]
    outputs = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], outputs
    assert space.disorder() == []
    finished = space.query("select count(*) from runs where status = 'FINISHED'")
    assert finished == [(3 * 2 + 1,)], "they share the teacher, which one of them trains"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_three_processes_may_open_a_new_store_at_once(tmp_path: Path, kind: str) -> None:
    def answers(uri: str) -> list[tuple[str, str]]:
        code = (
            "from cmkd.tracking.mlflow_store import open_store; "
            f"print(len(open_store({uri!r}).find({{}})))"
        )
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        return [process.communicate() for process in started]

    if kind == "sqlite":
        assert answers("sqlite:///mlflow.db") == [("0\n", "")] * 3
        return
    if postgres_binaries() is None:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    with postgres_server() as postgres:
        assert answers(postgres.url) == [("0\n", "")] * 3


def test_a_file_that_is_locked_during_a_sweep_loses_nothing(new_workspace: Make) -> None:
    space = new_workspace(LONG)
    process = space.start("sweep", "tiny.yaml")
    space.wait_until_training(process, 2)
    holder = sqlite3.connect(space.folder / "mlflow.db", isolation_level=None, timeout=60.0)
    holder.execute("begin exclusive")
    time.sleep(30.0)
    holder.execute("rollback")
    holder.close()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert space.disorder() == []
    assert set(space.statuses().values()) == {"FINISHED"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "cmkd-test", str(folder)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("may not mount a small file system: needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that leaves no byte free."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


@pytest.mark.parametrize("space_comes_back", [True, False])
def test_a_full_disk_of_the_store_stops_no_training(
    new_workspace: Make, small_disk: Path, space_comes_back: bool
) -> None:
    space = new_workspace(LONG)
    (space.folder / "mlflow.db").symlink_to(small_disk / "mlflow.db")
    uri = f"sqlite:///{small_disk}/mlflow.db"
    process = space.start("sweep", "tiny.yaml", "--tracking-uri", uri)
    space.wait_until_training(process, 2)
    ballast = fill(small_disk)
    time.sleep(15.0)
    if space_comes_back:
        ballast.unlink()
    output, _ = process.communicate(timeout=600)
    assert "is full; training goes on" in output, output
    assert len(list(space.cache.glob("trials/*/outcome.json"))) == 2, "all were trained"
    if not space_comes_back:
        assert process.returncode == 3, output
        assert f"{small_disk}/mlflow.db" in output.splitlines()[-1]
        assert "records not written" in output.splitlines()[-1]
        ballast.unlink()
        code, output = space.run("sweep", "tiny.yaml", "--tracking-uri", uri)
        assert code == 0, output
    else:
        assert process.returncode == 0, output
    assert space.disorder() == []
    assert set(space.statuses().values()) == {"FINISHED"}
    assert shutil.disk_usage(small_disk).free > 0
