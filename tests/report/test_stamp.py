"""An unchanged report is not made again, and every change makes a whole one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

import cmkd
from benchmarks.report import make_store
from cmkd.cli.report import app
from cmkd.report import stamp
from cmkd.report.gather import Snapshot
from cmkd.tracking.reader import SqliteReader, open_reader

if TYPE_CHECKING:
    from conftest import MemoryStore

RUN = f"{3:032x}"
TABLE = "table_4_synthetic.md"


@dataclass
class Workplace:
    """Store, report and cache of one test; a package of its own stands for the code of cmkd."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "mlflow.db"

    @property
    def predictions(self) -> Path:
        return self.folder / "mlartifacts" / RUN / "predictions.csv"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def report(self, *options: str) -> tuple[bool, str]:
        """Whether the report was made anew, and the output without the line that says so."""
        arguments = ["--no-plots", "--tracking-uri", f"sqlite:///{self.database}"]
        arguments += options or ["--table", "4", "--format", "md"]
        result = CliRunner().invoke(app, ["tables", "--out", str(self.out), *arguments])
        assert (result.exit_code, result.exception) == (0, None)
        lines = result.output.splitlines()
        same = [line for line in lines if not line.startswith("nothing has changed")]
        return same == lines, "\n".join(same)

    def change(self, query: str) -> None:
        with closing(sqlite3.connect(self.database)) as store, store:
            store.execute(query)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("made") / "store", runs=40)


@pytest.fixture
def workplace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    folder = tmp_path / "here"
    shutil.copytree(made, folder)
    package = folder / "cmkd"
    package.mkdir()
    (package / "page.jinja").write_text("a")
    monkeypatch.setattr(cmkd, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(stamp, "SETTLED_SECONDS", 0.0)
    monkeypatch.setenv("CMKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    plugin = ModuleType("made_up_plugin")
    plugin.__file__ = str(folder / "made_up_plugin.py")
    Path(plugin.__file__).write_text("VALUE = 1\n")
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    place = Workplace(folder)
    place.change(f"UPDATE runs SET artifact_uri = replace(artifact_uri, '{made}', '{folder}')")
    return place


def test_an_unchanged_report_is_made_once(workplace: Workplace) -> None:
    first, output = workplace.report()
    files = {path.name: path.stat().st_mtime_ns for path in workplace.out.iterdir()}
    assert first and "NOT results on UCF-101" in output and str(workplace.out / TABLE) in output
    assert workplace.report() == (False, output)
    assert {path.name: path.stat().st_mtime_ns for path in workplace.out.iterdir()} == files


def edit_artifact(place: Workplace) -> None:
    """Two clips of one class change places: size, time and accuracy stay."""
    path, stat = place.predictions, place.predictions.stat()
    cells = [row.split(",") for row in path.read_text().splitlines()]
    of_class = [row for row in cells if row[2] == "class_03"]
    right = next(row for row in of_class if row[3] == row[2])
    wrong = next(row for row in of_class if row[3] != row[2])
    right[3:], wrong[3:] = wrong[3:], right[3:]
    path.write_text("\r\n".join(map(",".join, cells)) + "\r\n", newline="")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size


def append(name: str) -> Callable[[Workplace], None]:
    def act(place: Workplace) -> None:
        path = place.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{path.read_text() if path.exists() else ''}\n")

    return act


def query(text: str) -> Callable[[Workplace], None]:
    return lambda place: place.change(text)


CHANGES: dict[str, Callable[[Workplace], object]] = {
    "an artifact of equal size and time": edit_artifact,
    "an artifact that is written anew": lambda place: place.predictions.write_bytes(
        place.predictions.read_bytes()
    ),
    "a tag": query(f"UPDATE tags SET value = '9' WHERE key = 'seed' AND run_uuid = '{RUN}'"),
    "a deleted run": query(f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = '{RUN}'"),
    "a run": query(
        "INSERT INTO runs (run_uuid, name, status, lifecycle_stage, experiment_id) "
        "VALUES ('new', 'new', 'RUNNING', 'active', 1)"
    ),
    "an edited output": append(f"out/{TABLE}"),
    "a lost output": lambda place: (place.out / TABLE).unlink(),
    "a lost folder": lambda place: shutil.rmtree(place.out),
    "code that was loaded": append("made_up_plugin.py"),
    "a template": append("cmkd/page.jinja"),
    "a new file of the package": append("cmkd/new.py"),
    "a spec": append("sweeps/new.yaml"),
    "a style of matplotlib": append("matplotlibrc"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_makes_a_whole_report(
    workplace: Workplace, change: Callable[[Workplace], object]
) -> None:
    workplace.report()
    assert not workplace.report()[0]
    change(workplace)
    assert workplace.report()[0]
    assert (workplace.out / TABLE).read_text().endswith("\n")
    assert not workplace.report()[0]


def test_costs_that_appear_make_a_whole_report(workplace: Workplace) -> None:
    workplace.report()
    (workplace.out / "cost.json").write_text("[]")
    assert workplace.report()[0]
    assert not workplace.report()[0]


def test_other_options_have_their_own_reports(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.report()
    four = ("--table", "4")
    assert workplace.report(*four)[0]
    assert workplace.report(*four, "--format", "md,tex")[0]
    assert workplace.report(*four, "--mlflow-url", "http://127.0.0.1:5000")[0]
    assert workplace.report(*four, "--trace")[0] and workplace.report(*four, "--trace")[0]
    monkeypatch.setenv("MPLBACKEND", "svg")
    assert workplace.report()[0]


def test_a_change_in_the_log_of_the_database_is_seen(workplace: Workplace) -> None:
    with closing(sqlite3.connect(workplace.database)) as store:
        store.execute("PRAGMA journal_mode = WAL")
        reader = open_reader(f"sqlite:///{workplace.database}")
        assert isinstance(reader, SqliteReader)
        before = stamp._states(map(str, reader.files or ()))
        workplace.report()
        store.execute("UPDATE runs SET status = 'FAILED' WHERE run_uuid = ?", [RUN])
        store.commit()
        after = stamp._states(before)
        assert {path for path in before if before[path] != after[path]} == {
            f"{workplace.database}-wal"
        }
        assert workplace.report()[0]


@pytest.mark.parametrize("text", ["", "no JSON", "{}", '{"id": "a", "data": 1, "sha256": "b"}'])
def test_a_damaged_stamp_is_ignored(workplace: Workplace, text: str) -> None:
    workplace.report()
    (path,) = (workplace.folder.parent / "cache" / "reports").iterdir()
    path.write_text(text)
    assert workplace.report()[0]
    assert not workplace.report()[0]


def test_files_that_have_just_changed_are_not_relied_on(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamp, "SETTLED_SECONDS", 3600.0)
    assert workplace.report()[0] and workplace.report()[0]


def test_a_file_that_changes_while_the_report_is_made_leaves_no_stamp(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = stamp.Stamp.write

    def late(self: stamp.Stamp, *arguments: object) -> None:
        append("made_up_plugin.py")(workplace)
        written(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stamp.Stamp, "write", late)
    assert workplace.report()[0] and workplace.report()[0]


def test_old_stamps_go(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp, "MOST_STAMPS", 2)
    for table in ("1", "2", "4", "5"):
        workplace.report("--table", table)
    assert len(list((workplace.folder.parent / "cache" / "reports").iterdir())) == 2
    assert not workplace.report("--table", "5")[0]


def test_the_files_of_a_server_are_not_known(full_store: MemoryStore) -> None:
    assert Snapshot(full_store).files is None
