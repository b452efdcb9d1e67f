"""A SQLite store read directly gives what MLflow gives."""

from __future__ import annotations

import math
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from cmkd.errors import InfrastructureError, InputError
from cmkd.tracking.mlflow_store import MlflowStore, open_store
from cmkd.tracking.reader import SqliteReader, open_reader
from cmkd.tracking.store import EpochRecord, RunEnding, RunIdentity

# MLflow's own query uses an option that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> str:
    """A store with runs of several kinds, states and experiments."""
    folder = tmp_path_factory.mktemp("a folder with blanks")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        uri = f"sqlite:///{folder}/mlflow.db"
        store = open_store(uri)
        for number in range(5):
            name = f"trial-{number}"
            tags = {"kind": "teacher" if number == 4 else "trial", "odd": "a'b\"%;--", "n": "x"}
            identity = RunIdentity(name, f"e{number % 2}", name, tags, {"p": "1"})
            run_id = store.open(identity, {"text.csv": f"ä{number}\r\n"})
            if number:
                # Out of order, as after a resumed run.
                steps = (3, 1, 2)
                records = [
                    EpochRecord(i, i, {"val_acc": number + i / 10, "lr": 0.1}) for i in steps
                ]
                store.log(run_id, [*records, EpochRecord(4, 4, {"val_acc": math.nan})])
            if number < 3:
                store.close(
                    run_id, RunEnding("FINISHED", summary={"acc": 10.0 * number, "nan": math.nan})
                )
        deleted = store.open(RunIdentity("gone", "e0", "gone", {"kind": "trial"}, {}), {})
        store._client.delete_run(deleted)
        lost = store.open(RunIdentity("lost", "bin", "lost", {"kind": "trial"}, {}), {})
        store._client.delete_experiment(store._client.get_run(lost).info.experiment_id)
    return uri


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"kind": "trial"},
        {"kind": "teacher"},
        {"kind": "trial", "trial_id": "trial-1"},
        {"odd": "a'b\"%;--"},
        {"kind": "nothing"},
        {"no such": "tag"},
    ],
)
def test_the_same_runs_are_found(uri: str, tags: dict[str, str]) -> None:
    reader = open_reader(uri)
    assert isinstance(reader, SqliteReader)
    expected = [replace(run, params={}) for run in open_store(uri).find(tags)]
    found = reader.find(tags)
    # NaN is not equal to itself.
    assert [repr(run) for run in _sorted(found)] == [repr(run) for run in _sorted(expected)]


def _sorted(runs: object) -> list[object]:
    assert isinstance(runs, list | tuple)
    by_key = [
        replace(run, tags=dict(sorted(run.tags.items())), metrics=dict(sorted(run.metrics.items())))
        for run in runs
    ]
    return sorted(by_key, key=lambda run: run.run_id)


def test_the_same_texts_are_read(uri: str) -> None:
    reader, store = open_reader(uri), open_store(uri)
    for run in reader.find({"n": "x"}):
        text = reader.read_text(run.run_id, "text.csv")
        assert text == store.read_text(run.run_id, "text.csv")
        assert text.startswith("ä")


def test_the_same_histories_are_read(uri: str) -> None:
    reader, store = open_reader(uri), open_store(uri)
    runs = {run.trial_id: run.run_id for run in reader.find({"n": "x"})}
    asked = [runs["trial-0"], runs["trial-1"], runs["trial-2"]]
    found = reader.histories(asked, "val_acc")
    # The first logged nothing, and the other two were not asked for.
    assert set(found) == set(asked[1:])
    assert list(found[asked[1]].items())[:3] == [(1, 1.1), (2, 1.2), (3, 1.3)]
    assert math.isnan(found[asked[1]][4])
    expected = store.histories(asked, "val_acc")
    assert {run_id: repr(one) for run_id, one in found.items()} == {
        run_id: repr(one) for run_id, one in expected.items()
    }
    assert reader.histories(asked, "none") == store.histories(asked, "none") == {}


def test_a_lost_text_and_an_unknown_run(uri: str) -> None:
    reader = open_reader(uri)
    run = reader.find({"trial_id": "trial-0"})[0]
    with pytest.raises(InfrastructureError, match="none.csv"):
        reader.read_text(run.run_id, "none.csv")
    with pytest.raises(InfrastructureError):
        reader.read_text("unknown", "text.csv")


def test_another_schema_is_left_to_mlflow(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("ALTER TABLE latest_metrics RENAME COLUMN is_nan TO was_nan")
    connection.close()
    assert isinstance(open_reader(uri), MlflowStore)


def test_a_file_that_is_no_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(InputError, match="not a SQLite database"):
        open_reader(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_database_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="no store of MLflow: it has the tables songs; choose"):
        open_reader(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_reading_writes_nothing(uri: str) -> None:
    path = Path(uri.removeprefix("sqlite:///"))
    before = path.read_bytes()
    reader = open_reader(uri)
    reader.find({"kind": "trial"})
    assert path.read_bytes() == before
    assert isinstance(reader, SqliteReader)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM runs")
