"""Which arm of a sweep is which row: found by its whole setting, never by its name."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from cmkd.config.base import Config
from cmkd.config.method import MethodConfig
from cmkd.config.paths import packaged
from cmkd.config.presets import preset_settings
from cmkd.config.sweep import TABLES as SPEC_OF_TABLE
from cmkd.config.sweep import Arm, Sweep
from cmkd.config.training import BackboneName
from cmkd.config.trial import Setting
from cmkd.config.yaml_loader import explain, read_yaml, suggest
from cmkd.errors import ConfigError

Family = str
"""Family of a network: a backbone's entry says which. Each has students and an RGB teacher."""

FAMILIES: tuple[Family, ...] = ("TSM", "TDN")
"""Families of the paper, in its order."""

PLAIN: Mapping[str, Any] = {"lambda_1": 0.0, "lambda_2": 0.0}
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


class RowCost(Config):
    """Which measured networks make up a row's GFLOPs."""

    models: tuple[str, ...] = Field(min_length=1, description="names in the file of costs; added")
    views: int = Field(ge=1, description="temporal clips x crops that the figure counts")
    is_open: bool = Field(
        default=False, description="the paper does not say enough to identify what it counted"
    )


class PublishedRow(Config):
    """One printed row, or one that belongs beside them (`printed` is None)."""

    method: str = Field(min_length=1, description="as printed, spaces included")
    labels: tuple[str, ...] = Field(default=(), description="the other columns of text")
    printed: dict[str, float | None] | None = Field(
        default=None, description="column -> accuracy in [0, 100]; null where a dash is printed"
    )
    gflops: float | None = Field(default=None, gt=0, description="as printed")
    cost: RowCost | None = None
    ours: ArmQuery | None = Field(default=None, description="None: we do not repeat the row")


class PublishedTable(Config):
    """A table of the paper as printed, with what has to be said about it."""

    title: str
    source: str
    labels: tuple[str, ...] = Field(default=(), description="headings of the columns of text")
    columns: tuple[str, ...] = Field(default=(), description="headings of the accuracies")
    top1: dict[str, str] = Field(
        default={}, description="column of top-1 accuracies -> the data set that it is of"
    )
    has_gflops: bool = False
    rows: tuple[PublishedRow, ...] = ()
    added: tuple[PublishedRow, ...] = Field(default=(), description="rows outside the paper")
    names: dict[str, str] = Field(default={}, description="arm -> row name outside the paper")
    citations: dict[str, str] = Field(default={}, description="number in brackets -> work")
    notes: tuple[str, ...] = Field(default=(), description="discrepancies, printed as footnotes")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for row in self.rows:
            self._check_printed(row)
        if unknown := sorted(set(self.top1) - set(self.columns)):
            raise ValueError(f"top1: {', '.join(unknown)} is no column")
        for row in self.added:
            if row.printed is not None or row.gflops is not None:
                raise ValueError(f"added: row {row.method!r} is outside the paper, yet has numbers")
        return self

    def _check_printed(self, row: PublishedRow) -> None:
        if row.printed is None or tuple(row.printed) != self.columns:
            raise ValueError(f"row {row.method!r} must give {', '.join(self.columns)} in order")
        for column, value in row.printed.items():
            if value is not None and not 0 <= value <= 100:
                raise ValueError(f"row {row.method!r}, {column}: {value} is not a percentage")
        if len(row.labels) != len(self.labels):
            raise ValueError(f"row {row.method!r} must give {', '.join(self.labels)} in order")
        if (row.gflops or row.cost) and not self.has_gflops:
            raise ValueError(f"row {row.method!r}: the table has no column of GFLOPs")
        for number in re.findall(r"\[(\d+)\]", row.method):
            if number not in self.citations:
                raise ValueError(f"row {row.method!r}: citations lacks {number!r}")


def load_published(name: str) -> PublishedTable:
    """The published table ``reports/published/<name>.yaml``.

    Raises:
        ConfigError: with file, line and key, when the file is not such a table.
    """
    return read_published(packaged("reports", "published", f"{name}.yaml"))


def read_published(path: Path) -> PublishedTable:
    """The published table in the file `path`; errors as `load_published`."""
    document = read_yaml(path)
    try:
        return PublishedTable.model_validate_json(json.dumps(document.data, default=str))
    except ValidationError as error:
        keys, message = explain(error, PublishedTable)
        raise ConfigError(f"{document.where(*keys)}: {message}") from None


def cited(table: PublishedTable) -> Mapping[str, str]:
    """The works that rows of `table` cite, by number, in ascending order."""
    return dict(sorted(table.citations.items(), key=lambda one: int(one[0])))


FigureName = Literal["arms", "training", "classes", "inside", "search", "cost"]


@dataclass(frozen=True)
class TableSpec:
    """How a table comes about.

    Attributes:
        name: of the files; the paper's number where it has one.
        sweep: name of the spec whose arms are the rows.
        published: name of the file of printed numbers; None for a table outside the paper.
        references: columns of differences, keys of `arms.REFERENCES`.
        figures: what is drawn of it, in this order.
        heading: of a table outside the paper.
    """

    name: str
    sweep: str
    published: str | None
    references: tuple[str, ...] = ()
    figures: tuple[FigureName, ...] = ()
    heading: str = ""

    def load(self) -> PublishedTable:
        """The printed rows; none for a table outside the paper."""
        if self.published is not None:
            return load_published(self.published)
        teachers = tuple(
            PublishedRow(
                method=f"RGB teacher of the {family} family",
                ours=ArmQuery(family=family, teacher=True),
            )
            for family in FAMILIES
        )
        labels = ("Spatial KD", "Temporal KD")
        return PublishedTable(title=self.heading, source="", labels=labels, added=teachers)


def _of_paper(
    number: int, references: tuple[str, ...] = (), figures: tuple[FigureName, ...] = ()
) -> TableSpec:
    return TableSpec(str(number), SPEC_OF_TABLE[number], f"table_{number}", references, figures)


TABLES: Mapping[str, TableSpec] = {
    spec.name: spec
    for spec in (
        _of_paper(1),
        _of_paper(2, figures=("cost",)),
        _of_paper(3, figures=("cost",)),
        _of_paper(4, ("baseline", "control"), ("arms", "training", "classes", "inside")),
        _of_paper(5, ("baseline", "control"), ("arms", "search")),
        TableSpec(
            "components",
            "components",
            None,
            ("control", "both"),
            ("arms",),
            "Components of the method, one changed at a time (not in the paper).",
        ),
    )
}
"""Every table by its name."""


NOT_OURS = "n/a"

REFERENCES: Mapping[str, ArmQuery] = {
    "baseline": ArmQuery(method={"decoder": False}),
    "control": ArmQuery(),
    "both": ArmQuery(method={"lambda_1": True, "lambda_2": True}),
}
"""Reference of a column of differences by its heading, in the family of the row."""


def family_of(backbone: BackboneName) -> Family:
    """The family that a network belongs to."""
    return "TDN" if "tdn" in backbone else "TSM"


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
                if key not in _NAMED and value != plain[key]
            }
    return found


_NAMED = {"method.decoder", "method.lambda_1", "method.lambda_2", "method.logits"}
"""Keys that the grid of arms shows in columns of their own."""


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
    """The arm that gives the column `role` its name in `family`."""
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
    preset = preset_settings(sweep.spec.preset) if sweep.spec.preset else {}
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
        return value != "off" if isinstance(value, str) else value > 0
    return bool(value == wanted)


def _yes(weight: float) -> str:
    return "Yes" if weight > 0 else "No"
