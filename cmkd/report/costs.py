"""Measured computation of networks: file format, and columns of a table.

The file is a JSON list of objects, each with the keys of `ModelCost`; other keys are left alone::

    [{"model": "tsm_r50_16f", "gmacs_per_view": 65.4, "views": 6, "gmacs": 392.4,
      "parameters": 24300000}]

``GFLOPs`` of the paper and of the literature it cites are multiply-accumulates, so ours are GMACs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from cmkd.errors import InputError
from cmkd.report.paper import PublishedRow, PublishedTable

TOLERANCE = 1e-3
"""Relative tolerance between `gmacs` and its factors, and between equal models."""


class ModelCost(BaseModel):
    """Cost of a network at the paper's resolution."""

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
        if not math.isclose(self.gmacs, self.gmacs_per_view * self.views, rel_tol=TOLERANCE):
            raise ValueError(
                f"gmacs {self.gmacs} of {self.model!r} is not gmacs_per_view x views = "
                f"{self.gmacs_per_view * self.views:g}"
            )
        return self


@dataclass(frozen=True)
class CostCell:
    """Computation of a row in GMACs; `delta` to the printed value in percent, None without one."""

    per_view: float
    views: int
    total: float
    parameters: int
    delta: float | None
    is_open: bool


def read_costs(path: Path) -> Mapping[str, ModelCost]:
    """Costs in the file `path` by model; empty without the file.

    Raises:
        InputError: it cannot be read, is no such list, or has a model with two costs per view.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        costs = TypeAdapter(list[ModelCost]).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        keys = ".".join(map(str, first["loc"]))
        where = f" at {keys}" if keys else ""
        raise InputError(
            f"{path}: no list of costs{where}: {first['msg'].removeprefix('Value error, ')}; "
            "measure them anew or delete the file"
        ) from None
    known: dict[str, ModelCost] = {}
    for cost in costs:
        other = known.setdefault(cost.model, cost)
        if not math.isclose(other.gmacs_per_view, cost.gmacs_per_view, rel_tol=TOLERANCE):
            raise InputError(
                f"{path}: model {cost.model!r} has {other.gmacs_per_view} and "
                f"{cost.gmacs_per_view} GMACs per view; measure it anew"
            )
    return known


def row_cost(row: PublishedRow, costs: Mapping[str, ModelCost]) -> CostCell | None:
    """Cost of `row`, summed over an ensemble; None if a network is missing."""
    wanted = row.cost
    if wanted is None or not all(model in costs for model in wanted.models):
        return None
    parts = [costs[model] for model in wanted.models]
    per_view = sum(part.gmacs_per_view for part in parts)
    total = per_view * wanted.views
    delta = 100 * (total / row.gflops - 1) if row.gflops is not None else None
    parameters = sum(part.parameters for part in parts)
    return CostCell(per_view, wanted.views, total, parameters, delta, wanted.is_open)


def any_cost(table: PublishedTable, costs: Mapping[str, ModelCost]) -> bool:
    """True if any row of `table` has a measured cost."""
    return any(row_cost(row, costs) is not None for row in table.rows)
