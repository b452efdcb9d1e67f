"""Which arm of a sweep is which row: found by its whole setting, never by its name."""

from __future__ import annotations

from collections.abc import Mapping

from cmkd.config.method import MethodConfig
from cmkd.config.sweep import Arm, Sweep
from cmkd.config.training import BackboneName
from cmkd.config.trial import Setting
from cmkd.report.paper.published import Counterpart, Half, Weight

NOT_OURS = "n/a"

HALVES: tuple[Half, ...] = ("TSM", "TDN")

REFERENCES: Mapping[str, Counterpart] = {
    "baseline": Counterpart(half="TSM", decoder=False),
    "control": Counterpart(half="TSM"),
    "both": Counterpart(half="TSM", lambda_1=True, lambda_2=True),
}
"""What a column of differences refers to, by its heading; of the half of the row it stands in."""

_COMPONENTS = MethodConfig.model_fields.keys() - {"decoder", "lambda_1", "lambda_2", "logits"}


def family_of(backbone: BackboneName) -> Half:
    """The family that a network belongs to."""
    return "TDN" if "tdn" in backbone else "TSM"


def half_of(setting: Setting) -> Half:
    """The half that a setting belongs to: the family of its student."""
    return family_of(setting.student.backbone)


def distils(setting: Setting) -> bool:
    """Whether the RGB teacher has any part in the result."""
    return setting.model == "student" and setting.method.needs_teacher


def find_arm(sweep: Sweep, wanted: Counterpart) -> Arm | None:
    """The arm of `sweep` that is what `wanted` says, None where it has none.

    Of several it is the one that departs least from the default method, so that a variant of a
    component never stands for the whole; of equal ones the first of the file.
    """
    fitting = [arm for arm in sweep.arms if _fits(arm.setting, wanted)]
    return min(fitting, key=lambda arm: _departures(arm.setting.method), default=None)


def standard_reference(sweep: Sweep, role: str, half: Half) -> Arm | None:
    """The arm that gives the column `role` its name in `half`."""
    return find_arm(sweep, REFERENCES[role].model_copy(update={"half": half}))


def find_reference(sweep: Sweep, role: str, setting: Setting) -> Arm | None:
    """The arm that `setting` is compared with in the column `role`.

    It is of the same half and trained equally long, since a longer schedule is no gain.
    """
    standard = standard_reference(sweep, role, half_of(setting))
    if standard is None:
        return None
    wanted = standard.setting.model_copy(update={"training": setting.training})
    return next((arm for arm in sweep.arms if arm.setting == wanted), None)


def label_of(name: str, setting: Setting) -> str:
    """What a setting has in a table's column of text called `name`."""
    method = setting.method
    known = {
        "Spatial KD": _yes(method.lambda_1),
        "Temporal KD": _yes(method.lambda_2),
        "λ1": f"{method.lambda_1:g}",
        "λ2": f"{method.lambda_2:g}",
    }
    if setting.model != "student" and name in known:
        return NOT_OURS
    return {**known, "Backbone": setting.student.backbone, "Modality": "CD"}.get(name, NOT_OURS)


def _fits(setting: Setting, wanted: Counterpart) -> bool:
    method = setting.method
    return (
        setting.model == "student"
        and not wanted.teacher
        and half_of(setting) == wanted.half
        and method.decoder == wanted.decoder
        and _weighs(method.lambda_1, wanted.lambda_1)
        and _weighs(method.lambda_2, wanted.lambda_2)
        and (method.logits != "off") == wanted.logits
        and wanted.gate in (None, method.gate)
        and wanted.tg in (None, method.tg)
    )


def _departures(method: MethodConfig) -> int:
    plain = MethodConfig()
    return sum(getattr(method, name) != getattr(plain, name) for name in _COMPONENTS)


def _weighs(weight: float, wanted: Weight) -> bool:
    return weight > 0 if wanted is True else weight == wanted


def _yes(weight: float) -> str:
    return "Yes" if weight > 0 else "No"
