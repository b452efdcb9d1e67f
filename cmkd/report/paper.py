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
from cmkd.config.paths import packaged
from cmkd.config.sweep import TABLES as SPEC_OF_TABLE
from cmkd.config.yaml_loader import explain, read_yaml
from cmkd.errors import ConfigError
from cmkd.report.arms import FAMILIES, ArmQuery


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
