"""Typed configs and the ids made of them."""

import hashlib
import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from cmkd.config.backbones import find_backbone
from cmkd.config.base import Config, ContentIds, content_id
from cmkd.config.data import (
    DatasetInfo,
    EncodingConfig,
    InputConfig,
    OfficialPart,
    SplitConfig,
    ViewsConfig,
)
from cmkd.config.method import MethodConfig
from cmkd.config.trial import (
    Setting,
    StudentConfig,
    TeacherConfig,
    TeacherTrainingConfig,
    TrainingConfig,
    TrialConfig,
)


def trial(**changes: Any) -> TrialConfig:
    values = {"setting": Setting(), "data": "synthetic", "data_id": "d0", "fold": 0, "seed": 0}
    return TrialConfig(**{**values, **changes})


def info(**changes: Any) -> DatasetInfo:
    values: dict[str, Any] = {
        "name": "clips",
        "kind": "folder",
        "classes": ("left", "right", "still"),
        "encoding": EncodingConfig(),
        "views": ViewsConfig(),
        "split": SplitConfig(),
        "digest": "0" * 64,
    }
    return DatasetInfo(**{**values, **changes})


PART = OfficialPart(name="UCF-101", split="all", clips=3, annotated=3, complete=True)


def test_what_a_published_set_is_belongs_to_its_id_and_to_no_other() -> None:
    # The id of a folder was this before there were published sets by name.
    assert info().id == "1d5844619f54"
    ids = {
        info(kind="official", official=part).id
        for part in (PART, PART.model_copy(update={"complete": False}))
    }
    assert len({info().id, info(kind="official", official=PART).id} | ids) == 3


@pytest.mark.parametrize(
    "changes", [{"official": PART}, {"kind": "official"}, {"kind": "embedded", "official": PART}]
)
def test_only_the_official_kind_is_a_published_set(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="does not go with kind"):
        info(**changes)


@pytest.mark.parametrize("clips", [2, 4])
def test_a_whole_set_lacks_no_clip(clips: int) -> None:
    with pytest.raises(ValidationError, match=f"{clips} of 3 clips"):
        OfficialPart(name="UCF-101", split="all", clips=clips, annotated=3, complete=True)


