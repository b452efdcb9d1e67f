"""`cmkd.results`: frames of a store, whoever serves it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pandas as pd
import pytest

import cmkd
from cmkd.config.backbones import BACKBONES, Backbone, find_backbone
from cmkd.errors import InputError
from cmkd.results import family_of, read_runs
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.reader import open_reader
from cmkd.tracking.store import EpochRecord, RunEnding, RunIdentity

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

CLIPS = "clip,group,label,selected,last\r\na/1,,a,a,b\r\nb/1,s1,b,a,b\r\n"
RANKED = "clip,group,label,selected,last,rank\r\na/1,,a,a,b,1\r\nb/1,s1,b,a,b,7\r\n"
WEIGHTS = {"control": "0.0", "both": "0.1"}


def fill(uri: str, folder: Path) -> None:
    """Two arms with two seeds each, two epochs, and a teacher."""
    store = open_store(uri)
    for arm, weight in WEIGHTS.items():
        for seed in (0, 1):
            name = f"{arm}-{seed}"
            tags = {
                "kind": "trial",
                "sweep": "mine",
                "data": "clips",
                "data_id": "d1",
                "arm": arm,
                "seed": str(seed),
                "fold": "0",
                "folds": "1",
                "teacher": "t1",
                "setting_id": f"s-{arm}",
                "trial_id": name,
            }
            params = {
                "method.lambda_1": weight,
                "student.backbone": "tiny_tsm",
                "method.tg": "[1]" if arm == "both" else "[1, 2]",
                "training.epochs": "2",
            }
            run = store.open(RunIdentity(name, "mine/clips", name, tags, params), {})
            first = EpochRecord(1, 1, {"val_acc": 50.0, "loss": 1.5})
            store.log(run, [first, EpochRecord(2, 2, {"val_acc": 60.0 + seed})])
            file = folder / "predictions.csv"
            file.write_text(CLIPS if arm == "control" else RANKED, newline="")
            store.close(run, RunEnding("FINISHED", summary={"test_acc": 50.0 + seed}, files=[file]))
    teacher = RunIdentity("t1", "mine/clips", "t", {"kind": "teacher", "trial_id": "t1"}, {})
    store.open(teacher, {})


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> str:
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        uri = f"sqlite:///{folder}/mlflow.db"
        fill(uri, folder)
    return uri


def test_trials_have_what_names_them_their_swept_keys_and_metrics(uri: str) -> None:
    found = cmkd.results.trials(uri)
    assert found["arm"].tolist() == ["control", "control", "both", "both"]
    assert found["seed"].tolist() == [0, 1, 0, 1]
    assert found["fold"].tolist() == [0] * 4
    assert set(found["family"]) == {"TSM"}
    assert set(found["teacher"]) == {"t1"}
    assert found["method.lambda_1"].tolist() == [0.0, 0.0, 0.1, 0.1]
    assert found["method.tg"].tolist() == ["[1, 2]"] * 2 + ["[1]"] * 2
    assert found["test_acc"].tolist() == [50.0, 51.0, 50.0, 51.0]
    assert "training.epochs" not in found


def test_epochs_have_a_row_each_and_nan_where_nothing_was_logged(uri: str) -> None:
    found = cmkd.results.epochs(uri)
    assert len(found) == 8
    of_one = found[(found["arm"] == "both") & (found["seed"] == 1)]
    assert of_one["epoch"].tolist() == [1, 2]
    assert of_one["val_acc"].tolist() == [50.0, 61.0]
    assert of_one["loss"].isna().tolist() == [False, True]


def test_predictions_have_a_row_per_clip(uri: str) -> None:
    found = cmkd.results.predictions(uri)
    assert len(found) == 8
    assert found["clip"].tolist()[:2] == ["a/1", "b/1"]
    assert found["group"].tolist()[:2] == ["", "s1"]
    right = found["label"].astype(str) == found["selected"].astype(str)
    assert right.groupby(found["trial_id"]).mean().tolist() == [0.5] * 4
    assert found["rank"].isna().groupby(found["arm"]).all().to_dict() == {
        "both": False,
        "control": True,
    }
    assert found["rank"].dropna().tolist() == [1, 7] * 2


def test_filters(uri: str) -> None:
    assert len(cmkd.results.trials(uri, data="d1", sweep="mine")) == 4
    assert list(cmkd.results.trials(uri, sweep="other").columns)[:2] == ["trial_id", "run_id"]
    assert len(cmkd.results.epochs(uri, sweep="other")) == 0
    assert len(cmkd.results.predictions(uri, sweep="other")) == 0
    assert len(cmkd.results.trials(uri, status="FAILED")) == 0


def test_mlflow_reads_the_same(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = [read(uri) for read in reads()]
    monkeypatch.setattr("cmkd.tracking.reader._open_file", lambda path, uri: None)
    for one, read in zip(direct, reads(), strict=True):
        pd.testing.assert_frame_equal(one, read(uri), check_like=True)


def reads() -> Iterator[Callable[[str], pd.DataFrame]]:
    yield from (cmkd.results.trials, cmkd.results.epochs, cmkd.results.predictions)


def test_runs_have_their_tags_and_metrics(uri: str) -> None:
    runs = read_runs(open_reader(uri), {"sweep": "mine"})
    assert runs["trial_id"].tolist() == ["control-0", "control-1", "both-0", "both-1"]
    assert runs["seed"].tolist() == ["0", "1"] * 2
    assert runs["test_acc"].tolist() == [50.0, 51.0] * 2
    assert runs["git_commit"].isna().all()
    none = read_runs(open_reader(uri), {"sweep": "other"})
    assert none.empty and {"trial_id", "seed", "data"} <= set(none.columns)


def test_no_store_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.db.*run a sweep"):
        cmkd.results.trials(f"sqlite:///{tmp_path}/none.db")


def test_a_fresh_interpreter_loads_nothing_heavy(uri: str) -> None:
    code = (
        "import sys, cmkd\n"
        "assert 'pandas' not in sys.modules\n"
        f"assert len(cmkd.results.trials({uri!r})) == 4\n"
        f"cmkd.results.epochs({uri!r})\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'optuna', 'scipy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stderr


def test_many_epochs_are_read_in_a_fixed_number_of_queries(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "many.db"
    with (
        sqlite3.connect(uri.removeprefix("sqlite:///")) as source,
        sqlite3.connect(copy) as target,
    ):
        source.backup(target)
        (run,) = target.execute("SELECT run_uuid FROM tags WHERE value = 'both-1'").fetchone()
        target.executemany(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
            "VALUES ('val_acc', 1.0, ?, ?, ?, 0)",
            [(step, run, step) for step in range(3, 1001)],
        )
    from cmkd.tracking.reader import SqliteReader

    queries = []
    rows = SqliteReader._cursor
    monkeypatch.setattr(
        SqliteReader, "_cursor", lambda self, *a: queries.append(a) or rows(self, *a)
    )
    found = cmkd.results.epochs(f"sqlite:///{copy}")
    assert len(found) == 8 + 998
    metrics = 3  # A query each, for those of the summary as well.
    assert len(queries) == 6 + metrics


def test_family_of_a_backbone_comes_from_the_table_of_backbones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = replace(find_backbone("tiny_tsm"), name="my_tdn_like", family="Mine")
    monkeypatch.setitem(cast("dict[str, Backbone]", BACKBONES), entry.name, entry)
    assert family_of("my_tdn_like") == "Mine"
    assert family_of("tdn_r50") == "TDN"
    assert family_of("") is None
    assert family_of("not_installed:Backbone") is None
