"""Counts, best so far and the time left."""

from __future__ import annotations

import pytest

from cmkd.config.sweep import load_sweep
from cmkd.sweep.plan import make_plan
from cmkd.sweep.progress import Progress, TrialProgress
from cmkd.sweep.trials import expand
from cmkd.tracking.store import EpochRecord, RunRecord, RunStatus


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def progress(now):
    trials = {f"{arm}{n}": TrialProgress(arm, f"{arm} {n}", 10) for arm in "ab" for n in (0, 1)}
    trials["a0"].status = "done"
    teachers = {"t": TrialProgress("teacher", "teacher", 4)}
    return Progress(trials, teachers, lambda: now[0])


def epochs(last: int, *accuracies: float, seconds: float = 0.0) -> list[EpochRecord]:
    """Records that end with the epoch `last`."""
    first = last - len(accuracies) + 1
    return [
        EpochRecord(step, 0, {"val_acc": accuracy, "seconds": seconds})
        for step, accuracy in enumerate(accuracies, first)
    ]


def test_counts_follow_the_trials(progress):
    assert progress.arms() == ["teacher", "a", "b"]
    assert (progress.count("done"), progress.count("to go"), progress.count("to go", "b")) == (
        1,
        3,
        2,
    )
    progress.started("b0")
    progress.started("b1")
    progress.ended("b1", "failed", "why")
    assert (progress.count("running"), progress.count("failed"), progress.count("to go")) == (
        1,
        1,
        1,
    )
    progress.ended("b0", "done", test_acc=81.0, seconds=2.0)
    assert progress.count("done") == 2
    assert progress.trials["b1"].cause == "why"
    progress.started("t")
    assert (progress.count("running", "teacher"), progress.count("running")) == (1, 0), "no trial"


def test_a_board_starts_where_the_plan_is():
    trials = expand(load_sweep("smoke"), data="d", data_id="id", folds=1, seeds=1)
    ends: tuple[RunStatus, ...] = ("FINISHED", "FAILED", "KILLED")
    cause = {"failure_kind": "TrialFailed"}
    runs = [RunRecord("r", t.id, end, cause, {}) for t, end in zip(trials, ends, strict=True)]
    for retry, statuses in {
        False: ["done", "failed", "to go"],
        True: ["done", "to go", "to go"],
    }.items():
        progress = Progress.of(make_plan(trials, runs, retry_failed=retry))
        assert [trial.status for trial in progress.trials.values()] == statuses


def test_a_board_has_the_teachers_that_are_needed():
    trials = expand(load_sweep("smoke"), data="d", data_id="id", folds=2, seeds=2)
    names = [one.name for one in Progress.of(make_plan(trials, ())).teachers.values()]
    assert sorted(names) == [f"teacher tiny_tsm seed {s} fold {n}" for s in (0, 1) for n in (0, 1)]


def test_the_best_of_an_arm_is_over_its_trials_and_epochs(progress):
    assert progress.best("b") is None
    progress.advanced("b0", 2, epochs(2, 40.0, 30.0))
    progress.advanced("b1", 1, epochs(1, 35.0))
    progress.advanced("b0", 1, epochs(3, 20.0))
    assert progress.best("b") == 40.0
    assert progress.best("a") is None


def test_the_time_left_counts_epochs_of_this_session_only(progress, now):
    progress.ended("t", "done", test_acc=90.0, seconds=0.0)
    assert progress.seconds_left() is None
    progress.started("a1")
    assert progress.seconds_left() is None
    now[0] += 20.0
    # Resumed at epoch 6, of which one was trained now: 20 s an epoch, 4 + 10 + 10 to go.
    progress.advanced("a1", 1, epochs(6, *[1.0] * 6, seconds=20.0))
    assert progress.seconds_left() == pytest.approx(20.0 * 24)
    progress.ended("b0", "failed", "why")
    assert progress.seconds_left() == pytest.approx(20.0 * 14)


def test_the_time_left_knows_that_arms_and_teachers_differ(progress, now):
    for key in ("t", "a1"):
        progress.started(key)
    now[0] += 40.0
    # Two workers trained 80 s of epochs in 40 s: an epoch of the teacher lasts 60 s, of a 20 s.
    progress.advanced("t", 1, epochs(1, 1.0, seconds=60.0))
    progress.advanced("a1", 1, epochs(1, 1.0, seconds=20.0))
    progress.ended("b0", "failed", "why")
    progress.ended("b1", "failed", "why")
    assert progress.seconds_left() == pytest.approx(max((3 * 60 + 9 * 20) / 2, 3 * 60, 9 * 20))
    progress.ended("t", "done", test_acc=90.0, seconds=0.0)
    assert progress.seconds_left() == pytest.approx(9 * 20), "one worker has nothing to do"
