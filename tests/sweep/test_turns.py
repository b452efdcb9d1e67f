"""Whose turn it is."""

from __future__ import annotations

from cmkd.sweep.turns import Turns


def taken(turns: Turns) -> list[str]:
    """All that starts now."""
    return list(iter(turns.take, None))


def test_trials_without_a_teacher_run_beside_it() -> None:
    trials = {"kd": "t", "plain": None, "kd 2": "t", "plain 2": None, "plain 3": None}
    turns = Turns(["t"], trials, workers=2)
    assert taken(turns) == ["t", "plain"]
    turns.ended("plain")
    assert taken(turns) == ["plain 2"]
    turns.ended("t")
    assert taken(turns) == ["kd"], "in the order of the sweep once the teacher is there"
    turns.ended("kd")
    turns.ended("plain 2")
    assert taken(turns) == ["kd 2", "plain 3"]
    assert turns.over


def test_a_worker_waits_rather_than_start_a_trial_untaught() -> None:
    turns = Turns(["t"], {"kd": "t"}, workers=2)
    assert taken(turns) == ["t"]
    assert not turns.over
    turns.ended("t")
    assert taken(turns) == ["kd"]


def test_each_trial_waits_for_its_own_teacher() -> None:
    turns = Turns(["a", "b"], {"of a": "a", "of b": "b"}, workers=2)
    assert taken(turns) == ["a", "b"]
    turns.ended("b")
    assert taken(turns) == ["of b"]
    assert turns.waiting_for("a") == ("of a",)
    assert turns.waiting_for("b") == ()


def test_teachers_go_before_trials_so_that_none_of_them_is_late() -> None:
    turns = Turns(["a", "b", "c"], {"plain": None}, workers=2)
    assert taken(turns) == ["a", "b"]
    turns.ended("a")
    assert taken(turns) == ["c"]
    turns.ended("c")
    assert taken(turns) == ["plain"]


def test_a_trial_takes_the_workers_of_all_its_processes() -> None:
    turns = Turns(["t"], {"1": None, "2": None}, workers=4, processes=2)
    assert taken(turns) == ["t", "1"], "one worker is free, and the next trial needs two"
    turns.ended("t")
    assert taken(turns) == ["2"]


def test_trials_of_a_lost_teacher_can_be_dropped() -> None:
    turns = Turns(["t"], {"kd": "t", "plain": None}, workers=1)
    assert taken(turns) == ["t"]
    for key in turns.waiting_for("t"):
        turns.drop(key)
    turns.ended("t")
    assert taken(turns) == ["plain"]
    assert turns.over
