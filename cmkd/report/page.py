"""Page of a report: grids of cells, unescaped, for all output formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cmkd.stats import Interval

Source = Literal["text", "published", "measured"]


@dataclass(frozen=True)
class Cell:
    """Cell: text, unrounded number, and the trials behind it.

    Attributes:
        n: seeds, or pairs of a difference.
        best: tied with the highest mean.
        arm: line of the grid of runs.
        links: (words, address) in place of `text`.
    """

    text: str
    source: Source = "text"
    value: float | None = None
    sd: float | None = None
    interval: Interval | None = None
    n: int | None = None
    trials: tuple[str, ...] = ()
    best: bool = False
    arm: str = ""
    links: tuple[tuple[str, str], ...] = ()

    @property
    def numbers(self) -> dict[str, float | None]:
        """All numbers of the cell by name, unrounded; None where it has none."""
        low, high = (self.interval.low, self.interval.high) if self.interval else (None, None)
        return {"value": self.value, "sd": self.sd, "low": low, "high": high, "n": self.n}


@dataclass(frozen=True)
class Line:
    """A row of a grid; lines of one `group` stand together."""

    cells: tuple[Cell, ...]
    group: str = ""


@dataclass(frozen=True)
class Grid:
    """Grid of cells with a caption; narrow pages leave out the columns `spare`."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    spare: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """Figure; `name` is the end of its file names."""

    name: str
    title: str
    alt: str
    caption: str
    svg: bytes
    png: bytes


@dataclass(frozen=True)
class Page:
    """Report of one table; `grids` begins with the table, `how` are notes on reading it."""

    name: str
    heading: str
    headline: str
    notice: str
    grids: tuple[Grid, ...]
    circumstances: tuple[str, ...]
    notes: tuple[str, ...]
    how: tuple[str, ...] = ()
    data: str = ""

    @property
    def key(self) -> str:
        """Unique key in a report of several data sets."""
        return f"{self.name}-{self.data}" if self.data else self.name
