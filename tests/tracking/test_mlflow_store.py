"""The store on a real SQLite file: what is written, how often, and what a reader finds."""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cmkd.config.sweep import load_sweep
from cmkd.errors import InfrastructureError, InputError
from cmkd.machine import owner
from cmkd.sweep.plan import SweepRequest
from cmkd.sweep.run import _runs_in_file
from cmkd.tracking import mlflow_calls, mlflow_store
from cmkd.tracking.mlflow_calls import data_inputs
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.store import EpochRecord, RunEnding, RunIdentity

# MLflow's own, against SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")

EPOCHS = tuple(
    EpochRecord(step, 1_700_000_000_000 + step, {"val_acc": 10.0 * step, "lr": 0.5 / step})
    for step in (1, 2, 3)
)


@pytest.fixture
def database(empty_database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copy(empty_database, tmp_path / "mlflow.db")


@pytest.fixture
def store(database):
    return open_store()


def identity(trial_id="t1", **tags):
    tags = {"kind": "trial", "arm": "both", "trial_id": trial_id, **tags}
    params = {"method.lambda_1": "0.1", "method.tg": "[1, 2, 3]"}
    return RunIdentity(trial_id, "smoke/synthetic", f"both {trial_id}", tags, params)


def rows(database, query="select key, step, timestamp, value from metrics order by step, key"):
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


def test_a_run_is_read_back_as_it_was_written(store, tmp_path):
    run_id = store.open(identity(), {"config.json": '{"a": 1}'})
    store.log(run_id, EPOCHS)
    file = tmp_path / "predictions.csv"
    file.write_text("clip,label\n")
    store.close(
        run_id,
        RunEnding("FINISHED", summary={"test_acc": 62.5}, tags={"note": "x'y"}, files=[file]),
    )

    (run,) = store.find({"trial_id": "t1"})
    assert (run.run_id, run.trial_id, run.status) == (run_id, "t1", "FINISHED")
    assert run.params == identity().params
    assert run.metrics == {"val_acc": 30.0, "lr": 0.5 / 3, "test_acc": 62.5}
    assert run.tags["arm"] == "both"
    assert "owner" not in run.tags, "only a RUNNING run has an owner"
    assert store.read_text(run_id, "config.json") == '{"a": 1}'
    assert store.read_text(run_id, "predictions.csv") == "clip,label\n"
    assert (tmp_path / "mlartifacts").is_dir()
    assert not (tmp_path / "mlruns").exists(), "MLflow would take it for its default store"


def test_a_sweep_reads_of_the_file_what_the_store_gives(store, database, smoke):
    """Without MLflow; parameters too, which the forecast of further trials needs."""
    for trial in ("t1", "t2"):
        run_id = store.open(identity(trial, data_id=smoke.id), {})
        store.close(run_id, RunEnding("FINISHED", summary={"seconds_train": 8.0}))
    request = SweepRequest(load_sweep("ablation"), smoke.info.name, 1, 1, database.parent)
    found = _runs_in_file(request, smoke)
    expected = store.find({"data_id": smoke.id})
    assert len(expected) == 2

    def facts(run):
        return run.run_id, run.trial_id, run.status, run.params, run.metrics, run.tags["arm"]

    assert list(map(facts, found)) == list(map(facts, expected))


def test_a_new_experiment_is_described_and_one_that_is_there_keeps_its_words(store, database):
    store.open(replace(identity(), about="what KD adds"), {})
    store.open(replace(identity("t2"), about="other words"), {})
    query = "select key, value from experiment_tags"
    assert rows(database, query) == [("mlflow.note.content", "what KD adds")]


def test_tags_find_runs_across_experiments_and_odd_values_are_safe(store):
    for index, arm in enumerate(["both", 'it\'s "odd" [a=1,b=2] 100%', "both"]):
        one = identity(f"t{index}", arm=arm)
        store.open(RunIdentity(one.trial_id, f"e{index}", one.name, one.tags, {}), {})
    assert [run.trial_id for run in store.find({"arm": "both"})] == ["t0", "t2"]
    assert [run.trial_id for run in store.find({"arm": 'it\'s "odd" [a=1,b=2] 100%'})] == ["t1"]
    assert store.find({"arm": "both", "trial_id": "t1"}) == []
    assert len(store.find({})) == 3


def test_writing_twice_changes_nothing(store, database):
    run_id = store.open(identity(), {})
    store.log(run_id, EPOCHS)
    before = rows(database)
    assert len(before) == 6
    store.log(run_id, EPOCHS)
    assert rows(database) == before


def test_reopening_continues_the_same_run_without_repeats(store, database):
    run_id = store.open(identity(), {})
    store.log(run_id, EPOCHS[:2])
    store.close(run_id, RunEnding("FAILED", tags={"failure": "nan", "failure_epoch": "2"}))

    again = open_store()
    assert again.open(identity(), {}) == run_id
    (run,) = again.find({"trial_id": "t1"})
    assert run.status == "RUNNING"
    assert "failure" not in run.tags
    # The same epochs as written by another process an hour later: the first ones stay.
    late = [EpochRecord(e.step, e.timestamp_ms + 3_600_000, e.metrics) for e in EPOCHS]
    again.log(run_id, late)
    again.close(run_id, RunEnding("FINISHED", summary={"test_acc": 50.0}))
    again.close(run_id, RunEnding("FINISHED", summary={"test_acc": 50.0}))

    counts = rows(database, "select key, step, count(*) from metrics group by 1, 2")
    assert {count for _, _, count in counts} == {1}
    assert len(counts) == 7
    assert [status for (status,) in rows(database, "select status from runs")] == ["FINISHED"]


def test_many_metrics_go_in_parts(store, database):
    run_id = store.open(identity(), {})
    store.log(run_id, [EpochRecord(s, s, {f"m{i}": 1.0 for i in range(30)}) for s in range(1, 81)])
    assert len(rows(database)) == 2400


def test_a_value_that_is_no_number_is_kept_as_such(store):
    run_id = store.open(identity(), {})
    store.log(run_id, [EpochRecord(1, 1, {"loss": math.nan})])
    assert math.isnan(store.find({})[0].metrics["loss"])


def place() -> str:
    """The part of an owner tag that names this machine."""
    return owner().rpartition(":")[0]


def test_runs_of_dead_processes_are_closed_and_others_are_not(store, database):
    run_id = store.open(identity("dead"), {})
    store.open(identity("alive"), {})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with sqlite3.connect(database) as connection:
        for trial, pid in {"dead": ended.pid, "alive": 1}.items():
            connection.execute(
                "update tags set value = ? where key = 'owner' and run_uuid = "
                "(select run_uuid from tags where key = 'trial_id' and value = ?)",
                (f"{place()}:{pid}", trial),
            )
    assert store.close_orphans() == 1
    assert {run.trial_id: run.status for run in store.find({})} == {
        "dead": "KILLED",
        "alive": "RUNNING",
    }
    assert store.open(identity("dead"), {}) == run_id


def test_a_locked_database_is_waited_for(store, database):
    run_id = store.open(identity(), {})
    holder = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
    holder.execute("begin exclusive")
    timer = threading.Timer(7.0, lambda: holder.execute("rollback"))
    timer.start()
    began = time.monotonic()
    store.log(run_id, EPOCHS)
    assert time.monotonic() - began > 5.0, "longer than SQLite itself waits"
    timer.join()
    holder.close()
    assert len(rows(database)) == 6


@pytest.mark.slow  # SQLite and MLflow wait by themselves
def test_a_database_that_stays_locked_is_an_infrastructure_error(store, database, monkeypatch):
    run_id = store.open(identity(), {})
    monkeypatch.setattr(mlflow_calls, "BUSY_SECONDS", 0.1)
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("begin exclusive")
    with pytest.raises(InfrastructureError, match="locked"):
        store.log(run_id, EPOCHS)
    holder.close()


def test_a_database_that_is_locked_when_it_is_opened_is_waited_for(database):
    holder = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
    holder.execute("begin exclusive")
    timer = threading.Timer(6.0, lambda: holder.execute("rollback"))
    timer.start()
    assert open_store().find({}) == [], "after longer than SQLite itself waits"
    timer.join()
    holder.close()


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "text.db"
    path.write_text("hello " * 500)
    with pytest.raises(InputError, match=f"{path} is not a SQLite database"):
        open_store(f"sqlite:///{path}")


def test_a_store_of_another_mlflow_is_named_with_the_remedy(database):
    with sqlite3.connect(database) as connection:
        connection.execute("update alembic_version set version_num = '451aebb31d03'")
    with pytest.raises(InputError, match=f"`mlflow db upgrade sqlite:///{database}`"):
        open_store()


def set_owner(database, value):
    with sqlite3.connect(database) as connection:
        connection.execute("update tags set value = ? where key = 'owner'", (value,))


def test_what_another_sweep_finished_stays_finished(store, database):
    run_id = store.open(identity(), {})
    store.close(run_id, RunEnding("FINISHED", summary={"test_acc": 50.0}))
    # A second sweep had planned the same trial before that.
    other = open_store()
    assert other.open(identity(arm="mine", sweep="mine"), {"config.json": "{}"}) == run_id
    other.close(run_id, RunEnding("KILLED"))
    other.close(run_id, RunEnding("FAILED", tags={"failure": "x"}))
    (run,) = store.find({})
    assert run.status == "FINISHED"
    assert run.tags["arm"] == "both"
    assert not {"failure", "owner", "sweep"} & run.tags.keys()


def test_row_08_a_run_has_one_writer_and_the_next_one_goes_on(store, database, monkeypatch):
    holder = f"{place()}:{os.getppid()}"
    run_id = store.open(identity(), {})
    store.log(run_id, EPOCHS[:1])
    set_owner(database, holder)
    other = open_store()
    other.open(identity(), {})
    mine = [replace(epoch, timestamp_ms=epoch.timestamp_ms + 1) for epoch in EPOCHS]
    other.log(run_id, mine[:1])
    other.log(run_id, mine[1:])
    other.close(run_id, RunEnding("KILLED"))
    other.close(run_id, RunEnding("FAILED"))
    monkeypatch.setattr(mlflow_store, "HELD_SECONDS", 0.1)
    with pytest.raises(InputError, match=f"is being written by process {os.getppid()} on host"):
        other.close(run_id, RunEnding("FINISHED", summary={"test_acc": 1.0}))
    (run,) = store.find({})
    assert (run.status, run.tags["owner"]) == ("RUNNING", holder)
    assert len(rows(database)) == len(EPOCHS[0].metrics)

    set_owner(database, f"{place()}:{os.getppid()}-1")
    other.close(run_id, RunEnding("FINISHED", summary={"test_acc": 1.0}))
    (run,) = store.find({})
    assert (run.status, run.tags.get("owner")) == ("FINISHED", None)
    wanted = [(key, epoch.step) for epoch in EPOCHS for key in epoch.metrics]
    assert sorted(row[:2] for row in rows(database)) == sorted([*wanted, ("test_acc", 0)])


def test_row_08_who_was_given_up_elsewhere_writes_no_more(store, database):
    run_id = store.open(identity(), {})
    set_owner(database, "elsewhere:1")
    other = open_store()
    other.open(identity(), {})
    (run,) = store.find({})
    assert run.tags["owner"] == owner(), "nobody can ask another host whether it lives"
    set_owner(database, "elsewhere:1")
    for write in (
        lambda: other.log(run_id, EPOCHS),
        lambda: other.close(run_id, RunEnding("FINISHED")),
    ):
        with pytest.raises(InputError, match="was taken over by process 1 on host elsewhere"):
            write()
    other.close(run_id, RunEnding("KILLED"))
    (run,) = store.find({})
    assert (run.status, run.tags["owner"]) == ("RUNNING", "elsewhere:1")


def runs_of(database):
    query = "select run_uuid, status from runs where lifecycle_stage = 'active'"
    return rows(database, query)


def test_two_processes_that_create_a_run_at_once_keep_one(store, database, monkeypatch):
    other = open_store()
    create, theirs = store._client.create_run, []

    def create_late(*arguments, **named):
        theirs.append(other.open(identity(), {}))
        return create(*arguments, **named)

    monkeypatch.setattr(store._client, "create_run", create_late)
    mine = store.open(identity(), {})
    assert len(runs_of(database)) == 1
    for writer, run_id in ((other, theirs[0]), (store, mine)):
        writer.log(run_id, EPOCHS[:2])
    for writer, run_id in ((other, theirs[0]), (store, mine)):
        writer.close(run_id, RunEnding("FINISHED", EPOCHS, {"test_acc": 1.0}, timestamp_ms=7))
    assert [status for _, status in runs_of(database)] == ["FINISHED"]
    wanted = [(key, epoch.step) for epoch in EPOCHS for key in epoch.metrics]
    assert sorted(row[:2] for row in rows(database)) == sorted([*wanted, ("test_acc", 0)])


def test_a_run_that_a_hanging_server_makes_later_is_removed_at_the_end(store, database):
    run_id = store.open(identity(), {})
    experiment = store._experiments()["smoke/synthetic"]
    tags = {"trial_id": "t1", "owner": owner()}
    for _ in range(4):
        store._client.create_run(experiment, tags=tags)
    store.log(run_id, EPOCHS)
    store.close(run_id, RunEnding("FINISHED", EPOCHS, {"test_acc": 1.0}))
    # Whichever has the smallest id; where it is another one, the next call records it.
    again = store.open(identity(), {})
    store.close(again, RunEnding("FINISHED", EPOCHS, {"test_acc": 1.0}))
    assert [status for _, status in runs_of(database)] == ["FINISHED"]
    assert len({row[:2] for row in rows(database)}) >= 7


@pytest.mark.parametrize("at", ["after an epoch", "before the run"])
def test_a_store_that_was_set_back_lacks_nothing_at_the_end(store, database, tmp_path, at):
    def copy(source, target):
        with sqlite3.connect(source) as one, sqlite3.connect(target) as other:
            one.backup(other)

    backup = tmp_path / "backup.db"
    if at == "before the run":
        copy(database, backup)
    run_id = store.open(identity(), {"config.json": "{}"})
    store.log(run_id, EPOCHS[:1])
    if at == "after an epoch":
        copy(database, backup)
    store.log(run_id, EPOCHS[1:])
    copy(backup, database)
    store.close(run_id, RunEnding("FINISHED", EPOCHS, {"test_acc": 1.0}, timestamp_ms=7))
    assert [status for _, status in runs_of(database)] == ["FINISHED"]
    wanted = [(key, epoch.step) for epoch in EPOCHS for key in epoch.metrics]
    assert sorted(row[:2] for row in rows(database)) == sorted([*wanted, ("test_acc", 0)])


def test_values_of_another_training_are_in_no_run_that_ends(store, database):
    run_id = store.open(identity(), {"config.json": "{}"})
    theirs = [replace(epoch, metrics={"val_acc": 1.0, "lr": 0.5}) for epoch in EPOCHS[:2]]
    store.log(run_id, theirs)
    set_owner(database, "elsewhere:1")
    other = open_store()
    mine = other.open(identity(), {"config.json": "{}"})
    assert mine == run_id, "whoever comes last goes on in the same run"
    other.log(mine, EPOCHS)
    other.close(mine, RunEnding("FINISHED", EPOCHS, {"test_acc": 1.0}, timestamp_ms=7))
    (run,) = store.find({"trial_id": "t1"})
    assert (run.status, run.params) == ("FINISHED", identity().params)
    assert other.read_text(run.run_id, "config.json") == "{}"
    kept = store.histories([run.run_id], "val_acc")[run.run_id]
    assert kept == {epoch.step: epoch.metrics["val_acc"] for epoch in EPOCHS}


def test_a_run_has_ended_before_another_process_may_take_it(store, database, monkeypatch):
    run_id = store.open(identity(), {})
    disown, seen = store._client.delete_tag, []

    def look(run, key):
        seen.append((key, store._client.get_run(run).info.status))
        disown(run, key)

    monkeypatch.setattr(store._client, "delete_tag", look)
    store.close(run_id, RunEnding("FINISHED", EPOCHS, {"test_acc": 1.0}, timestamp_ms=7))
    assert seen == [("owner", "FINISHED")]


def test_epochs_that_were_trained_again_stay_in_their_run(store):
    first, again = (
        [
            replace(one, metrics={**one.metrics, "seconds": took, "step_seconds": took})
            for one in EPOCHS
        ]
        for took in (2.0, 1.0)
    )
    run_id = store.open(identity(), {})
    store.log(run_id, first[:2])
    summary = {"test_acc": 1.0, "seconds_train": 3.0}
    store.close(run_id, RunEnding("FINISHED", again, summary, timestamp_ms=7))
    assert [run.run_id for run in store.find({})] == [run_id]
    for name in ("seconds", "step_seconds"):
        assert store.histories([run_id], name)[run_id] == {1: 2.0, 2: 2.0, 3: 1.0}


def test_two_sweeps_that_start_at_once_in_a_new_store_share_a_run(store, database, monkeypatch):
    other = open_store()
    create, theirs = store._client.create_run, []
    elsewhere = replace(identity(), experiment="other/synthetic")

    def create_late(*arguments, **named):
        theirs.append(other.open(elsewhere, {}))
        return create(*arguments, **named)

    monkeypatch.setattr(store._client, "create_run", create_late)
    store.open(identity(), {})
    assert len(runs_of(database)) == 1


def test_a_run_that_is_removed_while_it_is_written_is_tried_again(store, monkeypatch):
    run_id = store.open(identity(), {})
    ending = RunEnding("FINISHED", EPOCHS, {"test_acc": 1.0}, timestamp_ms=7)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(store, "find", lambda tags: [])
        with pytest.raises(InfrastructureError, match="another process removed a run"):
            store.close(run_id, ending)
    store.close(run_id, ending)
    assert [run.status for run in store.find({})] == ["FINISHED"]


def test_infinity_and_nan_are_as_the_database_keeps_them(store):
    run_id = store.open(identity(), {})
    epochs = [EpochRecord(1, 1, {"ratio": math.inf, "loss": math.nan})]
    store.log(run_id, epochs)
    store.close(run_id, RunEnding("FINISHED", epochs, {"test_acc": 1.0}, timestamp_ms=7))
    assert [run.run_id for run in store.find({})] == [run_id], "not taken for another training"


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_file_that_was_removed_or_replaced_is_said_in_those_words(store, database, what):
    run_id = store.open(identity(), {})
    database = Path(database)
    if what == "removed":
        database.unlink()
    else:
        shutil.copy(database, database.with_name("copy"))
        database.with_name("copy").replace(database)
    with pytest.raises(InfrastructureError, match=what):
        store.log(run_id, EPOCHS)


def test_a_discarded_run_makes_room_for_another_one(store, database):
    run_id = store.open(identity(), {})
    store.log(run_id, EPOCHS)
    store.discard(run_id)
    again = open_store()
    assert again.open(identity(), {}) != run_id
    assert len(runs_of(database)) == 1


def test_a_run_keeps_the_tags_of_who_made_it(store):
    first = {"git_commit": "a", "sweep": "one", "arm": "x", "arms": '["x"]'}
    run_id = store.open(identity(**first), {})
    store.close(run_id, RunEnding("KILLED"))
    later = {"git_commit": "b", "sweep": "two", "arm": "y", "arms": '["y"]', "folds": "3"}
    store.open(identity(**later), {})
    (run,) = store.find({})
    assert {key: run.tags[key] for key in first} == first
    assert run.tags["folds"] == "3"
    assert run.tags["owner"] == owner()


def test_a_summary_whose_first_writing_seemed_to_fail_is_there_once(store, database, monkeypatch):
    run_id = store.open(identity(), {})
    store.log(run_id, EPOCHS)
    write = store._client.log_batch

    def answer_lost(*arguments, **named):
        write(*arguments, **named)
        raise OSError("connection reset")

    with monkeypatch.context() as broken:
        broken.setattr(store._client, "log_batch", answer_lost)
        with pytest.raises(InfrastructureError):
            store.close(run_id, RunEnding("FINISHED", summary={"test_acc": 1.0}, timestamp_ms=7))
    store.close(run_id, RunEnding("FINISHED", summary={"test_acc": 1.0}, timestamp_ms=8))
    summary = "select key, timestamp, value from metrics where step = 0"
    assert rows(database, summary) == [("test_acc", 7, 1.0)]


def test_what_the_store_will_never_take_is_bad_input(store):
    run_id = store.open(identity(), {})
    with pytest.raises(InputError, match="tracking store"):
        store.log(run_id, [EpochRecord(1, 1, {"no/such?name": 1.0})])
    with pytest.raises(InputError, match="tracking store"):
        store.close("0" * 32, RunEnding("FINISHED"))


def test_a_deleted_experiment_is_named_with_the_remedy(store, database):
    store.open(identity(), {})
    with sqlite3.connect(database) as connection:
        connection.execute("update experiments set lifecycle_stage = 'deleted'")
    with pytest.raises(InputError, match="mlflow experiments restore"):
        open_store().open(identity("t2"), {})


def test_a_server_that_is_down_is_named_soon_and_without_its_password():
    began = time.monotonic()
    with pytest.raises(InfrastructureError, match=r"http://\*\*\*@127.0.0.1:9") as caught:
        open_store("http://me:secret@127.0.0.1:9")
    assert time.monotonic() - began < 10
    assert "secret" not in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match="package 'psycopg") as caught:
        open_store("postgresql://me:secret@127.0.0.1:9/db")
    assert "secret" not in str(caught.value)


