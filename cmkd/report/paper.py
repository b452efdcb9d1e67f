"""Printed tables of the paper, measured computation beside them, and the tables of a report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from cmkd.config.base import Config
from cmkd.config.paths import packaged, slug
from cmkd.config.sweep import TABLES as SPEC_OF_TABLE
from cmkd.config.sweep import Sweep
from cmkd.config.yaml_loader import read_model, suggest
from cmkd.errors import InputError
from cmkd.report.arms import (
    FAMILIES,
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
    top5: dict[str, str] = Field(default={}, description="the same of top-5 accuracies")
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
        if unknown := sorted({*self.top1, *self.top5} - set(self.columns)):
            raise ValueError(f"top1 and top5: {', '.join(unknown)} is no column")
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


@cache
def load_published(name: str) -> PublishedTable:
    """The published table ``reports/published/<name>.yaml``; errors as `read_model`."""
    return read_published(packaged("reports", "published", f"{name}.yaml"))


def read_published(path: Path) -> PublishedTable:
    """The published table in the file `path`; errors as `read_model`."""
    return read_model(path, PublishedTable)[0]


def cited(table: PublishedTable) -> Mapping[str, str]:
    """The works that rows of `table` cite, by number, in ascending order."""
    return dict(sorted(table.citations.items(), key=lambda work: int(work[0])))


@cache
def all_works() -> Mapping[str, str]:
    """The works that any table of the paper cites, by number."""
    tables = [load_published(spec.published) for spec in TABLES.values() if spec.published]
    works = {number: work for table in tables for number, work in table.citations.items()}
    return dict(sorted(works.items(), key=lambda work: int(work[0])))


COST_TOLERANCE = 1e-3
"""Relative tolerance between `gmacs` and its factors, and between equal models."""


class ModelCost(BaseModel):
    """Cost of a network at the paper's resolution, in the JSON list of a file of costs.

    GFLOPs of the paper and of the literature it cites are multiply-accumulates, so ours are GMACs.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    model: str = Field(
        min_length=1,
        description="as in the rows of `reports/published`, tsm_r50_16f say; any other is no row",
    )
    gmacs_per_view: float = Field(gt=0, description="10^9 multiply-accumulates of one view")
    views: int = Field(ge=1, description="temporal clips x crops of a test clip")
    gmacs: float = Field(gt=0, description="of all views")
    parameters: int = Field(ge=1)

    @model_validator(mode="after")
    def _multiplies(self) -> Self:
        product = self.gmacs_per_view * self.views
        if not math.isclose(self.gmacs, product, rel_tol=COST_TOLERANCE):
            raise ValueError(
                f"gmacs {self.gmacs} of {self.model!r} is not gmacs_per_view x views = {product:g}"
            )
        return self


def read_costs(path: Path) -> Mapping[str, ModelCost]:
    """Costs in the file `path` by model; empty without the file.

    Raises:
        InputError: it cannot be read, is no such list, or has a model with two costs per view.
    """
    try:
        costs = TypeAdapter(list[ModelCost]).validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = f" at {'.'.join(map(str, first['loc']))}" if first["loc"] else ""
        raise InputError(
            f"{path}: no list of costs{where}: {first['msg'].removeprefix('Value error, ')}; "
            "measure them anew or delete the file"
        ) from None
    known: dict[str, ModelCost] = {}
    for cost in costs:
        other = known.setdefault(cost.model, cost)
        if not math.isclose(other.gmacs_per_view, cost.gmacs_per_view, rel_tol=COST_TOLERANCE):
            raise InputError(
                f"{path}: model {cost.model!r} has {other.gmacs_per_view} and "
                f"{cost.gmacs_per_view} GMACs per view; measure it anew"
            )
    return known


@dataclass(frozen=True)
class CostCell:
    """Computation of a row in GMACs; `delta` to the printed value in percent, None without one."""

    per_view: float
    views: int
    total: float
    parameters: int
    delta: float | None
    is_open: bool


def network_cost(
    wanted: RowCost, costs: Mapping[str, ModelCost], printed: float | None = None
) -> CostCell | None:
    """Cost of `wanted`, summed over an ensemble; None if a network was not measured."""
    if not all(model in costs for model in wanted.models):
        return None
    parts = [costs[model] for model in wanted.models]
    per_view = sum(part.gmacs_per_view for part in parts)
    total = per_view * wanted.views
    delta = 100 * (total / printed - 1) if printed is not None else None
    parameters = sum(part.parameters for part in parts)
    return CostCell(per_view, wanted.views, total, parameters, delta, wanted.is_open)


def row_cost(row: PublishedRow, costs: Mapping[str, ModelCost]) -> CostCell | None:
    """Cost of `row`; None if a network was not measured."""
    return network_cost(row.cost, costs, row.gflops) if row.cost is not None else None


def any_cost(table: PublishedTable, costs: Mapping[str, ModelCost]) -> bool:
    """True if any row of `table` has a measured cost."""
    return any(row_cost(row, costs) is not None for row in table.rows)


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
    references = [
        role
        for role in ("control", "baseline")
        if any(standard_reference(sweep, role, family) for family in families)
    ]
    if not references and len(sweep.arms) > 1:
        references = [sweep.arms[0].name]
    return TableSpec(
        name=sweep.spec.name,
        sweep=sweep.spec.name,
        published=None,
        references=tuple(references[:1]),
        figures=("arms", "training"),
        heading=f"Arms of sweep {sweep.spec.name}.",
        labels=tuple(swept),
        families=families,
        is_own=True,
    )
