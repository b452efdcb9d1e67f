"""What is tried before a sweep starts, and what its forecast rests on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.sweep import load_sweep
from cmkd.config.trial import Setting
from cmkd.data.dataset import Dataset
from cmkd.errors import ConfigError, TrialFailed
from cmkd.provenance import this_code
from cmkd.sweep.plan import Plan, make_plan
from cmkd.sweep.preflight import BESIDES, Step, preflight
from cmkd.sweep.trials import expand, flat, teachers_of
from cmkd.tracking.store import RunRecord
from tests.conftest import share_data

ROOT = Path(__file__).resolve().parents[2]
SPEC = """
name: s
description: d
base: {{training.epochs: 4, student.width: 4, teacher.width: 4, method.heads: 1, method.hidden: 4}}
blocks:
  a: {{method.lambda_1: [0.1, 0.2]}}
  b: {{{extra}}}
"""


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
    expected = preflight(plan, smoke, runs, tmp_path, workers=1).forecast
    assert expected.sources == {"finished trials": 2}
    assert expected.device[1] == pytest.approx(2 * (8.0 + BESIDES[1]))


def test_an_axis_that_acts_in_arms_that_are_done_is_not_dead_in_those_that_are_left(
    tmp_path: Path, smoke: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(
        _: Dataset, students: Mapping[str, Setting], teachers: Mapping[str, Setting], cache: Path
    ) -> tuple[Any, Any]:
        found = {key: Step(seconds=1.0) for key in teachers}
        for key, one in students.items():
            of = one.method
            acting = (of.lambda_1, of.lambda_2, of.tg_edge if of.lambda_2 else "")
            found[key] = Step(fingerprint=str(acting), seconds=1.0, memory=1)
        return found, ()

    monkeypatch.setattr("cmkd.sweep.preflight._take_steps", steps)
    extra = "method.lambda_2: [1.0, 0.0], method.tg_edge: [sqrt, raw]"
    whole = plan_of(tmp_path, smoke, [], extra)
    assert preflight(whole, smoke, [], tmp_path, workers=1).forecast
    acting = [one for one in whole.trials if one.config.setting.method.lambda_2]
    runs = [
        RunRecord("r", one.id, "FINISHED", {"setting_id": one.config.setting.id}, {}, {})
        for one in acting
    ]
    left = plan_of(tmp_path, smoke, runs, extra)
    assert 0 < len(left.to_run) < len(whole.to_run)
    assert preflight(left, smoke, runs, tmp_path, workers=1).forecast
    dead = plan_of(tmp_path, smoke, [], "method.lambda_2: [0.0], method.tg_edge: [sqrt, raw]")
    with pytest.raises(ConfigError, match=r"^method\.tg_edge: the values of this axis give"):
        preflight(dead, smoke, [], tmp_path, workers=1)


class Steps:
    """Stands in for the process that tries networks; keeps their number per call."""

    def __init__(self) -> None:
        self.tried: list[int] = []

    def __call__(self, _: Any, tasks: Any, **__: Any) -> Any:
        ((students, teachers, *_rest),) = tasks
        count = len(students) + len(teachers)
        self.tried.append(count)
        steps = [
            Step(fingerprint=f"{len(self.tried)} {n}", seconds=1.0, memory=2**20)
            for n in range(count)
        ]
        return [(tasks[0], (steps, (2**30,)))]


def test_a_known_network_is_not_tried_again(
    tmp_path: Path, smoke: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps()
    monkeypatch.setattr("cmkd.data.workers.run_tasks", steps)
    plan = plan_of(tmp_path, smoke, [])
    first = preflight(plan, smoke, [], tmp_path, workers=4)
    again = preflight(plan, smoke, [], tmp_path, workers=4)
    assert steps.tried == [3], "two students and a teacher, once"
    assert (again.room, again.lines()) == (first.room, first.lines())
    assert again.room.free == (2**30,)

    records = sorted((tmp_path / "preflight").iterdir())
    assert len(records) == 3
    records[0].write_text("{")
    preflight(plan, smoke, [], tmp_path, workers=4)
    assert steps.tried == [3, 1], "a damaged record is made again"

    other = replace(this_code(), code="0" * 12)
    monkeypatch.setattr("cmkd.sweep.preflight.this_code", lambda: other)
    preflight(plan, smoke, [], tmp_path, workers=4)
    assert steps.tried == [3, 1, 3], "other code is tried again"


def test_leaks_and_too_few_steps_are_told_before_anything_trains(
    tmp_path: Path, smoke: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmkd.data.workers.run_tasks", Steps())
    own = replace(smoke, info=smoke.info.model_copy(update={"kind": "folder", "name": "mine"}))
    expected = preflight(plan_of(tmp_path, own, []), own, [], tmp_path, workers=1)
    assert expected.lines() == [*expected.warnings, expected.forecast.describe()]
    leak, *steps = expected.warnings
    assert leak == own.split_warning
    assert steps and all("too few to learn" in line for line in steps)
    assert preflight(plan_of(tmp_path, smoke, []), smoke, [], tmp_path, workers=1).warnings == ()


KNOWN = """
import sys
from pathlib import Path
from cmkd.config.sweep import load_sweep
from cmkd.sweep.plan import SweepRequest
from cmkd.sweep.progress import SweepView
from cmkd.sweep.run import preview
import cmkd.data.workers
from tests.sweep.test_preflight import Steps

class View(SweepView):
    pass

steps = cmkd.data.workers.run_tasks = Steps()
cache = Path(sys.argv[1])
request = SweepRequest(load_sweep("smoke"), "synthetic-smoke", 1, 1, cache, f"sqlite:///{cache}/x")
for _ in range(2):
    preview(request, View())
print(len(steps.tried), "torch" in sys.modules)
"""


def test_a_sweep_without_new_networks_imports_no_torch(smoke_data: Path, tmp_path: Path) -> None:
    cache = share_data(smoke_data, tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", KNOWN, str(cache)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1:] == ["1 False"], done.stderr


@pytest.mark.slow  # torch, in a process of its own
def test_a_step_that_fails_stops_everything_and_names_the_arm(
    tmp_path: Path, smoke: Dataset
) -> None:
    plan = plan_of(tmp_path, smoke, [], "training.checkpointing: [true], method.lambda_1: [0.3]")
    with pytest.raises(
        TrialFailed, match=r"^a step of arm 'b\b.*' fails, so nothing was started: "
    ):
        preflight(plan, smoke, [], tmp_path, workers=1)


@pytest.mark.slow  # torch, in a process of its own
def test_workers_are_as_many_as_find_room(
    tmp_path: Path, smoke: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, smoke, [])
    monkeypatch.setattr("cmkd.sweep.preflight.free_memory", lambda: 2 * 10**9)
    expected = preflight(plan, smoke, [], tmp_path, workers=64)
    assert expected.room.free == (2 * 10**9,)
    assert 600 * 2**20 < expected.room.need < 10**9
    assert expected.forecast.workers == 2
    assert expected.lines()[0].startswith("2 instead of 64 workers: a trial was measured to need")
    assert expected.lines()[1:] == [expected.forecast.describe()]
    elsewhere = preflight(plan, smoke, [], tmp_path, workers=64, is_shared=False)
    assert (elsewhere.forecast.workers, len(elsewhere.lines())) == (64, 1)
