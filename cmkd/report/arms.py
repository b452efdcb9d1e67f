"""Queries of arms by setting, their references and departures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from cmkd.config.backbones import find_backbone
from cmkd.config.base import Config, dotted
from cmkd.config.method import NO_KD, MethodConfig
from cmkd.config.sweep import Arm, Sweep
from cmkd.config.trial import Setting, presets
from cmkd.config.yaml_loader import suggest

Family = str
"""Family of a network, from its entry in the table of backbones."""

FAMILIES: tuple[Family, ...] = ("TSM", "TDN")
"""Families of the paper, in its order."""


class ArmQuery(Config):
    """Query of an arm by its setting: students of a family, or its RGB teacher.

    An arm fits if it has the values of `method`; other keys must be as in the plain method: no KD,
    the default of the field or of the sweep's preset.
    """

    family: Family | None = Field(default=None, description="None: any")
    teacher: bool = False
    method: dict[str, Any] = Field(
        default={},
        description="key of `MethodConfig` -> value; true: any weight above 0, any kind but off",
    )

    @field_validator("method")
    @classmethod
    def _known(cls, method: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for key, value in method.items():
            if key not in MethodConfig.model_fields:
                raise ValueError(f"method has no {key!r}{suggest(key, MethodConfig.model_fields)}")
            known = value
            if value is not True:
                text = json.dumps({**NO_KD, key: value})
                known = getattr(MethodConfig.model_validate_json(text), key)
            found[key] = known
        return found

    def __hash__(self) -> int:
        return hash((self.family, self.teacher, *sorted(self.method.items())))

    def of(self, family: Family) -> ArmQuery:
        """The same arm in `family`."""
        return self.model_copy(update={"family": family})


NOT_OURS = "n/a"

REFERENCES: Mapping[str, ArmQuery] = {
    "baseline": ArmQuery(method={"decoder": False}),
    "control": ArmQuery(),
    "both": ArmQuery(method={"lambda_1": True, "lambda_2": True}),
}
"""Reference of a column of differences, by heading."""


def family_of(backbone: str) -> Family:
    """Family of a backbone, by its entry in the table of backbones."""
    return find_backbone(backbone).family


def family_of_arm(setting: Setting) -> Family:
    """Family of an arm's student."""
    return family_of(setting.student.backbone)


def families_of(sweep: Sweep) -> tuple[Family, ...]:
    """Families of the arms of `sweep`, those of the paper first."""
    found = {family_of_arm(arm.setting) for arm in sweep.arms}
    return (*(family for family in FAMILIES if family in found), *sorted(found - set(FAMILIES)))


def find_arm(sweep: Sweep, query: ArmQuery) -> Arm | None:
    """Arm of `sweep` that fits `query`, the one with the fewest `departures`.

    Departures in training or networks fit, and are marked in a table.
    """
    if query.teacher:
        return None
    wanted = {**_plain_method(sweep), **query.method}
    fitting = [
        arm
        for arm in sweep.arms
        if arm.setting.model == "student"
        and query.family in (None, family_of_arm(arm.setting))
        and arm.setting.inputs.motion == Setting().inputs.motion
        and all(_has(getattr(arm.setting.method, key), value) for key, value in wanted.items())
    ]
    if len(fitting) < 2:
        return next(iter(fitting), None)
    known = departures(sweep)
    return min(fitting, key=lambda arm: len(known[arm.name]))


def departures(sweep: Sweep) -> Mapping[str, Mapping[str, Any]]:
    """By arm, keys and values that depart from the plain method, or from most arms of its family.

    Decoder and kinds of KD are not listed.
    """
    plain = {f"method.{key}": value for key, value in _plain_method(sweep).items()}
    plain = {**flat(Setting()), **json.loads(json.dumps(plain))}
    settings = {arm.name: flat(arm.setting) for arm in sweep.arms}
    peers: dict[tuple[str, Family], list[str]] = {}
    for arm in sweep.arms:
        kind = (arm.setting.model, family_of_arm(arm.setting))
        peers.setdefault(kind, []).append(arm.name)
    found: dict[str, Mapping[str, Any]] = {}
    for names in peers.values():
        for key in settings[names[0]]:
            if not _is_method(key):
                counts = Counter(json.dumps(settings[name][key]) for name in names)
                plain[key] = json.loads(counts.most_common(1)[0][0])
        for name in names:
            found[name] = {
                key: value
                for key, value in settings[name].items()
                if key not in _NAMED and value != plain.get(key)
            }
    return found