def test_a_database_server_that_is_down_is_named_soon_and_without_its_password():
    began = time.monotonic()
    with pytest.raises(InfrastructureError, match=r"\*\*\*@127.0.0.1:9/db: .*refused") as caught:
        open_store("postgresql://me:se/cret@127.0.0.1:9/db")
    assert time.monotonic() - began < 10, "MLflow alone asks for two minutes"
    assert "cret" not in str(caught.value)


def test_row_11_a_full_disk_is_told_in_one_line(database, capfd):
    from sqlalchemy import Engine, event

    (pages,) = rows(database, "pragma page_count")[0]

    def bound(connection, _):
        connection.execute(f"pragma max_page_count = {pages + 2}")

    event.listen(Engine, "connect", bound)
    try:
        store = open_store(f"sqlite:///{database}")
        run_id = store.open(identity(), {})
        with pytest.raises(InfrastructureError) as full:
            for step in range(1, 1000):
                store.log(run_id, [replace(EPOCHS[0], step=step)])
    finally:
        event.remove(Engine, "connect", bound)
    assert str(full.value).startswith(f"tracking store sqlite:///{database}: ")
    assert str(full.value).endswith("database or disk is full")
    assert capfd.readouterr().err == ""


def test_a_file_that_is_gone_is_named_and_not_tried_for_ever(store, tmp_path):
    run_id = store.open(identity(), {})
    gone = tmp_path / "trials" / "t1" / "predictions.csv"
    with pytest.raises(
        InputError, match=rf"^{gone}: gone before .* remove the folder {gone.parent}"
    ):
        store.close(run_id, RunEnding("FINISHED", files=[gone]))
    assert store.find({"trial_id": "t1"})[0].status == "RUNNING"