def test_the_defaults_are_the_row_with_both_losses() -> None:
    method = MethodConfig()
    assert (method.decoder, method.lambda_1, method.lambda_2) == (True, 0.1, 1.0)
    assert method.needs_teacher
    assert TeacherConfig().training.as_json() == TrainingConfig(epochs=20).as_json()


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"lambda_1": 0.0, "lambda_2": 0.0}, False),
        ({"lambda_1": 0.0, "lambda_2": 0.5}, True),
        ({"lambda_1": 0.5, "lambda_2": 0.0}, True),
        ({"lambda_1": 0.0, "lambda_2": 0.0, "logits": "mse"}, True),
        ({"decoder": False, "lambda_1": 0.0, "lambda_2": 0.0}, False),
        ({"decoder": False, "lambda_1": 0.0, "lambda_2": 0.0, "logits": "kl"}, True),
    ],
)
def test_who_needs_a_teacher(changes: dict[str, Any], needs: bool) -> None:
    assert MethodConfig(**changes).needs_teacher is needs


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (MethodConfig, {"lambda_1": "0"}),
        (MethodConfig, {"lambda_1": -0.1}),
        (MethodConfig, {"lambda_1": float("nan")}),
        (MethodConfig, {"lambda_2": float("inf")}),
        (MethodConfig, {"lamda_1": 0.1}),
        (MethodConfig, {"gate": "soft"}),
        (MethodConfig, {"tg": ()}),
        (MethodConfig, {"tg": (3, 1)}),
        (MethodConfig, {"tg": (1, 1)}),
        (MethodConfig, {"tg": (0,)}),
        (MethodConfig, {"decoder": False, "lambda_1": 0.0}),
        (TrainingConfig, {"epochs": 0}),
        (TrainingConfig, {"epochs": True}),
        (TrainingConfig, {"lr": 0.0}),
        (TrainingConfig, {"dropout": 1.0}),
        (EncodingConfig, {"width": 100}),
        (EncodingConfig, {"gop": 1}),
        (EncodingConfig, {"qscale": 32}),
        (ViewsConfig, {"count": 0}),
        (ViewsConfig, {"shift": 0.6}),
        (ViewsConfig, {"flip": "diagonal"}),
        (SplitConfig, {"folds": 1}),
        (InputConfig, {"num_frames": 1}),
    ],
)
def test_nonsense_is_refused(kind: type[Config], values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind(**values)


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        MethodConfig().lambda_1 = 0.2


@pytest.mark.parametrize("config", [Setting(), trial(), info(), SplitConfig(train_only=("g1",))])
def test_json_and_back(config: Config) -> None:
    again = type(config).model_validate_json(config.model_dump_json())
    assert again == config
    assert again.as_json() == config.as_json()


def test_a_content_id_by_hand() -> None:
    text = '["trial",3,{"a":[1,2.5],"b":null}]'
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert content_id("trial", 3, {"b": None, "a": [1, 2.5]}) == expected[:12]
    assert content_id("ab", "c") != content_id("a", "bc")
    assert content_id("1") != content_id(1)


def test_ids_of_contents_that_begin_alike_are_content_ids() -> None:
    parts: list[Any] = ["trial", 2, Setting(), {"b": None, "a": "\u00e4"}, "d0", 0]
    for cut in range(1, len(parts)):
        assert ContentIds(*parts[:cut])(*parts[cut:]) == content_id(*parts)
    made = dict(trial(fold=1).by_seed(range(3)))
    assert made == {trial(fold=1, seed=seed).id: trial(fold=1, seed=seed) for seed in range(3)}


def test_an_id_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = "from cmkd.config.trial import Setting; print(Setting().id)"
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == Setting().id


def test_what_makes_another_trial() -> None:
    one = trial()
    others = [
        trial(seed=1),
        trial(fold=1),
        trial(data_id="d1"),
        trial(setting=Setting(method=MethodConfig(lambda_1=0.2))),
        trial(setting=Setting(training=TrainingConfig(epochs=21))),
        trial(setting=Setting(inputs=InputConfig(motion="per_frame"))),
        trial(setting=Setting(teacher=TeacherConfig(seed=1))),
        trial(setting=Setting(teacher=TeacherConfig(features="online"))),
        trial(setting=Setting(teacher=TeacherConfig(weights="w0"))),
        trial(setting=Setting(student=StudentConfig(weights="w0"))),
        trial(setting=Setting(student=StudentConfig(p_weights="w0"))),
        trial(setting=Setting(method=MethodConfig(width=32))),
    ]
    ids = [one.id, *(other.id for other in others)]
    assert len(set(ids)) == len(ids)
    assert trial().id == one.id
    assert all(len(name) == 12 for name in ids)


def test_what_makes_another_teacher() -> None:
    one = trial().teacher_id
    assert trial(seed=7).teacher_id != one
    assert trial(setting=Setting(method=MethodConfig(lambda_2=0.0))).teacher_id == one
    assert trial(setting=Setting(training=TrainingConfig(epochs=3))).teacher_id == one
    assert trial(setting=Setting(inputs=InputConfig(motion="per_frame"))).teacher_id == one
    assert trial(setting=Setting(teacher=TeacherConfig(features="online"))).teacher_id == one
    others = [
        trial(fold=1).teacher_id,
        trial(data_id="d1").teacher_id,
        trial(setting=Setting(teacher=TeacherConfig(seed=1))).teacher_id,
        trial(setting=Setting(inputs=InputConfig(num_frames=4))).teacher_id,
        trial(setting=Setting(inputs=InputConfig(num_gops=4))).teacher_id,
        trial(setting=Setting(teacher=TeacherConfig(weights="w0"))).teacher_id,
    ]
    assert len({one, *others}) == 7


def test_every_replicate_has_its_own_teacher_unless_the_spec_fixes_it() -> None:
    own, fixed = trial(seed=3), TeacherConfig(seed=3)
    assert (own.teacher_seed, trial(setting=Setting(teacher=fixed)).teacher_seed) == (3, 3)
    assert own.teacher_id == trial(setting=Setting(teacher=fixed)).teacher_id
    control = Setting(method=MethodConfig(lambda_1=0.0, lambda_2=0.0))
    assert trial(setting=control, seed=3).teacher_id == own.teacher_id
    assert len({trial(seed=seed).teacher_id for seed in range(5)}) == 5
    one = {trial(setting=Setting(teacher=fixed), seed=seed).teacher_id for seed in range(5)}
    assert len(one) == 1


def test_imported_weights_that_are_not_trained_leave_nothing_to_draw() -> None:
    def ids(**teacher: Any) -> set[str]:
        setting = Setting(teacher=TeacherConfig.model_validate(teacher))
        return {trial(setting=setting, seed=seed).teacher_id for seed in range(3)}

    assert len(ids(weights="w0", training={"epochs": 0})) == 1
    assert ids(weights="w0", training={"epochs": 0}, seed=4) == ids(
        weights="w0", training={"epochs": 0}
    )
    assert len(ids(weights="w0")) == len(ids(untrained=True, training={"epochs": 0})) == 3


def test_an_untrained_teacher_says_so() -> None:
    for wrong in ({"untrained": True}, {"training": {"epochs": 0}}):
        with pytest.raises(ValidationError, match=r"training\.epochs"):
            TeacherConfig.model_validate(wrong)


def test_seeds_and_folds_share_the_setting() -> None:
    assert trial(seed=0).setting.id == trial(seed=1, fold=1, data_id="d1").setting.id


def test_what_makes_another_data_set() -> None:
    one = info()
    others = [
        info(digest="1" * 64),
        info(views=ViewsConfig(count=2)),
        info(split=SplitConfig(seed=1)),
        info(split=SplitConfig(train_only=("g",))),
        info(encoding=EncodingConfig(qscale=3)),
        info(flip_labels={"horizontal": {"left": "right", "right": "left"}}),
    ]
    assert len({one.id, *(other.id for other in others)}) == 7


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "../x"}, "name"),
        ({"name": ""}, "name"),
        ({"classes": ("one",)}, "classes"),
        ({"classes": ("one", "two", "one")}, "one"),
        ({"flip_labels": {"diagonal": {}}}, "diagonal"),
        ({"flip_labels": {"horizontal": {"left": "rihgt"}}}, "rihgt"),
        ({"flip_labels": {"horizontal": {"left": "right"}}}, "right"),
    ],
)
def test_a_data_set_that_contradicts_itself(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        info(**changes)


def test_parts_of_a_setting_must_fit_together() -> None:
    with pytest.raises(ValidationError, match="64 channels .* 128 differ"):
        Setting(teacher=TeacherConfig(width=32))
    Setting(teacher=TeacherConfig(width=32), method=MethodConfig(lambda_1=0.0))
    with pytest.raises(ValidationError, match="heads 3 does not divide the 64 channels"):
        Setting(method=MethodConfig(heads=3))
    Setting(method=MethodConfig(heads=3, width=96))
    with pytest.raises(ValidationError, match="heads 7 does not divide the 30 channels"):
        Setting(method=MethodConfig(width=30, heads=7))


def test_maps_of_unlike_families_are_not_compared() -> None:
    student, teacher = StudentConfig(backbone="tsm_r18"), TeacherConfig(width=128)
    with pytest.raises(ValidationError, match="maps of different size"):
        Setting(student=student, teacher=teacher)
    Setting(student=student, teacher=teacher, method=MethodConfig(lambda_1=0.0))


@pytest.mark.parametrize(
    ("backbone", "channels", "segment"),
    [
        ("tiny_tsm", 40, 1),
        ("tiny_tdn", 40, 1),
        ("tsm_r18", 512, 1),
        ("tsm_r34", 512, 1),
        ("tsm_r50", 2048, 1),
        ("tdn_r50", 2048, 5),
    ],
)
def test_what_a_family_reads_and_ends_on(backbone: Any, channels: int, segment: int) -> None:
    assert find_backbone(backbone).channels(10) == channels
    assert find_backbone(backbone).segment == segment


def test_what_is_read_of_a_clip() -> None:
    # Segments are the networks' wish: five frames around each for TDN, whichever side it is on.
    of_student = Setting(
        student=StudentConfig(backbone="tsm_r50", p_backbone="tdn_r50"),
        method=MethodConfig(lambda_1=0.0),
    )
    assert (of_student.raw_segment, of_student.compressed_segment) == (1, 5)
    of_teacher = Setting(
        teacher=TeacherConfig(backbone="tdn_r50"), method=MethodConfig(lambda_1=0.0)
    )
    assert (of_teacher.raw_segment, of_teacher.compressed_segment) == (5, 1)
    assert of_teacher.reading.inputs == of_teacher.inputs
    assert of_teacher.reading != Setting().reading


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"milestones": (3,)}, "belong to schedule: steps"),
        ({"schedule": "steps", "milestones": (5, 3)}, "ascending"),
        ({"schedule": "steps", "milestones": (20,)}, "between 1 and epochs - 1 = 9"),
        ({"batch_size": 32, "accumulate": 5}, "5 does not divide batch_size 32"),
    ],
)
def test_schedules_that_contradict_themselves(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TrainingConfig(**values)


def test_no_epochs_need_weights() -> None:
    with pytest.raises(ValidationError, match="leaves random weights"):
        TeacherConfig(training=TeacherTrainingConfig(epochs=0))
    TeacherConfig(training=TeacherTrainingConfig(epochs=0), weights="w0")


def test_gops_share_the_frames() -> None:
    with pytest.raises(ValidationError, match="3 does not divide num_frames 8"):
        InputConfig(num_gops=3)


def test_fresh_views_go_with_an_online_teacher_and_a_student() -> None:
    fresh = {"views": "fresh"}
    with pytest.raises(ValidationError, match="set it to online"):
        Setting.model_validate({"inputs": fresh})
    Setting.model_validate({"inputs": fresh, "teacher": {"features": "online"}})
    Setting.model_validate({"inputs": fresh, "method": {"lambda_1": 0.0, "lambda_2": 0.0}})
    with pytest.raises(ValidationError, match="motion_svm is fitted on inputs.views: prepared"):
        Setting.model_validate({"inputs": fresh, "model": "motion_svm"})
