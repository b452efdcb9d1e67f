"""What the driver makes of the news of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmkd.config.data import DatasetInfo, EncodingConfig, SplitConfig, ViewsConfig
from cmkd.config.sweep import load_sweep
from cmkd.config.trial import TrialConfig
from cmkd.sweep.driver import Driver
from cmkd.sweep.expand import expand
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
OUTCOME = Outcome({"test_acc": 3.0}, (Path("config.json"), Path("predictions.csv")))


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
    driver = Driver(make_plan(trials, None), origin, recorder, view, ())
    driver.train_teachers(trainer, guard)
    driver.train_trials(trainer, guard)
    assert notes.closed.keys() == notes.opened.keys()
    assert len(notes.closed) == 3 + 1
    for key, told in notes.closed.items():
        assert told["timestamp_ms"] == 90
        assert told["summary"] == OUTCOME.summary
        names = [*notes.opened[key], *(path.name for path in told["files"])]
        assert sorted(names) == ["config.json", "predictions.csv"]
    assert engine.name == "smoke-gestures", "two sweeps of one name may run at once"