def test_the_simulated_server_answers_as_mlflow_does(store, database):
    """What `tests.sweep.simulation` takes for MLflow, request by request."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException

    from tests.sweep.simulation import Server

    def answers(client):
        said = []

        def ask(name, *arguments, **named):
            try:
                answer = getattr(client, name)(*arguments, **named)
            except MlflowException as error:
                said.append((name, error.error_code))
                return None
            if hasattr(answer, "info"):
                info, data = answer.info, answer.data
                tags = {key: value for key, value in data.tags.items() if key != "mlflow.user"}
                said.append((name, info.status, info.lifecycle_stage, tags, data.params))
                said.append(data.metrics)
            elif name == "get_metric_history":
                said.append(sorted((one.step, one.timestamp, one.value) for one in answer))
            elif name == "search_runs":
                said.append(sorted(run.data.tags["mlflow.runName"] for run in answer))
            return answer

        assert ask("get_experiment_by_name", "e") is None
        experiment = ask("create_experiment", "e", None, {})
        ask("create_experiment", "e", None, {})
        for name in ("one", "two"):
            tags = {"trial_id": "t", "owner": f"me {name}"}
            run_id = ask("create_run", experiment, tags=tags, run_name=name).info.run_id
        metrics = [Metric("m", 1.0, 7, 1), Metric("m", 2.0, 8, 1), Metric("m", 3.0, 6, 0)]
        for _ in range(2):
            ask("log_batch", run_id, metrics, [Param("p", "1")], [RunTag("k", "v")])
        ask("log_batch", run_id, [], [Param("p", "2")], [])
        ask("get_metric_history", run_id, "m")
        ask("get_metric_history", run_id, "none")
        ask("log_inputs", run_id, data_inputs(identity(data="d", data_id="i")))
        ask("set_tag", run_id, "k", "w")
        for _ in range(2):
            ask("delete_tag", run_id, "k")
        ask("get_run", run_id)
        everyone = {"experiment_ids": [experiment], "order_by": ["attributes.start_time ASC"]}
        ask(
            "search_runs",
            filter_string="tags.`trial_id` = 't' and tags.`owner` = 'me two'",
            **everyone,
        )
        for status in ("FINISHED", "FAILED"):
            ask("set_terminated", run_id, status)
            ask("search_runs", filter_string="attributes.status = 'RUNNING'", **everyone)
        ask("update_run", run_id, status="RUNNING")
        for _ in range(2):
            ask("delete_run", run_id)
        ask("get_run", run_id)
        for late in ("set_tag", "delete_tag"):
            ask(late, run_id, "k", *["v"] * (late == "set_tag"))
        ask("log_batch", run_id, metrics, [], [])
        ask("set_terminated", run_id, "FINISHED")
        ask("search_runs", filter_string="", **everyone)
        for name in ("get_run", "delete_run"):
            ask(name, "0" * 32)
        return said

    assert answers(Server(random.Random(0))) == answers(store._client)


def test_the_pages_of_mlflow_show_data_source_and_commit(database, store):
    made = {"data": "clips", "data_id": "0123abcd4567", "sweep": "smoke", "git_commit": "aa-dirty"}
    run_id = store.open(identity(**made), {})
    assert rows(database, "select name, digest from datasets") == [("clips", "0123abcd4567")]
    query = f"select key, value from tags where run_uuid = '{run_id}' and key like 'mlflow.%'"
    tags = dict(rows(database, query))
    assert tags["mlflow.source.name"] == "cmkd sweep smoke"
    assert tags["mlflow.source.git.commit"] == "aa"
    assert tags["mlflow.user"]
    store.open(identity("t2", **made), {})
    assert len(rows(database, "select * from datasets")) == 1
