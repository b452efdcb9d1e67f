"""A step of training on random tensors."""

from __future__ import annotations

import pytest

from cmkd.config.trial import Setting
from cmkd.training.cost import ProbeTask, probe

SMALL = {
    "method": {"heads": 1, "hidden": 4},
    "student": {"width": 4},
    "teacher": {"width": 4},
    "inputs": {"num_frames": 4},
}


def task(*settings: Setting, teachers: tuple[Setting, ...] = ()) -> ProbeTask:
    return ProbeTask(settings, teachers, (32, 48), 3)


def small(**changes: dict[str, object]) -> Setting:
    return Setting.model_validate({**SMALL, **changes})


def test_equal_settings_leave_equal_fingerprints_and_take_time() -> None:
    other = small(method={**SMALL["method"], "lambda_1": 0.2})
    (one, again, different), _ = probe(task(small(), small(), other))
    assert one.fingerprint == again.fingerprint != different.fingerprint
    assert one.seconds > 0
    assert not one.failure


@pytest.mark.parametrize("backbone", ["tiny_tsm", "tiny_tdn"])
def test_teachers_take_a_step_too(backbone: str) -> None:
    setting = small(teacher={"width": 4, "backbone": backbone})
    _, (found,) = probe(task(teachers=(setting,)))
    assert (found.failure, found.seconds > 0) == ("", True)


def test_what_a_step_fails_of_is_told_and_others_go_on() -> None:
    broken = small(training={"checkpointing": True})
    (failed, fine), _ = probe(task(broken, small()))
    assert failed.failure.startswith("ConfigError: training.checkpointing")
    assert not fine.failure
