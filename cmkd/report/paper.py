"""Which arm of a sweep is which row: found by its whole setting, never by its name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from cmkd.config.backbones import find_backbone
from cmkd.config.base import Config
from cmkd.config.method import Gate, GraphIndex, MethodConfig
from cmkd.config.paths import packaged
from cmkd.config.sweep import TABLES as SPEC_OF_TABLE
from cmkd.config.sweep import Arm, Sweep
from cmkd.config.trial import Setting
from cmkd.config.yaml_loader import explain, read_yaml
from cmkd.errors import ConfigError

Half = str
"""The families of Table 4; each has students and an RGB teacher of its own."""

Weight = bool | float
"""Of a loss: a number is exactly that, true is any above 0."""


class Counterpart(Config):
    """What of ours repeats a row: students of one whole setting, or the RGB teacher of a half."""

    half: Half
    teacher: bool = False
    decoder: bool = True
    lambda_1: Weight = 0.0
    lambda_2: Weight = 0.0
    logits: bool = False
    gate: Gate | None = Field(default=None, description="None: whichever the method has")
    tg: tuple[GraphIndex, ...] | None = Field(default=None, description="None: likewise")


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
    ours: Counterpart | None = Field(default=None, description="None: we do not repeat the row")


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
                method=f"RGB teacher of the {half} half", ours=Counterpart(half=half, teacher=True)
            )
            for half in HALVES
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

HALVES: tuple[Half, ...] = ("TSM", "TDN")

REFERENCES: Mapping[str, Counterpart] = {
    "baseline": Counterpart(half="TSM", decoder=False),
    "control": Counterpart(half="TSM"),
    "both": Counterpart(half="TSM", lambda_1=True, lambda_2=True),
}
"""What a column of differences refers to, by its heading; of the half of the row it stands in."""

_COMPONENTS = MethodConfig.model_fields.keys() - {"decoder", "lambda_1", "lambda_2", "logits"}


def family_of(backbone: str) -> Half:
    """Family of a backbone; backbones of other packages have families of their own."""
    return find_backbone(backbone).family


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
