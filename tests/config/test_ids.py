"""Ids that last: what enters them, pinned values, and what a new field does to them."""

from __future__ import annotations

import time
from typing import Annotated

import pytest
from pydantic import Field

from cmkd.config.base import Config, Knob, Neutral, content_id
from cmkd.config.data import InputConfig
from cmkd.config.method import MethodConfig
from cmkd.config.sweep import load_sweep
from cmkd.config.trial import (
    Setting,
    TeacherConfig,
    TeacherTrainingConfig,
    TrainingConfig,
    TrialConfig,
    preset,
)

REMEDY = "finished trials of every store would be trained again: give the new field a Neutral value"


def trial(setting: Setting) -> TrialConfig:
    return TrialConfig(setting=setting, data="synthetic", data_id="d0", fold=0, seed=0)


PINNED = {
    "default": ("32e8e1580de5", "490ddba81628", "cc9eab96d858"),
    "tsm-ssv2": ("66d202a43ddd", "e4e82c5899ca", "5fdc07b37432"),
    "tdn-ucf-hmdb": ("df848d4d6355", "df03fc92d895", "a25a9fc57c82"),
}


@pytest.mark.parametrize("name", PINNED)
def test_ids_of_settings_trials_and_teachers_last(name: str) -> None:
    setting = Setting() if name == "default" else preset(name)
    made = trial(setting)
    assert (setting.id, made.id, made.teacher_id) == PINNED[name], REMEDY


def test_ids_of_the_ablation_last() -> None:
    ids = [arm.setting.id for arm in load_sweep("ablation").arms]
    assert content_id(*ids) == "1ad1308c4a13", REMEDY


class MethodOfTomorrow(MethodConfig):
    lambda_3: Annotated[float, Neutral(0.0)] = Field(default=0.0, ge=0)
    mixing: Annotated[tuple[int, ...], Neutral(())] = ()


class Averaging(Config):
    decay: Annotated[float, Neutral(0.0)] = 0.0


class TrainingOfTomorrow(TrainingConfig):
    averaging: Averaging = Averaging()
    workers: Annotated[int, Knob()] = 1


class SettingOfTomorrow(Setting):
    method: MethodOfTomorrow = MethodOfTomorrow()
    training: TrainingOfTomorrow = TrainingOfTomorrow()


def test_an_inert_field_changes_no_id() -> None:
    today, tomorrow = Setting(), SettingOfTomorrow()
    assert tomorrow.as_json() != today.as_json()
    assert (tomorrow.id, trial(tomorrow).id) == (today.id, trial(today).id)


@pytest.mark.parametrize(
    "changed",
    [
        SettingOfTomorrow(method=MethodOfTomorrow(lambda_3=0.1)),
        SettingOfTomorrow(method=MethodOfTomorrow(mixing=(1,))),
        SettingOfTomorrow(training=TrainingOfTomorrow(averaging=Averaging(decay=0.9))),
    ],
)
def test_a_new_field_that_is_used_changes_ids(changed: Setting) -> None:
    assert changed.id != Setting().id
    assert trial(changed).id != trial(Setting()).id


class OtherDefault(MethodOfTomorrow):
    lambda_3: Annotated[float, Neutral(0.0)] = Field(default=0.5, ge=0)


def test_a_neutral_value_is_no_default() -> None:
    # The default moved: what was written out keeps its id, and the new default has one of its own.
    assert OtherDefault(lambda_3=0.0).identity() == MethodConfig().identity()
    assert OtherDefault().identity() == MethodOfTomorrow(lambda_3=0.5).identity()


@pytest.mark.parametrize("knob", ["checkpointing", "compile"])
def test_knobs_change_no_id(knob: str) -> None:
    plain = Setting()
    turned = Setting(
        training=TrainingConfig(**{knob: True}),
        teacher=TeacherConfig(training=TeacherTrainingConfig(**{knob: True})),
    )
    assert turned != plain
    assert (turned.id, trial(turned).id, trial(turned).teacher_id) == (
        plain.id,
        trial(plain).id,
        trial(plain).teacher_id,
    )


def test_precision_and_parts_of_a_batch_are_no_knobs() -> None:
    changed = [TrainingConfig(precision="bf16"), TrainingConfig(accumulate=2)]
    ids = {Setting().id, *(Setting(training=one).id for one in changed)}
    assert len(ids) == 3


def test_a_default_of_its_own_does_not_hide_a_field() -> None:
    later = {"views", "loaders"}
    known = {key: value for key, value in InputConfig().as_json().items() if key not in later}
    assert InputConfig().identity() == known
    assert InputConfig(views="fresh", loaders=3).identity() == {**known, "views": "fresh"}


def test_ids_by_seed_cost_a_digest_and_no_config() -> None:
    made = trial(Setting())
    started = time.process_time()
    for _ in range(500):
        _ = made.id
    each = (time.process_time() - started) / 500
    started = time.process_time()
    count = sum(1 for _ in made.by_seed(range(100_000)))
    by_seed = (time.process_time() - started) / count
    assert by_seed < each / 5