_NAMED = {"method.decoder", "method.lambda_1", "method.lambda_2", "method.logits"}
"""Keys that the grid of arms shows in columns of their own."""


def marked_departures(sweep: Sweep) -> Mapping[str, Mapping[str, Any]]:
    """`departures` outside the method, which no label of a row names."""
    return {
        name: {key: value for key, value in found.items() if not _is_method(key)}
        for name, found in departures(sweep).items()
    }


def flat(setting: Setting) -> dict[str, Any]:
    """The values of `setting` by dotted key, as JSON types."""
    return dotted(setting.as_json())


def standard_reference(sweep: Sweep, role: str, family: Family) -> Arm | None:
    """Arm of the column `role` in `family`; a role outside `REFERENCES` is the name of an arm."""
    if role not in REFERENCES:
        return next((arm for arm in sweep.arms if arm.name == role), None)
    return find_arm(sweep, REFERENCES[role].of(family))


LOSS_KEYS = (*NO_KD, "tg", "tg_features", "tg_kernel", "tg_edge", "reduction")
"""Keys of `MethodConfig` that act through the losses of distillation alone."""


def _undistilled(setting: Setting, control: Setting) -> Setting:
    """`setting` in its own interpretation, with the decoder and without the KD of `control`."""
    method = {key: getattr(control.method, key) for key in ("decoder", *LOSS_KEYS)}
    return setting.model_copy(
        update={"method": setting.method.model_copy(update=method), "teacher": control.teacher}
    )


def interpretation_gap(setting: Setting, control: Setting) -> tuple[str, ...]:
    """Keys in which a student departs from `control`, beside decoder and distillation."""
    if setting.model != "student":
        return ()
    own, other = flat(_undistilled(setting, control)), flat(control)
    return tuple(key for key, value in own.items() if value != other[key])


def find_references(sweep: Sweep, role: str) -> Mapping[str, Arm]:
    """By arm, its reference in the column `role`: of the same family, trained equally long.

    A control shares the interpretation of the arm where the sweep has one that does.
    """
    standards = {family: standard_reference(sweep, role, family) for family in families_of(sweep)}
    by_setting: dict[Setting, Arm] = {}
    for arm in sweep.arms:
        by_setting.setdefault(arm.setting, arm)
    found: dict[str, Arm] = {}
    for arm in sweep.arms:
        if role not in REFERENCES:
            named = standard_reference(sweep, role, "")
            found |= {arm.name: named} if named else {}
            continue
        standard = standards[family_of_arm(arm.setting)]
        if standard is not None:
            update = {"training": arm.setting.training}
            wanted = [standard.setting.model_copy(update=update)]
            if role == "control":
                wanted.insert(0, _undistilled(arm.setting, standard.setting))
            reference = next((by_setting[key] for key in wanted if key in by_setting), None)
            if reference is not None:
                found[arm.name] = reference
    return found


def label_of(name: str, setting: Setting) -> str:
    """Text of a setting in the column `name`."""
    method = setting.method
    if "." in name or name == "model":
        value = flat(setting).get(name)
        return value if isinstance(value, str) else json.dumps(value)
    known = {
        "Spatial KD": _yes(method.lambda_1),
        "Temporal KD": _yes(method.lambda_2),
        "λ1": f"{method.lambda_1:g}",
        "λ2": f"{method.lambda_2:g}",
    }
    if setting.model != "student" and name in known:
        return NOT_OURS
    return {**known, "Backbone": setting.student.backbone, "Modality": "CD"}.get(name, NOT_OURS)


def _plain_method(sweep: Sweep) -> dict[str, Any]:
    """Values of the method without KD: the default of the field or of the sweep's preset."""
    preset = presets()[sweep.spec.preset] if sweep.spec.preset else {}
    own = {key.removeprefix("method."): v for key, v in preset.items() if key.startswith("method.")}
    return {
        **{key: getattr(MethodConfig(), key) for key in MethodConfig.model_fields},
        **own,
        **NO_KD,
    }


def _is_method(key: str) -> bool:
    return key.startswith("method.") or key == "inputs.motion"


def _has(value: Any, wanted: Any) -> bool:
    if wanted is True and not isinstance(value, bool):
        return value != "off" if isinstance(value, str) else bool(value)
    return bool(value == wanted)


def _yes(weight: float) -> str:
    return "Yes" if weight > 0 else "No"
