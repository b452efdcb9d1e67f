"""Fixtures shared by all tests, above all a tiny sweep that is run by the real command."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset

# Before torch is imported: its threads, waiting for one another on a busy machine, slow tests down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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


LONG = (
    *("test_run.py", "test_integrity.py", "test_simulation.py", "test_pictures.py"),
    *("test_pretrained.py", "test_report_command.py", "test_gate_command.py", "test_cost.py"),
)
"""Files of long tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no process of pytest-xdist works on one alone in the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def _subnormal_numbers(request: pytest.FixtureRequest) -> Iterator[None]:
    """hypothesis draws them; a training before in this process has them flushed to zero."""
    smallest = sys.float_info.min
    if smallest / 2 > 0 or not getattr(request.function, "is_hypothesis_test", False):
        yield
        return
    import torch

    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(True)


@pytest.fixture(scope="session")
def shared_video() -> Path:
    """Folder of real videos outside the repository; tests skip where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "video"
    folder = Path(os.environ.get("CMKD_SHARED_VIDEO", beside))
    if not folder.is_dir():
        pytest.skip(f"no real videos at {folder}; set CMKD_SHARED_VIDEO")
    return folder


@pytest.fixture(autouse=True)
def _own_cache_and_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache, nor writes to the user's tracking server."""
    monkeypatch.setenv("CMKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Browser:
    """A browser without a window, which reaches nothing but this machine.

    `folder` is where it keeps its files.
    """

    program: str
    folder: Path

    def page(self, address: str) -> str:
        """The page at `address` as its scripts have left it."""
        return self._run("--virtual-time-budget=30000", "--dump-dom", address)

    def requests(self, address: str) -> list[str]:
        """What the page at `address` asked for by itself, answered or not."""
        log = self.folder / "requests.json"
        self._run(
            f"--log-net-log={log}",
            "--net-log-capture-mode=Everything",
            "--virtual-time-budget=10000",
            "--dump-dom",
            address,
        )
        events = json.loads(log.read_text())["events"]
        # The browser asks for things of its own; those have no page that began them.
        named = [one.get("params", {}) for one in events]
        return [
            one["url"] for one in named if one.get("initiator", "") not in ("", "not an origin")
        ]

    def _run(self, *arguments: str) -> str:
        options = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={self.folder / 'profile'}",
        ]
        done = subprocess.run(
            [self.program, *options, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
            timeout=120,
        )
        return done.stdout


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """A browser of this machine; tests skip where there is none."""
    program = next((found for one in BROWSERS if (found := shutil.which(one))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on this machine")
    return Browser(program, tmp_path_factory.mktemp("browser"))


@dataclass(frozen=True)
class Workspace:
    """A working directory with the spec ``tiny.yaml``, and a cache of its own.

    Attributes:
        environment: of the commands, beside that of the tests.
    """

    folder: Path
    cache: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``cmkd ARGUMENTS`` as the leader of its process group."""
        return subprocess.Popen(
            [sys.executable, "-m", "cmkd", *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "CMKD_CACHE": str(self.cache),
                "OMP_NUM_THREADS": "1",
                **self.environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, timeout: float = 280.0) -> tuple[int, str]:
        """Exit code and output of ``cmkd ARGUMENTS``."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Rows of the store, past MLflow; none while it is being made."""
        try:
            # "rw": who may only read cannot roll back what a killed process left half written.
            with sqlite3.connect(f"file:{self.folder}/mlflow.db?mode=rw", uri=True) as connection:
                return connection.execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) or "unable to open" in str(error):
                return []
            raise

    def statuses(self) -> dict[object, object]:
        """Status by run name, without the seed and the fold, of which there is one."""
        rows = self.query("select name, status from runs")
        return {str(name).partition(" seed")[0]: status for name, status in rows}

    def metrics(self) -> set[tuple[object, ...]]:
        """(run, metric, step, value) of all that depends on neither the clock nor the process."""
        return set(
            self.query(
                "select r.name, m.key, m.step, m.value from metrics m join runs r using (run_uuid) "
                "where m.key not like '%seconds%' and m.key not like 'memory%'"
            )
        )

    def repeats(self) -> list[tuple[object, ...]]:
        """(run, metric, step) that occur more than once, and trials with several runs."""
        return [
            *self.query(
                "select run_uuid, key, step from metrics group by 1, 2, 3 having count(*) > 1"
            ),
            *self.query(
                "select t.value from tags t join runs r using (run_uuid) where t.key = 'trial_id' "
                "and r.lifecycle_stage = 'active' group by 1 having count(*) > 1"
            ),
        ]

    def disorder(self) -> list[str]:
        """What is wrong with the records; nothing after whatever fault, while no sweep runs.

        A record that is there twice, a run that is open, or one whose results are not those that
        its trial has left on the disk, or that lacks a duration.
        """
        from cmkd.tracking.store import is_timing

        wrong = [f"recorded twice: {row}" for row in self.repeats()]
        wrong += [
            f"open: {row}"
            for row in self.query(
                "select r.name, r.status, t.value from runs r left join tags t on "
                "t.run_uuid = r.run_uuid and t.key = 'owner' "
                "where r.lifecycle_stage = 'active' "
                "and (r.status = 'RUNNING' or t.value is not null and r.status <> 'FINISHED')"
            )
        ]
        finished = self.query(
            "select t.value, r.run_uuid from runs r join tags t using (run_uuid) "
            "join tags k using (run_uuid) where r.status = 'FINISHED' and t.key = 'trial_id' "
            "and k.key = 'kind' and k.value = 'trial'"
        )
        for trial_id, run_id in finished:
            rows = self.query(f"select key, step, value from metrics where run_uuid = '{run_id}'")
            kept = {(key, step): value for key, step, value in rows}
            path = self.cache / "trials" / str(trial_id) / "outcome.json"
            outcome = json.loads(path.read_text())["data"]
            wanted = {(key, 0): value for key, value in outcome["summary"].items()}
            for epoch in outcome["history"]:
                wanted |= {(key, epoch["step"]): value for key, value in epoch["metrics"].items()}
            # An epoch that was trained again after a kill took another time.
            repeated = {place for place in kept.keys() & wanted.keys() if is_timing(place[0])}
            wanted |= {place: kept[place] for place in repeated}
            if kept != wanted:
                wrong.append(f"not as {path}: {sorted(kept.items() ^ wanted.items(), key=str)}")
        return wrong

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

    def workers(self) -> list[int]:
        """Process ids of what trains now."""
        return [pid for pid, command in self.processes() if "Trainable" in command]


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes folders that all processes of pytest-xdist share; nobody writes to one that is made."""
    own = tmp_path_factory.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def make_once(name: str, fill: Callable[[Path], object]) -> Path:
        folder, made = common / name, common / f"{name}.made"
        with FileLock(common / f"{name}.lock"):
            if not made.exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                made.touch()
        return folder

    return make_once


@pytest.fixture(scope="session")
def smoke_data(make_once: Callable[..., Path]) -> Path:
    """A cache with the smoke data set and its decoded clips."""

    def fill(cache: Path) -> None:
        from cmkd.config.data import ReaderConfig
        from cmkd.data.dataset import open_dataset
        from cmkd.data.decoded_cache import ensure_arrays

        ensure_arrays(open_dataset(DATA, cache), ReaderConfig(), cache, workers=1)

    return make_once("smoke", fill)


@pytest.fixture(scope="session")
def smoke(smoke_data: Path) -> Dataset:
    """The smoke data set."""
    from cmkd.data.dataset import open_dataset

    return open_dataset(DATA, smoke_data)


def share_data(smoke_data: Path, cache: Path) -> Path:
    """Make `cache` with the data set and the decoded clips of `smoke_data`, and nothing else."""
    cache.mkdir(parents=True)
    for part in ("data", "arrays"):
        (cache / part).symlink_to(smoke_data / part)
    return cache


@pytest.fixture(scope="session")
def empty_database(make_once: Callable[..., Path]) -> Path:
    """A store with its tables made, to be copied: making them takes seconds."""

    def fill(folder: Path) -> None:
        from cmkd.tracking.mlflow_store import open_store

        with warnings.catch_warnings():
            # MLflow's own query uses an option that SQLAlchemy 2.1 deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            open_store(f"sqlite:///{folder}/mlflow.db")

    return make_once("empty-store", fill) / "mlflow.db"


@pytest.fixture(scope="session")
def new_workspace(
    smoke_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Workspace]:
    """Makes workspaces that share the data but no training."""

    def make(epochs: int = 2, *, broken: bool = False, **environment: str) -> Workspace:
        folder = tmp_path_factory.mktemp("work")
        (folder / "tiny.yaml").write_text(SPEC.format(epochs=epochs) + BROKEN * broken)
        return Workspace(folder, share_data(smoke_data, folder / "cache"), environment)

    return make
