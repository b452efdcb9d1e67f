"""Full-size settings by name: a student, a published training protocol and its way of testing.

``tsm-ssv2`` is teacher and student of the TSM family on Something-Something V2 with student D;
``tsm-ssv2-a`` the same with student A. None names weights: ids of imported ones are set beside
the preset (`teacher.weights`, `student.weights`, `student.p_weights`).

The paper does not say how many I- and P-frames a view holds, nor what size and depth the branches
of motion and residual have. Three readings come within 4 % of its cost column; D is the default,
since it alone gives all branches the ResNet-50 that the paper's tables name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from cmkd.config.data import InputConfig
from cmkd.config.method import MethodConfig
from cmkd.config.training import (
    StudentConfig,
    TeacherConfig,
    TeacherTrainingConfig,
    TrainingConfig,
)
from cmkd.config.trial import Setting

Family = Literal["tsm", "tdn"]
Protocol = Literal["k400", "ssv2", "ucf-hmdb"]

_TEACHERS: Mapping[Family, str] = {"tsm": "tsm_r50", "tdn": "tdn_r50"}

# I-frames / P-frames of a view, and the sides of what the branches see (I-frames are 224).
_STUDENTS: Mapping[str, tuple[StudentConfig, int, int]] = {
    "tsm": (StudentConfig(backbone="tsm_r50", motion_size=112, residual_size=112), 4, 16),
    "tsm-a": (
        StudentConfig(backbone="tsm_r50", p_backbone="tsm_r18", motion_size=112, residual_size=224),
        4,
        16,
    ),
    # The cost column has 11 P-frames here, which 3 GOPs cannot share.
    "tsm-c": (
        StudentConfig(backbone="tsm_r50", p_backbone="tsm_r18", motion_size=224, residual_size=224),
        3,
        12,
    ),
    "tdn": (StudentConfig(backbone="tdn_r50", motion_size=112, residual_size=112), 4, 16),
}

# mit-han-lab/temporal-shift-module and MCG-NJU/TDN: their scripts and READMEs. TDN does not say
# its batch on UCF-101 and HMDB-51 (here TSM's), and multiplies the classifier's rate there alone.
_SCHEDULES: Mapping[tuple[Family, Protocol], dict[str, Any]] = {
    ("tsm", "k400"): {
        "epochs": 50,
        "milestones": (20, 40),
        "lr": 0.02,
        "batch_size": 128,
        "weight_decay": 1e-4,
    },
    ("tsm", "ssv2"): {
        "epochs": 50,
        "milestones": (20, 40),
        "lr": 0.01,
        "batch_size": 64,
        "weight_decay": 5e-4,
    },
    ("tsm", "ucf-hmdb"): {
        "epochs": 25,
        "milestones": (10, 20),
        "lr": 0.001,
        "batch_size": 64,
        "weight_decay": 5e-4,
    },
    ("tdn", "k400"): {
        "epochs": 100,
        "milestones": (50, 75, 90),
        "lr": 0.02,
        "batch_size": 128,
        "weight_decay": 1e-4,
    },
    ("tdn", "ssv2"): {
        "epochs": 60,
        "milestones": (30, 45, 55),
        "lr": 0.01,
        "batch_size": 64,
        "weight_decay": 5e-4,
    },
    ("tdn", "ucf-hmdb"): {
        "epochs": 25,
        "milestones": (10, 20),
        "lr": 0.002,
        "batch_size": 64,
        "weight_decay": 5e-4,
    },
}

# Temporal samplings x crops of a test clip. Lin et al., ICCV 2019, Sec. 5.1: 10 clips on Kinetics,
# 2 on the others, whole pictures; Wang et al., CVPR 2021, Sec. 4.1.
_VIEWS: Mapping[tuple[Family, Protocol], tuple[int, Literal[1, 3]]] = {
    ("tsm", "k400"): (10, 3),
    ("tsm", "ssv2"): (2, 3),
    ("tsm", "ucf-hmdb"): (2, 3),
    ("tdn", "k400"): (10, 3),
    ("tdn", "ssv2"): (1, 1),
    ("tdn", "ucf-hmdb"): (2, 3),
}


def _compose(student: str, protocol: Protocol) -> Setting:
    family: Family = "tdn" if student.startswith("tdn") else "tsm"
    recipe, gops, frames = _STUDENTS[student]
    clips, crops = _VIEWS[family, protocol]
    schedule = {
        **_SCHEDULES[family, protocol],
        "optimizer": "sgd",
        "schedule": "steps",
        "multipliers": "tsn",
        "clip_norm": 20.0,
        "dropout": 0.8 if protocol == "ucf-hmdb" else 0.5,
        "partial_bn": protocol == "ucf-hmdb",
        "precision": "bf16",
    }
    return Setting(
        # The squared norm of Eq. (4) over 2048 x 7 x 7 numbers is 10^5 at the start. Its gradient
        # is hundreds of times the published clip of 20, and cross-entropy would get the rest (A12).
        method=MethodConfig(width=192, hidden=192, spatial_reduction="mean"),
        student=recipe,
        training=TrainingConfig(**schedule),
        inputs=InputConfig(num_frames=frames, num_gops=gops, test_clips=clips, test_crops=crops),
        teacher=TeacherConfig(
            backbone=_TEACHERS[family],
            features="online",
            training=TeacherTrainingConfig(**schedule),
        ),
    )


def _named() -> Mapping[str, Setting]:
    protocols: tuple[Protocol, ...] = ("k400", "ssv2", "ucf-hmdb")
    presets = {}
    for student in _STUDENTS:
        family, _, variant = student.partition("-")
        for protocol in protocols:
            name = "-".join(part for part in (family, protocol, variant) if part)
            presets[name] = _compose(student, protocol)
    return presets


PRESETS: Mapping[str, Setting] = _named()
"""Every preset by its name: tsm-k400, tsm-k400-a, tsm-k400-c, ..., tdn-ucf-hmdb."""


def preset_settings(name: str) -> dict[str, Any]:
    """What a preset sets, as a sweep's `base` writes it: dotted keys of `Setting` to JSON values.

    Raises:
        KeyError: no preset has this name; `PRESETS` lists them.
    """
    return _dotted(PRESETS[name].model_dump(mode="json", exclude_unset=True))


def _dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
