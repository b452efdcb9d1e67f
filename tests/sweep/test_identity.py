"""Names, tags and params of runs."""

from __future__ import annotations

import json
from dataclasses import replace

from cmkd.config.data import DatasetInfo, EncodingConfig, SplitConfig, ViewsConfig
from cmkd.config.trial import SELECTION_RULE, Setting, TrialConfig
from cmkd.provenance import this_code
from cmkd.sweep.recorder import Origin, teacher_identity, trial_identity
from cmkd.sweep.trials import PlannedTrial

INFO = DatasetInfo(
    name="gestures",
    kind="folder",
    classes=("a", "b"),
    encoding=EncodingConfig(),
    views=ViewsConfig(),
    split=SplitConfig(),
    digest="0",
)
ORIGIN = Origin("ablation", INFO, 5)
CONFIG = TrialConfig(setting=Setting(), data="/x/gestures", data_id=INFO.id, fold=2, seed=3)


def test_a_trial_is_tagged_with_everything_that_finds_it():
    trial = PlannedTrial(CONFIG.id, CONFIG, ("both", "grid[a=1,b=2]"))
    identity = trial_identity(trial, ORIGIN)
    assert identity.trial_id == CONFIG.id
    assert identity.experiment == "ablation/gestures"
    assert identity.name == "both seed 3 fold 2"
    assert identity.tags == {
        "kind": "trial",
        "sweep": "ablation",
        "arm": "both",
        "arms": '["both", "grid[a=1,b=2]"]',
        "seed": "3",
        "fold": "2",
        "folds": "5",
        "trial_id": CONFIG.id,
        "setting_id": CONFIG.setting.id,
        "data": "gestures",
        "data_id": INFO.id,
        "data_kind": "folder",
        "teacher": CONFIG.teacher_id,
        **this_code().tags(),
        "selection": SELECTION_RULE,
    }


def test_a_trial_of_a_later_stage_says_what_was_selected_and_why():
    trial = PlannedTrial(CONFIG.id, CONFIG, ("both",))
    plain = trial_identity(trial, ORIGIN).tags
    tags = trial_identity(trial, replace(ORIGIN, choices={"best": "best = 0.1: ..."})).tags
    assert tags == {**plain, "selected_best": "best = 0.1: ..."}


def test_a_data_set_without_groups_says_so_in_every_run():
    trial = PlannedTrial(CONFIG.id, CONFIG, ("both",))
    tags = trial_identity(trial, replace(ORIGIN, split_warning="gestures has no groups")).tags
    assert tags == {**trial_identity(trial, ORIGIN).tags, "leak_warning": "gestures has no groups"}


def test_params_are_the_whole_setting_flattened():
    trial = PlannedTrial(CONFIG.id, CONFIG, ("both",))
    params = trial_identity(trial, ORIGIN).params
    assert params["method.lambda_1"] == "0.1"
    assert params["method.decoder"] == "true"
    assert params["method.gate"] == "off"
    assert json.loads(params["method.tg"]) == [1, 2, 3]
    assert params["teacher.training.epochs"] == "20"


def test_a_teacher_is_found_by_its_own_id():
    identity = teacher_identity(CONFIG, ORIGIN)
    assert identity.trial_id == identity.tags["trial_id"] == CONFIG.teacher_id
    assert identity.tags["kind"] == "teacher"
    assert CONFIG.setting.teacher.seed is None
    assert identity.tags["seed"] == identity.params["teacher.seed"] == "3", "that of the trial"
    assert all(key.startswith("teacher.") for key in identity.params)


def test_what_tells_runs_apart_is_in_the_part_of_a_name_that_a_narrow_column_shows():
    config = CONFIG.model_copy(update={"fold": 0})
    trial = PlannedTrial(config.id, config, ("tsm_temporal",))
    assert "seed 3" in trial_identity(trial, ORIGIN).name[:20]
    backbone = config.setting.teacher.backbone
    assert backbone in teacher_identity(config, ORIGIN).name[:20]


def test_an_experiment_is_described_in_the_words_of_its_sweep():
    origin = replace(ORIGIN, about="what KD adds")
    trial = PlannedTrial(CONFIG.id, CONFIG, ("both",))
    assert trial_identity(trial, origin).about == "what KD adds"
    assert teacher_identity(CONFIG, origin).about == "what KD adds"


def test_a_further_seed_says_what_it_is_for():
    trial = PlannedTrial(CONFIG.id, CONFIG, ("both",), "both vs control: open")
    assert trial_identity(trial, ORIGIN).tags["added_for"] == "both vs control: open"
