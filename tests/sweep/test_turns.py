"""Whose turn it is."""

from __future__ import annotations

from cmkd.sweep.queue import Turns


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
    assert not turns.over, "what runs may have to run again"
    turns.ended("kd 2")
    turns.ended("plain 3")
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


def test_a_teacher_starts_when_those_that_are_there_have_no_trials_left() -> None:
    trials = {"plain 0": None, "kd 0": "a", "plain 1": None, "kd 1": "b"}
    turns = Turns(["a", "b"], trials, workers=1)
    order = []
    while not turns.over:
        (key,) = taken(turns)
        turns.ended(key)
        order.append(key)
    assert order == ["a", "plain 0", "kd 0", "b", "plain 1", "kd 1"]


def test_workers_train_further_teachers_rather_than_nothing() -> None:
    turns = Turns(["a", "b", "c"], {"plain": None, "of c": "c"}, workers=3)
    assert taken(turns) == ["a", "plain", "b"]
    turns.ended("a")
    assert taken(turns) == ["c"]


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
    turns.ended("plain")
    assert turns.over


def test_what_memory_ran_out_for_is_taken_again_beside_fewer() -> None:
    turns = Turns([], dict.fromkeys("abcd"), workers=4)
    assert taken(turns) == ["a", "b", "c", "d"]
    assert turns.again("b") == 2
    assert taken(turns) == [], "three of them run, which is one more than may start"
    turns.ended("a")
    turns.ended("c")
    assert taken(turns) == ["b"]
    assert turns.again("d") == 2, "it ran beside three, so it was not tried with fewer yet"
    assert turns.again("b") == 1
    assert taken(turns) == ["b"]
    assert turns.again("b") == 0, "it was alone"
    turns.ended("b")
    assert taken(turns) == ["d"]
    turns.ended("d")
    assert turns.over


def test_trials_still_wait_for_a_teacher_that_is_taken_again() -> None:
    turns = Turns(["t", "u"], {"kd": "t"}, workers=2)
    assert taken(turns) == ["t", "u"]
    assert turns.again("t") == 1
    assert taken(turns) == []
    turns.ended("u")
    assert taken(turns) == ["t"]
    assert taken(turns) == []
    turns.ended("t")
    assert taken(turns) == ["kd"]


def test_the_processes_of_one_trial_are_the_fewest() -> None:
    turns = Turns([], dict.fromkeys("ab"), workers=4, processes=2)
    assert taken(turns) == ["a", "b"]
    assert turns.again("a") == 2
    turns.ended("b")
    assert taken(turns) == ["a"]
    assert turns.again("a") == 0


def test_a_teacher_out_of_memory_leaves_room_for_trials_of_several_processes() -> None:
    turns = Turns(["t", "u"], {"1": "t", "2": "t"}, workers=2, processes=2)
    assert taken(turns) == ["t", "u"]
    assert turns.again("t") == 1
    turns.ended("u")
    assert taken(turns) == ["t"]
    turns.ended("t")
    assert taken(turns) == ["1"], "alone it may take both"
    turns.ended("1")
    assert taken(turns) == ["2"]


def test_what_dies_alone_costs_the_others_no_workers() -> None:
    turns = Turns([], dict.fromkeys("abcd"), workers=2)
    assert taken(turns) == ["a", "b"]
    assert turns.again("a") == 1
    turns.ended("b")
    assert taken(turns) == ["a"]
    assert turns.again("a") == 0
    turns.ended("a")
    assert taken(turns) == ["c", "d"], "both workers train again"
