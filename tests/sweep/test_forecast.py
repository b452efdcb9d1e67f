"""How long a plan will take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmkd.config.sweep import load_sweep
from cmkd.config.trial import Setting
from cmkd.sweep.plan import Plan, make_plan
from cmkd.sweep.preflight import (
    BESIDES,
    START,
    Preflight,
    Room,
    class_of,
    forecast,
    known_costs,
    teacher_class,
)
from cmkd.sweep.progress import duration
from cmkd.sweep.run import too_large
from cmkd.sweep.trials import expand, flat
from cmkd.tracking.store import RunRecord

SPEC = """
name: s
description: d
base: {training.epochs: 10, teacher.training.epochs: 5}
blocks:
  a: {method.lambda_1: [0.1, 0.2], method.lambda_2: [0.0]}
  long: {method.lambda_1: [0.1], method.lambda_2: [0.0], training.epochs: [30]}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "s.yaml"
    path.write_text(SPEC)
    trials = expand(load_sweep(str(path)), data="d", data_id="id", folds=1, seeds=1)
    return make_plan(trials, ())


def setting(**changes: object) -> Setting:
    method = {key: value for key, value in changes.items() if key != "training"}
    return Setting.model_validate({"method": method, "training": changes.get("training", {})})


def finished(one: Setting, seconds: float) -> RunRecord:
    params = flat(one.as_json())
    metrics = {"seconds_train": seconds - 1.0, "seconds_open": 1.0}
    return RunRecord("r", "t", "FINISHED", {"kind": "trial"}, params, metrics)


def test_weights_and_rates_cost_the_same_but_a_loss_more_does_not() -> None:
    plain = class_of(setting(lambda_1=0.1, lambda_2=1.0))
    assert class_of(setting(lambda_1=5.0, lambda_2=0.5, training={"lr": 0.1})) == plain
    assert class_of(setting(training={"epochs": 99})) == plain
    for other in (
        setting(lambda_1=0.0),
        setting(logits="mse"),
        setting(gate="softmax"),
        setting(training={"batch_size": 8}),
    ):
        assert class_of(other) != plain


def test_finished_trials_tell_what_an_epoch_costs() -> None:
    ten = setting(training={"epochs": 10})
    known = known_costs([finished(ten, 20.0), finished(ten, 40.0), finished(ten, 30.0)])
    assert known.keys() == {class_of(ten)}
    assert known[class_of(ten)].tolist() == [2.0, 3.0, 4.0]
    low, _, high = known_costs([finished(ten, 20.0)])[class_of(ten)]
    assert low < 2.0 < high, "one trial shows no spread, so one is allowed for"


def test_finished_teachers_tell_what_an_epoch_of_theirs_costs() -> None:
    params = flat({"teacher": Setting().teacher.as_json()})
    run = RunRecord("r", "t", "FINISHED", {"kind": "teacher"}, params, {"seconds": 7.0})
    known = known_costs([run])
    assert known.keys() == {teacher_class(flat(Setting().as_json()))}
    assert known[teacher_class(flat(Setting().as_json()))][1] == 7.0


def test_the_forecast_adds_up(plan: Plan) -> None:
    setting = plan.trials[0].config.setting
    name, teacher = class_of(setting), teacher_class(flat(setting.as_json()))
    epoch, lesson = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    alone = forecast(plan, {name: epoch}, {teacher: lesson}, [setting], workers=1)
    # 10 + 10 + 30 epochs of the trials, 5 of the teacher.
    assert np.allclose(alone.device, np.array([70.0, 125.0, 180.0]) + 3 * BESIDES)
    assert np.allclose(alone.wall, START + alone.device)
    assert alone.sources == {"finished trials": 3}

    pair = forecast(plan, {}, {name: epoch}, workers=2)
    assert np.allclose(pair.device, np.array([50.0, 100.0, 150.0]) + 3 * BESIDES)
    # The longest trial may start last and then runs alone for half of its time.
    longest = 60.0 + BESIDES[1]
    assert pair.wall[1] == pytest.approx(START[1] + pair.device[1] / 2 + longest / 4)
    assert pair.sources == {"a measured step": 3}


def test_what_nothing_is_known_of_is_said(plan: Plan) -> None:
    blind = forecast(plan, {}, {}, workers=2)
    assert blind.sources == {"nothing": 3}
    assert "known from nothing (3)" in blind.describe()


def test_the_description_gives_the_range(plan: Plan) -> None:
    name = class_of(plan.trials[0].config.setting)
    told = forecast(plan, {name: np.array([60.0, 72.0, 144.0])}, {}, workers=1).describe()
    assert told == (
        "about 60 min (50 min to 2.0 h) with 1 workers, 1 device-hours; "
        "known from finished trials (3)"
    )


def test_many_trials_and_long_ones_are_asked_about(plan: Plan, tmp_path: Path) -> None:
    name = class_of(plan.trials[0].config.setting)
    hour, day = (
        Preflight(forecast(plan, {name: np.full(3, cost)}, {}, workers=1), Room(), 1)
        for cost in (72.0, 1800.0)
    )
    assert too_large(plan, hour) == ""
    assert too_large(plan, day) == "3 trials are to run, in about 25.0 h"
    path = tmp_path / "s.yaml"
    many = expand(load_sweep(str(path)), data="d", data_id="id", folds=1, seeds=67)
    assert too_large(make_plan(many, ()), hour).startswith("201 trials are to run")


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (720, "12 min"), (11520, "3.2 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
