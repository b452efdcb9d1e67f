"""A sweep as a list of trials."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks.planning import plan_once
from cmkd.config.sweep import Sweep, load_sweep
from cmkd.sweep.trials import expand, teachers_of

SPEC = """
name: s
description: two arms of three are one setting
blocks:
  baseline: {method.decoder: [false], method.lambda_1: [0.0], method.lambda_2: [0.0]}
  grid: {method.lambda_1: [0.1, 0.5]}
  both: {method.lambda_1: [0.1]}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    path = tmp_path / "s.yaml"
    path.write_text(SPEC)
    return load_sweep(str(path))


def trials(sweep: Sweep, folds: int = 2, seeds: int = 2):
    return expand(sweep, data="d", data_id="id", folds=folds, seeds=seeds)


def test_arms_of_one_setting_share_a_trial(sweep):
    assert [trial.arms for trial in trials(sweep, folds=1, seeds=1)] == [
        ("baseline",),
        ("grid[lambda_1=0.1]", "both"),
        ("grid[lambda_1=0.5]",),
    ]


def test_a_shared_trial_is_trained_as_the_arm_says_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\ndescription: d\nblocks: {first: {}, second: {training.compile: [true]}}\n"
    )
    (trial,) = trials(load_sweep(str(path)), folds=1, seeds=1)
    assert trial.arms == ("first", "second")
    assert not trial.config.setting.training.compile


def test_every_arm_gets_seed_0_in_every_fold_first(sweep):
    order = [(t.config.seed, t.config.fold, t.arm) for t in trials(sweep)]
    assert len(order) == 12
    assert order == sorted(order, key=lambda one: one[:2])
    assert [one[:2] for one in order[:6]] == [(0, 0)] * 3 + [(0, 1)] * 3


def test_ids_are_those_of_the_configs_and_all_differ(sweep):
    planned = trials(sweep)
    assert all(trial.id == trial.config.id for trial in planned)
    assert len({trial.id for trial in planned}) == len(planned)


def test_the_name_says_arm_fold_and_seed(sweep):
    assert trials(sweep)[0].name == "baseline seed 0 fold 0"


def test_one_teacher_per_replicate_and_none_without_distillation(sweep):
    planned = trials(sweep)
    teachers = teachers_of(planned)
    drawn = [(config.teacher_seed, config.fold) for config in teachers.values()]
    assert drawn == [(0, 0), (0, 1), (1, 0), (1, 1)], "in the order of the trials"
    assert all(config.teacher_id == key for key, config in teachers.items())
    assert teachers_of(tuple(t for t in planned if t.arm == "baseline")) == {}


def test_the_calls_of_a_plan_grow_no_faster_than_its_trials():
    plan_once(seeds=1)
    few, more, most = (calls_of(partial(plan_once, seeds)) for seeds in (2, 20, 38))
    assert most - more < 1.01 * (more - few)


def calls_of(function: Callable[[], object]) -> int:
    """Calls of Python and C functions: the same on every machine, whatever else it does."""
    profile = cProfile.Profile()
    profile.runcall(function)
    return pstats.Stats(profile).total_calls


def test_the_reference_on_motion_vectors_needs_no_teacher(tmp_path):
    path = tmp_path / "svm.yaml"
    path.write_text("name: s\ndescription: d\nblocks: {svm: {model: [motion_svm]}}\n")
    assert teachers_of(trials(load_sweep(str(path)))) == {}
