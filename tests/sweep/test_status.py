"""How a sweep stands, for other processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cmkd.cli.main import app
from cmkd.machine import owner
from cmkd.sweep.progress import (
    ArmStatus,
    Progress,
    RunningTrial,
    StatusWriter,
    SweepStatus,
    TrialProgress,
    saved_statuses,
    status_file,
)
from cmkd.tracking.store import EpochRecord

GONE = owner().rpartition(":")[0] + ":999999999"


class Silent:
    """A view that says nothing, and yes."""

    def confirm(self, question: str) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.fixture
def progress() -> Progress:
    trials = {f"{arm}{n}": TrialProgress(arm, f"{arm} {n}", 4) for arm in "ab" for n in (0, 1)}
    teachers = {"t": TrialProgress("teacher", "teacher", 9)}
    progress = Progress(trials, teachers, clock=lambda: 0.0)
    progress.started("t")
    progress.advanced("t", 1, [EpochRecord(1, 0, {"val_acc": 5.0, "seconds": 1.0})])
    progress.started("a0")
    progress.advanced("a0", 1, [EpochRecord(1, 0, {"val_acc": 50.0, "seconds": 1.0})])
    progress.ended("a1", "done", test_acc=60.0, seconds=4.0)
    progress.ended("b0", "failed", "ValueError: no 1")
    return progress


def test_a_block_keeps_what_its_board_says_until_its_end(
    tmp_path: Path, progress: Progress
) -> None:
    view: Any = Silent()
    with status_file(view, tmp_path, "s", "d", "sqlite:///x.db") as watched:
        assert watched.confirm("?")
        assert saved_statuses(tmp_path) == []
        watched.show(progress)
        (now,) = saved_statuses(tmp_path)
    assert (now.sweep, now.data, now.owner, now.ending) == ("s", "d", owner(), "")
    assert now.store == f"sqlite:///{Path.cwd() / 'x.db'}"
    assert (now.done, now.running, now.failed, now.to_go) == (1, 1, 1, 1), "trials, no teachers"
    assert now.arms == (
        ArmStatus("teacher", 0, 1, 0, 0, 5.0),
        ArmStatus("a", 1, 1, 0, 0, 50.0),
        ArmStatus("b", 0, 0, 1, 1, None),
    )
    assert now.training == (RunningTrial("teacher", 1, 9), RunningTrial("a 0", 1, 4))
    assert now.failures == ("1 x ValueError: no 1 [b 0]",)
    (after,) = saved_statuses(tmp_path)
    assert (after.state, after.running, after.to_go, after.training) == ("ended", 0, 2, ())
    assert after.arms[1] == ArmStatus("a", 1, 0, 0, 1, 50.0)


def test_an_error_is_the_ending_and_a_dead_driver_is_seen(
    tmp_path: Path, progress: Progress
) -> None:
    view: Any = Silent()
    with pytest.raises(ZeroDivisionError), status_file(view, tmp_path, "s", "d", "u") as watched:
        watched.show(progress)
        raise ZeroDivisionError("by 0")
    (one,) = saved_statuses(tmp_path)
    assert one.state == "stopped, ZeroDivisionError: by 0"
    assert SweepStatus("s", "d", "u", GONE).state == "died"
    assert SweepStatus("s", "d", "u", "another-host:1").state == "running", "who can tell"


def test_a_sweep_with_nothing_to_train_leaves_what_was_known(
    tmp_path: Path, progress: Progress
) -> None:
    view: Any = Silent()
    with status_file(view, tmp_path, "s", "d", "u") as watched:
        watched.show(progress)
    before = saved_statuses(tmp_path)
    with status_file(view, tmp_path, "s", "d", "u"):
        pass
    assert saved_statuses(tmp_path) == before


def test_right_after_a_resume_no_zeros_are_told_and_the_first_counts_at_once(
    tmp_path: Path, progress: Progress
) -> None:
    view: Any = Silent()
    with status_file(view, tmp_path / "cache", "s", "d", "u") as watched:
        watched.stage("trying a step", 0, 1)
        told = CliRunner().invoke(app, ["status"]).output
        assert "trying a step: 0/1" in told
        assert "done" not in told
        watched.show(progress)
        assert "1 done, 1 running, 1 failed, 1 to go" in CliRunner().invoke(app, ["status"]).output


def test_a_disk_that_refuses_stops_nothing_and_news_are_few(
    tmp_path: Path, progress: Progress
) -> None:
    (tmp_path / "sweeps").write_text("not a folder")
    view: Any = Silent()
    with status_file(view, tmp_path, "s", "d", "u") as watched:
        watched.show(progress)
    now = [0.0]
    path = tmp_path / "s.json"
    journal = StatusWriter(view, path, SweepStatus("s", "d", "u", owner()), lambda: now[0])
    for now[0] in (10.0, 11.0, 13.0):
        journal.show(progress)
        if now[0] == 11.0:
            assert json.loads(path.read_text())["updated"] == 10.0
    assert json.loads(path.read_text())["updated"] == 13.0


def test_what_runs_comes_first_and_other_versions_are_left_out(
    tmp_path: Path, progress: Progress
) -> None:
    view: Any = Silent()
    for name, who in (("old", GONE), ("mine", "elsewhere:1"), ("new", GONE)):
        path = tmp_path / "sweeps" / f"{name}.json"
        StatusWriter(view, path, SweepStatus(name, "d", "u", who)).show(progress)
    (tmp_path / "sweeps" / "later.json").write_text('{"sweep": "later"}')
    (tmp_path / "sweeps" / "cut.json").write_text('{"sweep": "cut", "arms"')
    assert [one.sweep for one in saved_statuses(tmp_path)] == ["mine", "new", "old"]
