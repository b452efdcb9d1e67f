"""Presets: what the sources publish, composed of parts, and written as a sweep writes it."""

from __future__ import annotations

from typing import Any

import pytest

from cmkd.config.trial import preset, presets


def test_presets_are_all_different() -> None:
    assert len({preset(name).id for name in presets()}) == len(presets()) == 12


def test_an_unknown_preset_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        preset("tsm-k600")


# mit-han-lab/temporal-shift-module README and scripts, MCG-NJU/TDN README; views: Lin et al.,
# ICCV 2019, Sec. 5.1, and Wang et al., CVPR 2021, Sec. 4.1.
@pytest.mark.parametrize(
    ("name", "recipe", "views"),
    [
        ("tsm-k400", (50, (20, 40), 0.02, 128, 1e-4, 0.5, False), (10, 3)),
        ("tsm-ssv2", (50, (20, 40), 0.01, 64, 5e-4, 0.5, False), (2, 3)),
        ("tsm-ucf-hmdb", (25, (10, 20), 0.001, 64, 5e-4, 0.8, True), (2, 3)),
        ("tdn-k400", (100, (50, 75, 90), 0.02, 128, 1e-4, 0.5, False), (10, 3)),
        ("tdn-ssv2", (60, (30, 45, 55), 0.01, 64, 5e-4, 0.5, False), (1, 1)),
        ("tdn-ucf-hmdb", (25, (10, 20), 0.002, 64, 5e-4, 0.8, True), (2, 3)),
    ],
)
def test_published_protocols(name: str, recipe: tuple[Any, ...], views: tuple[int, int]) -> None:
    setting = preset(name)
    for one in (setting.training, setting.teacher.training):
        assert recipe == (
            one.epochs,
            one.milestones,
            one.lr,
            one.batch_size,
            one.weight_decay,
            one.dropout,
            one.partial_bn,
        )
        assert (one.optimizer, one.schedule, one.multipliers) == ("sgd", "steps", "tsn")
        assert (one.clip_norm, one.precision) == (20.0, "bf16")
    assert (setting.inputs.test_clips, setting.inputs.test_crops) == views


@pytest.mark.parametrize(
    ("name", "branches", "frames"),
    [
        ("tsm-ssv2", ("tsm_r50", "tsm_r50", 112, 112), (4, 16)),
        ("tsm-ssv2-a", ("tsm_r50", "tsm_r18", 112, 224), (4, 16)),
        ("tsm-ssv2-c", ("tsm_r50", "tsm_r18", 224, 224), (3, 12)),
        ("tdn-ssv2", ("tdn_r50", "tdn_r50", 112, 112), (4, 16)),
    ],
)
def test_students(name: str, branches: tuple[Any, ...], frames: tuple[int, int]) -> None:
    setting = preset(name)
    student = setting.student
    assert branches == (
        student.backbone,
        student.backbone_of_p,
        student.motion_size,
        student.residual_size,
    )
    assert (setting.inputs.num_gops, setting.inputs.num_frames) == frames
    # The paper's own row: both losses at its weights, and a teacher of the student's family.
    assert (setting.method.lambda_1, setting.method.lambda_2) == (0.1, 1.0)
    assert (setting.method.width, setting.method.hidden) == (192, 192)
    assert setting.teacher.backbone == student.backbone
    assert setting.teacher.features == "online"
    assert setting.student.weights is setting.teacher.weights is None
