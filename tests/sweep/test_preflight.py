"""What is tried before a sweep starts, and what its forecast rests on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.sweep import load_sweep
from cmkd.config.trial import Setting
from cmkd.data.dataset import Dataset, open_dataset
from cmkd.errors import ConfigError, TrialFailed
from cmkd.sweep.forecast import BESIDES
from cmkd.sweep.plan import Plan, expand, flat, make_plan, teachers_of
from cmkd.sweep.preflight import preflight
from cmkd.tracking.store import RunRecord
from cmkd.training.cost import Probe

SPEC = """
name: s
description: d
base: {{training.epochs: 4, student.width: 4, teacher.width: 4, method.heads: 1, method.hidden: 4}}
blocks:
  a: {{method.lambda_1: [0.1, 0.2]}}
  b: {{{extra}}}
"""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset("synthetic-smoke", tmp_path_factory.mktemp("cache"))


def plan_of(folder: Path, dataset: Dataset, runs: list[RunRecord], extra: str = "") -> Plan:
    path = folder / "s.yaml"
    path.write_text(SPEC.format(extra=extra))
    trials = expand(load_sweep(str(path)), data="d", data_id=dataset.id, folds=1, seeds=2)
    return make_plan(trials, runs)


def runs_of_seed_0(plan: Plan) -> list[RunRecord]:
    """Finished trials of 8 s each, and the teachers of the plan."""
    found = []
    for trial in plan.trials:
        setting = trial.config.setting
        tags = {"kind": "trial", "setting_id": setting.id}
        if trial.config.seed == 0:
            params, metrics = flat(setting.as_json()), {"seconds_train": 8.0}
            found.append(RunRecord("r", trial.id, "FINISHED", tags, params, metrics))
    for teacher in teachers_of(plan.trials):
        found.append(RunRecord("t", teacher, "FINISHED", {"kind": "teacher"}, {}, {}))
    return found


def test_what_has_finished_before_needs_no_trial_step(
    tmp_path: Path, smoke: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("cmkd.data.workers.run_tasks", refuse)
    runs = runs_of_seed_0(plan_of(tmp_path, smoke, []))
    plan = plan_of(tmp_path, smoke, runs)
    expected = preflight(plan, smoke, runs, workers=1).forecast
    assert expected.sources == {"finished trials": 2}
    assert expected.device.likely == pytest.approx(2 * (8.0 + BESIDES.likely))


def test_an_axis_that_acts_in_arms_that_are_done_is_not_dead_in_those_that_are_left(
    tmp_path: Path, smoke: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(
        _: Dataset, students: Mapping[str, Setting], teachers: Mapping[str, Setting]
    ) -> tuple[Any, Any, Any]:
        found = {}
        for key, one in students.items():
            of = one.method
            acting = (of.lambda_1, of.lambda_2, of.tg_edge if of.lambda_2 else "")
            found[key] = Probe(fingerprint=str(acting), seconds=1.0, memory=1)
        return found, {key: Probe(seconds=1.0) for key in teachers}, ()

    monkeypatch.setattr("cmkd.sweep.preflight._probe", steps)
    extra = "method.lambda_2: [1.0, 0.0], method.tg_edge: [sqrt, raw]"
    whole = plan_of(tmp_path, smoke, [], extra)
    assert preflight(whole, smoke, [], workers=1).forecast
    acting = [one for one in whole.trials if one.config.setting.method.lambda_2]
    runs = [
        RunRecord("r", one.id, "FINISHED", {"setting_id": one.config.setting.id}, {}, {})
        for one in acting
    ]
    left = plan_of(tmp_path, smoke, runs, extra)
    assert 0 < len(left.to_run) < len(whole.to_run)
    assert preflight(left, smoke, runs, workers=1).forecast
    dead = plan_of(tmp_path, smoke, [], "method.lambda_2: [0.0], method.tg_edge: [sqrt, raw]")
    with pytest.raises(ConfigError, match=r"^method\.tg_edge: the values of this axis give"):
        preflight(dead, smoke, [], workers=1)


@pytest.mark.slow  # torch, in a process of its own
def test_a_step_that_fails_stops_everything_and_names_the_arm(
    tmp_path: Path, smoke: Dataset
) -> None:
    plan = plan_of(tmp_path, smoke, [], "training.checkpointing: [true]")
    with pytest.raises(TrialFailed, match=r"^a step of arm 'b' fails, so nothing was started: "):
        preflight(plan, smoke, [], workers=1)


@pytest.mark.slow  # torch, in a process of its own
def test_workers_are_as_many_as_find_room(
    tmp_path: Path, smoke: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, smoke, [])
    monkeypatch.setattr("cmkd.sweep.preflight.free_memory", lambda: 2 * 10**9)
    expected = preflight(plan, smoke, [], workers=64)
    assert expected.room.free == (2 * 10**9,)
    assert 600 * 2**20 < expected.room.need < 10**9
    assert expected.forecast.workers == 2
    assert expected.lines()[0].startswith("2 instead of 64 workers: a trial was measured to need")
    assert expected.lines()[1:] == [expected.forecast.describe()]
    elsewhere = preflight(plan, smoke, [], workers=64, is_shared=False)
    assert (elsewhere.forecast.workers, len(elsewhere.lines())) == (64, 1)
