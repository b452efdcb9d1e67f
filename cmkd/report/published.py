"""The paper's printed numbers, read from ``reports/published/``; never mixed with ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from cmkd.config.base import Config
from cmkd.config.load import explain, read_yaml
from cmkd.config.paths import packaged
from cmkd.errors import ConfigError

YesNo = Literal["Yes", "No"]


class PublishedRow(Config):
    """One printed row, and the sweep arm that repeats it (None: the row is not repeated)."""

    method: str = Field(min_length=1, description="as printed, spaces included")
    spatial_kd: YesNo
    temporal_kd: YesNo
    printed: dict[str, float] = Field(description="column heading -> accuracy in [0, 100]")
    arm: str | None = None


class PublishedTable(Config):
    """A table of the paper as printed, with what has to be said about it."""

    title: str
    source: str
    columns: tuple[str, ...] = Field(min_length=1, description="headings of the numeric columns")
    rows: tuple[PublishedRow, ...] = Field(min_length=1)
    baseline: str = Field(description="arm that the first difference column refers to")
    control: str = Field(description="arm that the second difference column refers to")
    names: dict[str, str] = Field(default={}, description="arm -> row name outside the paper")
    notes: tuple[str, ...] = Field(default=(), description="discrepancies, printed as footnotes")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for row in self.rows:
            if tuple(row.printed) != self.columns:
                raise ValueError(f"row {row.method!r} must give {', '.join(self.columns)} in order")
            for column, value in row.printed.items():
                if not 0 <= value <= 100:
                    raise ValueError(f"row {row.method!r}, {column}: {value} is not a percentage")
        arms = [row.arm for row in self.rows if row.arm is not None]
        if len(set(arms)) != len(arms):
            raise ValueError(f"rows: an arm is named twice among {arms}")
        return self


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
