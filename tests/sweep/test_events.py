"""What the driver makes of the news of an engine."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.data import DatasetInfo, EncodingConfig, SplitConfig, ViewsConfig
from cmkd.config.sweep import load_sweep
from cmkd.config.trial import TrialConfig
from cmkd.errors import TrialFailed
from cmkd.sweep.events import TrialEvents
from cmkd.sweep.failures import Failure
from cmkd.sweep.plan import make_plan
from cmkd.sweep.recorder import Origin
from cmkd.sweep.trials import expand, teachers_of
from cmkd.sweep.worker import Update
from cmkd.tracking.store import EpochRecord, RunEnding
from cmkd.training.outcome import TrainingResult

INFO = DatasetInfo(
    name="gestures",
    kind="folder",
    classes=("a", "b"),
    encoding=EncodingConfig(),
    views=ViewsConfig(),
    split=SplitConfig(),
    digest="0",
)
EPOCHS = (
    EpochRecord(1, 70, {"val_acc": 1.0, "seconds": 0.5}),
    EpochRecord(2, 90, {"val_acc": 2.0, "seconds": 0.75}),
)
NOTE = "epoch 1: checkpoint damaged"
OUTCOME = TrainingResult(
    {"test_acc": 3.0},
    (Path("config.json"), Path("predictions.csv")),
    (NOTE, "b"),
    history=EPOCHS,
)
QUIET = TrainingResult({"test_acc": 3.0}, ())


class Engine:
    """Finishes whatever it is given, one after another, whoever's turn it is."""

    def train(self, events: TrialEvents) -> None:
        self.order: list[str] = []
        while (key := events.queue.pop()) is not None:
            self.order.append(key)
            events.started(key)
            events.updated(self.news(key, events.configs[key]))

    def news(self, key: str, config: TrialConfig) -> Update:
        return Update(key, EPOCHS, 2, OUTCOME)


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

    def close(self, trial_id: str, ending: RunEnding, draw_from: Any = ()) -> None:
        self.closed[trial_id] = vars(ending)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def driver_of(
    notes: Any, seeds: int = 1, recorded: Collection[str] = (), workers: int = 2
) -> TrialEvents:
    trials = expand(load_sweep("smoke"), data="d", data_id=INFO.id, folds=1, seeds=seeds)
    origin = Origin("smoke", INFO, 1)
    return TrialEvents(make_plan(trials, ()), origin, notes, notes, recorded, workers=workers)


def train(driver: TrialEvents, engine: Any) -> None:
    engine.train(driver)


def test_a_summary_has_the_time_of_the_last_epoch_and_every_file_goes_once():
    notes, engine = Notes(), Engine()
    driver = driver_of(notes)
    train(driver, engine)
    assert notes.closed.keys() == notes.opened.keys()
    assert len(notes.closed) == 3 + 1
    for key, told in notes.closed.items():
        assert told["timestamp_ms"] == 90
        assert told["summary"] == OUTCOME.summary
        assert told["tags"] == {"notes": f"{NOTE}\nb"}
        names = [*notes.opened[key], *(path.name for path in told["files"])]
        assert sorted(names) == ["config.json", "predictions.csv"]
    assert driver.name == "smoke-gestures", "two sweeps of one name may run at once"
    arms = ["teacher tiny_tsm", "baseline", "control", "both"]
    said = [line.split(" seed 0 fold 0") for line in notes.notes]
    assert [arm for arm, _ in said] == [arm for arm in arms for _ in range(2)]
    assert all(line.endswith(end) for (_, line), end in zip(said, [NOTE, "b"] * 4, strict=True))


def test_a_teacher_imported_as_it_is_has_no_epochs_and_a_quiet_one_no_notes():
    class Imports(Engine):
        def news(self, key: str, config: TrialConfig) -> Update:
            return Update(key, () if key == config.teacher_id else EPOCHS, 0, QUIET)

    notes: Any = Notes()
    train(driver_of(notes), Imports())
    teacher = next(told for key, told in notes.closed.items() if not notes.opened[key])
    assert (teacher["timestamp_ms"], teacher["tags"], notes.notes) == (None, {}, [])


