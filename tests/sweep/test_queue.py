"""Whose turn it is."""

from __future__ import annotations

from cmkd.sweep.events import TrialQueue


def taken(queue: TrialQueue) -> list[str]:
    """All that starts now."""
    return list(iter(queue.pop, None))


def test_trials_without_a_teacher_run_beside_it() -> None:
    trials = {"kd": "t", "plain": None, "kd 2": "t", "plain 2": None, "plain 3": None}
    queue = TrialQueue(["t"], trials, workers=2)
    assert taken(queue) == ["t", "plain"]
    queue.ended("plain")
    assert taken(queue) == ["plain 2"]
    queue.ended("t")
    assert taken(queue) == ["kd"], "in the order of the sweep once the teacher is there"
    queue.ended("kd")
    queue.ended("plain 2")
    assert taken(queue) == ["kd 2", "plain 3"]
    assert not queue.exhausted, "what runs may have to run again"
    queue.ended("kd 2")
    queue.ended("plain 3")
    assert queue.exhausted


def test_a_worker_waits_rather_than_start_a_trial_untaught() -> None:
    queue = TrialQueue(["t"], {"kd": "t"}, workers=2)
    assert taken(queue) == ["t"]
    assert not queue.exhausted
    queue.ended("t")
    assert taken(queue) == ["kd"]


def test_each_trial_waits_for_its_own_teacher() -> None:
    queue = TrialQueue(["a", "b"], {"of a": "a", "of b": "b"}, workers=2)
    assert taken(queue) == ["a", "b"]
    queue.ended("b")
    assert taken(queue) == ["of b"]
    assert queue.waiting_for("a") == ("of a",)
    assert queue.waiting_for("b") == ()


def test_a_teacher_starts_when_those_that_are_there_have_no_trials_left() -> None:
    trials = {"plain 0": None, "kd 0": "a", "plain 1": None, "kd 1": "b"}
    queue = TrialQueue(["a", "b"], trials, workers=1)
    order = []
    while not queue.exhausted:
        (key,) = taken(queue)
        queue.ended(key)
        order.append(key)
    assert order == ["a", "plain 0", "kd 0", "b", "plain 1", "kd 1"]


def test_workers_train_further_teachers_rather_than_nothing() -> None:
    queue = TrialQueue(["a", "b", "c"], {"plain": None, "of c": "c"}, workers=3)
    assert taken(queue) == ["a", "plain", "b"]
    queue.ended("a")
    assert taken(queue) == ["c"]


def test_a_trial_takes_the_workers_of_all_its_processes() -> None:
    queue = TrialQueue(["t"], {"1": None, "2": None}, workers=4, processes=2)
    assert taken(queue) == ["t", "1"], "one worker is free, and the next trial needs two"
    queue.ended("t")
    assert taken(queue) == ["2"]


def test_trials_of_a_lost_teacher_can_be_dropped() -> None:
    queue = TrialQueue(["t"], {"kd": "t", "plain": None}, workers=1)
    assert taken(queue) == ["t"]
    for key in queue.waiting_for("t"):
        queue.drop(key)
    queue.ended("t")
    assert taken(queue) == ["plain"]
    queue.ended("plain")
    assert queue.exhausted


def test_what_memory_ran_out_for_is_taken_again_beside_fewer() -> None:
    queue = TrialQueue([], dict.fromkeys("abcd"), workers=4)
    assert taken(queue) == ["a", "b", "c", "d"]
    assert queue.requeue("b") == 2
    assert taken(queue) == [], "three of them run, which is one more than may start"
    queue.ended("a")
    queue.ended("c")
    assert taken(queue) == ["b"]
    assert queue.requeue("d") == 2, "it ran beside three, so it was not tried with fewer yet"
    assert queue.requeue("b") == 1
    assert taken(queue) == ["b"]
    assert queue.requeue("b") == 0, "it was alone"
    queue.ended("b")
    assert taken(queue) == ["d"]
    queue.ended("d")
    assert queue.exhausted


def test_trials_still_wait_for_a_teacher_that_is_taken_again() -> None:
    queue = TrialQueue(["t", "u"], {"kd": "t"}, workers=2)
    assert taken(queue) == ["t", "u"]
    assert queue.requeue("t") == 1
    assert taken(queue) == []
    queue.ended("u")
    assert taken(queue) == ["t"]
    assert taken(queue) == []
    queue.ended("t")
    assert taken(queue) == ["kd"]


def test_the_processes_of_one_trial_are_the_fewest() -> None:
    queue = TrialQueue([], dict.fromkeys("ab"), workers=4, processes=2)
    assert taken(queue) == ["a", "b"]
    assert queue.requeue("a") == 2
    queue.ended("b")
    assert taken(queue) == ["a"]
    assert queue.requeue("a") == 0


def test_a_teacher_out_of_memory_leaves_room_for_trials_of_several_processes() -> None:
    queue = TrialQueue(["t", "u"], {"1": "t", "2": "t"}, workers=2, processes=2)
    assert taken(queue) == ["t", "u"]
    assert queue.requeue("t") == 1
    queue.ended("u")
    assert taken(queue) == ["t"]
    queue.ended("t")
    assert taken(queue) == ["1"], "alone it may take both"
    queue.ended("1")
    assert taken(queue) == ["2"]


def test_what_dies_alone_costs_the_others_no_workers() -> None:
    queue = TrialQueue([], dict.fromkeys("abcd"), workers=2)
    assert taken(queue) == ["a", "b"]
    assert queue.requeue("a") == 1
    queue.ended("b")
    assert taken(queue) == ["a"]
    assert queue.requeue("a") == 0
    queue.ended("a")
    assert taken(queue) == ["c", "d"], "both workers train again"
