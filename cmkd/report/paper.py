"""Printed tables of the paper, and the tables of a report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from cmkd.config.base import Config
from cmkd.config.paths import packaged, slug
from cmkd.config.sweep import TABLES as SPEC_OF_TABLE
from cmkd.config.sweep import Sweep
from cmkd.config.yaml_loader import explain, read_yaml, suggest
from cmkd.errors import ConfigError, InputError
from cmkd.report.arms import (
    FAMILIES,
    REFERENCES,
    ArmQuery,
    Family,
    families_of,
    flat,
    standard_reference,
)


class RowCost(Config):
    """Measured networks of a row's GFLOPs."""

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


FigureName = Literal["arms", "training", "classes", "diagnostics", "search", "cost"]


@dataclass(frozen=True)
class TableSpec:
    """Definition of a table.

    Attributes:
        name: of the files; the paper's number where it has one.
        sweep: name of the spec whose arms are the rows.
        published: file of printed numbers, or its name where it comes with the project; None for
            a table without any.
        references: columns of differences, keys of `arms.REFERENCES`.
        figures: what is drawn of it, in this order.
        heading: of a table outside the paper.
        labels: columns of text of a table outside the paper.
        families: of which it shows the RGB teacher, outside the paper.
        is_own: table of a user's sweep, with a row per arm.
    """

    name: str
    sweep: str
    published: str | None
    references: tuple[str, ...] = ()
    figures: tuple[FigureName, ...] = ()
    heading: str = ""
    labels: tuple[str, ...] = ("Spatial KD", "Temporal KD")
    families: tuple[Family, ...] = FAMILIES
    is_own: bool = False

    def load(self) -> PublishedTable:
        """The printed rows; none for a table outside the paper."""
        if self.published is not None:
            if self.published.endswith((".yaml", ".yml")):
                return read_published(Path(self.published))
            return load_published(self.published)
        teachers = tuple(
            PublishedRow(
                method=f"RGB teacher of the {family} family",
                ours=ArmQuery(family=family, teacher=True),
            )
            for family in self.families
        )
        return PublishedTable(title=self.heading, source="", labels=self.labels, added=teachers)


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
        _of_paper(4, ("baseline", "control"), ("arms", "training", "classes", "diagnostics")),
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


def find_table(name: str, sweep: str | None = None) -> TableSpec:
    """The table called `name`, or that of a file of printed rows, filled by the arms of `sweep`.

    Raises:
        InputError: there is no such table, or a file without a sweep.
    """
    if name in TABLES:
        return TABLES[name]
    if not name.endswith((".yaml", ".yml")):
        raise InputError(f"unknown table {name!r}{suggest(name, TABLES)}")
    if sweep is None:
        raise InputError(f"table {name}: name the sweep whose arms are its rows with --sweep")
    stem = slug(Path(name).stem)
    return TableSpec(stem, sweep, name, ("control",), ("arms", "training"))


def own_table(sweep: Sweep) -> TableSpec:
    """Table of a sweep that is no table of the paper: a row per arm, a column per swept key.

    Arms are compared with the control of their family where the sweep has one, else with the
    baseline, else with the first arm.
    """
    settings = [flat(arm.setting) for arm in sweep.arms]
    swept = [
        key
        for key in (settings[0] if settings else ())
        if len({json.dumps(setting.get(key)) for setting in settings}) > 1
    ]
    families = families_of(sweep)
    roles = (
        role
        for role in REFERENCES
        if any(standard_reference(sweep, role, family) for family in families)
    )
    first = [sweep.arms[0].name] if len(sweep.arms) > 1 else []
    reference = sorted(roles, key=["control", "baseline", "both"].index)[:1] or first
    if reference == ["both"]:
        reference = first
    return TableSpec(
        name=sweep.spec.name,
        sweep=sweep.spec.name,
        published=None,
        references=tuple(reference),
        figures=("arms", "training"),
        heading=f"Arms of sweep {sweep.spec.name}.",
        labels=tuple(swept),
        families=families,
        is_own=True,
    )
