"""Which arm of a sweep is which row: found by its whole setting, never by its name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from cmkd.config.backbones import find_backbone
from cmkd.config.base import Config
from cmkd.config.method import NO_KD, MethodConfig
from cmkd.config.spec import presets
from cmkd.config.sweep import Arm, Sweep
from cmkd.config.trial import Setting
from cmkd.config.yaml_loader import suggest

Family = str
"""Family of a network: a backbone's entry says which. Each has students and an RGB teacher."""

FAMILIES: tuple[Family, ...] = ("TSM", "TDN")
"""Families of the paper, in its order."""

PLAIN: Mapping[str, Any] = NO_KD
"""Values of `MethodConfig` in an arm whose query does not name them; others have their default."""

READINGS = ("inputs.motion",)
"""Keys of the method outside of `MethodConfig`."""


class ArmQuery(Config):
    """An arm by its setting: the students of a family, or the family's RGB teacher.

    An arm fits where it has the named values of `method`, and everything else of the method is as
    in the plain method: no KD, the default of the field or of the sweep's preset.
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
                text = json.dumps({**PLAIN, key: value})
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
"""Reference of a column of differences by its heading, in the family of the row."""


def family_of(backbone: str) -> Family:
    """Family of a backbone, by its entry in the table of backbones."""
    return find_backbone(backbone).family


def family_of_arm(setting: Setting) -> Family:
    """The family of an arm: that of its student."""
    return family_of(setting.student.backbone)


def families_of(sweep: Sweep) -> tuple[Family, ...]:
    """Families of the arms of `sweep`: those of the paper first, then others by name."""
    found = {family_of_arm(arm.setting) for arm in sweep.arms}
    return (*(one for one in FAMILIES if one in found), *sorted(found - set(FAMILIES)))


def distils(setting: Setting) -> bool:
    """Whether the RGB teacher has any part in the result."""
    return setting.model == "student" and setting.method.needs_teacher


def find_arms(sweep: Sweep, query: ArmQuery) -> tuple[Arm, ...]:
    """The arms of `sweep` that fit `query`, those with the fewest `departures` first.

    A variant of a component that the query does not name (gate, graphs, attention, motion) does
    not fit. A departure in training or networks does, and is to be marked.
    """
    if query.teacher:
        return ()
    plain = _plain_method(sweep)
    fitting = [
        arm
        for arm in sweep.arms
        if arm.setting.model == "student"
        and query.family in (None, family_of_arm(arm.setting))
        and arm.setting.inputs.motion == Setting().inputs.motion
        and all(_has(getattr(arm.setting.method, key), want) for key, want in query.method.items())
        and all(
            getattr(arm.setting.method, key) == value
            for key, value in plain.items()
            if key not in query.method
        )
    ]
    if len(fitting) < 2:
        return tuple(fitting)
    known = departures(sweep)
    return tuple(sorted(fitting, key=lambda arm: len(known[arm.name])))


def find_arm(sweep: Sweep, query: ArmQuery) -> Arm | None:
    """The first of `find_arms`; None where there is none."""
    return next(iter(find_arms(sweep, query)), None)


def departures(sweep: Sweep) -> Mapping[str, Mapping[str, Any]]:
    """By arm, the dotted keys in which it departs, with its values.

    In the method an arm departs from the plain one, decoder and kinds of KD apart; elsewhere from
    what most arms of its family in the sweep have.
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
    """Of `departures`, those outside the method: a row that the arm fills does not name them."""
    return {
        name: {key: value for key, value in found.items() if not _is_method(key)}
        for name, found in departures(sweep).items()
    }


def flat(setting: Setting) -> dict[str, Any]:
    """The values of `setting` by dotted key, as JSON types."""
    found: dict[str, Any] = {}

    def add(prefix: str, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping):
                add(f"{prefix}{key}.", value)
            else:
                found[prefix + key] = value

    add("", setting.as_json())
    return found


def standard_reference(sweep: Sweep, role: str, family: Family) -> Arm | None:
    """The arm that gives the column `role` its name in `family`.

    A role that is none of `REFERENCES` is the name of an arm, for every family.
    """
    if role not in REFERENCES:
        return next((arm for arm in sweep.arms if arm.name == role), None)
    return find_arm(sweep, REFERENCES[role].of(family))


def find_references(sweep: Sweep, role: str) -> Mapping[str, Arm]:
    """By arm, the arm that it is compared with in the column `role`; arms without one are absent.

    A reference is of the same family and trained equally long, since a longer schedule is no gain.
    """
    standards = {one: standard_reference(sweep, role, one) for one in families_of(sweep)}
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
            reference = by_setting.get(standard.setting.model_copy(update=update))
            if reference is not None:
                found[arm.name] = reference
    return found


def find_reference(sweep: Sweep, role: str, setting: Setting) -> Arm | None:
    """The reference of the arm with `setting`; see `find_references`."""
    name = next((arm.name for arm in sweep.arms if arm.setting == setting), "")
    return find_references(sweep, role).get(name)


def label_of(name: str, setting: Setting) -> str:
    """What a setting has in a table's column of text called `name`."""
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
        **PLAIN,
    }


def _is_method(key: str) -> bool:
    return key.startswith("method.") or key in READINGS


def _has(value: Any, wanted: Any) -> bool:
    if wanted is True and not isinstance(value, bool):
        return value != "off" if isinstance(value, str) else bool(value)
    return bool(value == wanted)


def _yes(weight: float) -> str:
    return "Yes" if weight > 0 else "No"