def test_the_time_of_training_is_shown_of_trials_and_of_teachers() -> None:
    shown: dict[str, float] = {}

    class View(Notes):
        def ended(self, trial: Any, progress: Any) -> None:
            shown[trial.name] = trial.seconds

    train(driver_of(View()), Engine())
    assert "teacher tiny_tsm seed 0 fold 0" in shown
    assert set(shown.values()) == {1.25} and len(shown) == 3 + 1


def test_a_teacher_that_the_store_has_is_opened_and_not_recorded_again():
    trials = expand(load_sweep("smoke"), data="d", data_id=INFO.id, folds=1, seeds=1)
    (teacher,) = teachers_of(trials)
    notes, engine = Notes(), Engine()
    driver = driver_of(notes, recorded=[teacher])
    train(driver, engine)
    assert engine.order[0] == teacher, "its files must be there"
    assert teacher not in notes.opened
    assert driver.finished == len(notes.closed) == 3


class Broken(Engine):
    """Fails every trial, in one of several ways; teachers succeed."""

    def __init__(self, *causes: str) -> None:
        self.causes = itertools.cycle(causes)

    def news(self, key: str, config: TrialConfig) -> Update:
        if key == config.teacher_id:
            return super().news(key, config)
        return Update(key, failure=Failure("ValueError", next(self.causes), "", 0))


def test_three_failures_alike_and_nothing_else_stop_the_sweep():
    driver = driver_of(Notes(), seeds=3)
    with pytest.raises(TrialFailed, match=r"^the first 3 trials failed alike.*3 x ValueError: no"):
        train(driver, Broken("no frame 1", "no frame 2"))
    assert len(driver.failures) == 3


def test_failures_of_several_kinds_do_not_stop_it():
    driver = driver_of(Notes(), seeds=3)
    train(driver, Broken("no frame", "no file"))
    assert len(driver.failures) == 9


class Short(Engine):
    """Has memory for one trial at a time."""

    def train(self, events: TrialEvents) -> None:
        self.beside: list[int] = []
        while keys := list(iter(events.queue.pop, None)):
            self.beside.append(len(keys))
            for key in keys:
                events.started(key)
                events.updated(self.short(key) if keys[1:] else self.news(key, events.configs[key]))

    def short(self, key: str) -> Update:
        return Update(key, failure=Failure("OutOfMemoryError", "no GPU memory", "", 0))


def test_trials_that_memory_ran_out_for_are_trained_with_fewer_at_once():
    notes, engine = Notes(), Short()
    driver = driver_of(notes, seeds=3, workers=4)
    train(driver, engine)
    assert (driver.finished, driver.failures) == (9, [])
    assert engine.beside == [4, 2] + [1] * 12
    assert any(line.endswith("no GPU memory; goes on with 2 at once") for line in notes.notes)
    assert {told["status"] for told in notes.closed.values()} == {"FINISHED"}


def test_a_trial_that_has_the_machine_to_itself_fails_of_memory():
    class Tiny(Short):
        def news(self, key: str, config: TrialConfig) -> Update:
            return super().news(key, config) if key == config.teacher_id else self.short(key)

    notes: Any = Notes()
    driver = driver_of(notes, workers=2)
    with pytest.raises(TrialFailed, match="OutOfMemoryError: no GPU memory"):
        train(driver, Tiny())
    assert len(driver.failures) == 3


class Untaught(Engine):
    """Fails teachers alone."""

    def news(self, key: str, config: TrialConfig) -> Update:
        if key == config.teacher_id:
            return Update(key, failure=Failure("ValueError", "no", "", 0))
        return super().news(key, config)


def test_untaught_trials_fail_untried_and_do_not_stop_the_others():
    notes, engine = Notes(), Untaught()
    driver = driver_of(notes, seeds=3)
    train(driver, engine)
    assert (driver.finished, len(driver.failures)) == (6, 3 + 3)
    assert len(engine.order) == 3 + 6, "no worker took an untaught trial"
    causes = {failure.cause for name, failure in driver.failures if name.startswith("both")}
    assert causes == {"TeacherFailed: ValueError: no"}
    assert len(notes.opened) == len(notes.closed) == 3 + 9, "each has its run"
