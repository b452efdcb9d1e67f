"""What the driver makes of the news of an engine."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.data import DatasetInfo, EncodingConfig, SplitConfig, ViewsConfig
from cmkd.config.sweep import load_sweep
from cmkd.config.trial import TrialConfig
from cmkd.errors import TrialFailed
from cmkd.sweep.driver import Driver
from cmkd.sweep.expand import expand, teachers_of
from cmkd.sweep.failures import Failure
from cmkd.sweep.identity import Origin
from cmkd.sweep.plan import make_plan
from cmkd.sweep.signals import SignalGuard
from cmkd.sweep.worker import Outcome, Update
from cmkd.tracking.records import EpochRecord

INFO = DatasetInfo(
    name="gestures",
    kind="folder",
    classes=("a", "b"),
    encoding=EncodingConfig(),
    views=ViewsConfig(),
    split=SplitConfig(),
    digest="0",
)
EPOCHS = (EpochRecord(1, 70, {"val_acc": 1.0}), EpochRecord(2, 90, {"val_acc": 2.0}))
NOTE = "epoch 1: checkpoint damaged"
OUTCOME = Outcome({"test_acc": 3.0}, (Path("config.json"), Path("predictions.csv")), (NOTE, "b"))


class Engine:
    """Finishes whatever it is given."""

    def train_teachers(self, configs: Mapping[str, TrialConfig], tick: Any) -> list[Update]:
        return [Update(key, EPOCHS, 0, OUTCOME) for key in configs]

    def train_trials(self, configs: Mapping[str, TrialConfig], events: Any, name: str) -> None:
        self.name = name
        for key in configs:
            events.started(key)
            events.updated(Update(key, EPOCHS, 2, OUTCOME))


class Notes:
    """Recorder and view that keep what a run is opened and closed with."""

    def __init__(self) -> None:
        self.opened: dict[str, Mapping[str, str]] = {}
        self.closed: dict[str, Mapping[str, Any]] = {}
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def open(self, identity: Any, artifacts: Mapping[str, str]) -> None:
        self.opened[identity.trial_id] = artifacts

    def close(self, trial_id: str, status: str, **rest: Any) -> None:
        self.closed[trial_id] = rest

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_a_summary_has_the_time_of_the_last_epoch_and_every_file_goes_once():
    trials = expand(load_sweep("smoke"), data="d", data_id=INFO.id, folds=1, seeds=1)
    notes, engine, guard = Notes(), Engine(), SignalGuard()
    origin = Origin("smoke", INFO, 1, "")
    recorder: Any = notes
    view: Any = notes
    trainer: Any = engine
    driver = Driver(make_plan(trials, ()), origin, recorder, view, ())
    driver.train_teachers(trainer, guard)
    driver.train_trials(trainer, guard)
    assert notes.closed.keys() == notes.opened.keys()
    assert len(notes.closed) == 3 + 1
    for key, told in notes.closed.items():
        assert told["timestamp_ms"] == 90
        assert told["summary"] == OUTCOME.summary
        assert told["tags"] == {"notes": f"{NOTE}\nb"}
        names = [*notes.opened[key], *(path.name for path in told["files"])]
        assert sorted(names) == ["config.json", "predictions.csv"]
    assert engine.name == "smoke-gestures", "two sweeps of one name may run at once"
    names = ["teacher of fold 0", *(trial.name for trial in trials)]
    assert notes.notes == [f"{name}: {note}" for name in names for note in (NOTE, "b")]


def test_a_teacher_imported_as_it_is_has_no_epochs_and_a_quiet_one_no_notes():
    trials = expand(load_sweep("smoke"), data="d", data_id=INFO.id, folds=1, seeds=1)
    notes: Any = Notes()
    driver = Driver(make_plan(trials, ()), Origin("smoke", INFO, 1, ""), notes, notes, ())
    engine: Any = Engine()
    quiet = Outcome({"test_acc": 3.0}, ())
    engine.train_teachers = lambda configs, tick: [Update(key, (), 0, quiet) for key in configs]
    driver.train_teachers(engine, SignalGuard())
    (told,) = notes.closed.values()
    assert (told["timestamp_ms"], told["tags"], notes.notes) == (None, {}, [])


class Broken(Engine):
    """Fails whatever it is given, in one of several ways."""

    def __init__(self, *causes: str) -> None:
        self.causes = causes

    def train_trials(self, configs: Mapping[str, TrialConfig], events: Any, name: str) -> None:
        for key, cause in zip(configs, itertools.cycle(self.causes)):
            events.started(key)
            events.updated(Update(key, failure=Failure("ValueError", cause, "", 0)))


def driver_of(seeds: int) -> Driver:
    trials = expand(load_sweep("smoke"), data="d", data_id=INFO.id, folds=1, seeds=seeds)
    notes: Any = Notes()
    return Driver(make_plan(trials, ()), Origin("smoke", INFO, 1, ""), notes, notes, ())


def test_three_failures_alike_and_nothing_else_stop_the_sweep():
    driver, engine = driver_of(seeds=3), Broken("no frame 1", "no frame 2")
    trainer: Any = engine
    with pytest.raises(TrialFailed, match=r"^the first 3 trials failed alike.*3 x ValueError: no"):
        driver.train_trials(trainer, SignalGuard())
    assert len(driver.failures) == 3


def test_failures_of_several_kinds_do_not_stop_it():
    driver, engine = driver_of(seeds=3), Broken("no frame", "no file")
    trainer: Any = engine
    driver.train_trials(trainer, SignalGuard())
    assert len(driver.failures) == 9


def test_untaught_trials_do_not_stop_it():
    driver = driver_of(seeds=3)
    trials = expand(load_sweep("smoke"), data="d", data_id=INFO.id, folds=1, seeds=1)
    (teacher,) = teachers_of(trials)
    lost = [Update(teacher, failure=Failure("ValueError", "no", "", 0))]
    engine: Any = Engine()
    engine.train_teachers = lambda configs, tick: lost
    driver.train_teachers(engine, SignalGuard())
    driver.train_trials(engine, SignalGuard())
    assert (driver.finished, len(driver.failures)) == (6, 1 + 3)
