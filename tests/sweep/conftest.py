"""A tiny sweep in a folder of its own, run by the real command in a process of its own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmkd.config.data import Reading
from cmkd.data.arrays import ensure_arrays
from cmkd.data.datasets import open_dataset

DATA = "synthetic-smoke"
SPEC = """
name: tiny
description: a test
data: synthetic-smoke
seeds: 1
base:
  training.epochs: {epochs}
  student.width: 4
  teacher.width: 4
  teacher.training.epochs: 1
  method.heads: 1
  method.hidden: 4
blocks:
  control: {{method.lambda_1: [0.0], method.lambda_2: [0.0]}}
  again: {{method.lambda_1: [0.0], method.lambda_2: [0.0]}}
  both: {{}}
"""
BROKEN = "  broken: {method.lambda_1: [0.0], method.lambda_2: [0.0], training.lr: [1.0e+12]}\n"


@dataclass(frozen=True)
class Workspace:
    """A working directory with the spec ``tiny.yaml``, and a cache of its own."""

    folder: Path
    cache: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``cmkd ARGUMENTS`` as the leader of its process group."""
        return subprocess.Popen(
            [sys.executable, "-m", "cmkd", *arguments],
            cwd=self.folder,
            env={**os.environ, "CMKD_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of ``cmkd ARGUMENTS``."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=280)
        return process.returncode, output

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Rows of the store, past MLflow; none while it is being made."""
        try:
            with sqlite3.connect(f"file:{self.folder}/mlflow.db?mode=ro", uri=True) as connection:
                return connection.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []

    def statuses(self) -> dict[object, object]:
        """Status by run name, without the seed and the fold, of which there is one."""
        rows = self.query("select name, status from runs")
        return {str(name).partition(" fold")[0]: status for name, status in rows}

    def metrics(self) -> set[tuple[object, ...]]:
        """(run, metric, step, value) of all that does not depend on the clock."""
        return set(
            self.query(
                "select r.name, m.key, m.step, m.value from metrics m join runs r using (run_uuid) "
                "where m.key not like '%seconds%'"
            )
        )

    def repeats(self) -> list[tuple[object, ...]]:
        """(run, metric, step) that occur more than once, and trials with several runs."""
        return [
            *self.query(
                "select run_uuid, key, step from metrics group by 1, 2, 3 having count(*) > 1"
            ),
            *self.query(
                "select value from tags where key = 'trial_id' group by 1 having count(*) > 1"
            ),
        ]

    def wait_until_training(self, process: subprocess.Popen[str], epochs: int) -> None:
        """Until `epochs` epochs of trials that are still running are in the store."""
        sql = (
            "select count(*) from metrics m join runs r using (run_uuid) "
            "where m.key = 'val_acc' and r.status = 'RUNNING' and r.name not like 'teacher%'"
        )
        while self.query(sql) < [(epochs,)]:
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)

    def processes(self) -> Iterator[tuple[int, str]]:
        """(pid, command line) of all processes that work on this cache."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if f"CMKD_CACHE={self.cache}".encode() in environment:
                yield int(folder.name), command


@pytest.fixture(scope="session")
def smoke_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the smoke data set and its decoded clips."""
    cache = tmp_path_factory.mktemp("smoke")
    ensure_arrays(open_dataset(DATA, cache), Reading(), cache, workers=2)
    return cache


@pytest.fixture(scope="session")
def new_workspace(
    smoke_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Workspace]:
    """Makes workspaces that share the data but no training."""

    def make(epochs: int = 2, *, broken: bool = False) -> Workspace:
        folder = tmp_path_factory.mktemp("work")
        (folder / "tiny.yaml").write_text(SPEC.format(epochs=epochs) + BROKEN * broken)
        cache = folder / "cache"
        cache.mkdir()
        for part in ("data", "arrays"):
            (cache / part).symlink_to(smoke_data / part)
        return Workspace(folder, cache)

    return make
