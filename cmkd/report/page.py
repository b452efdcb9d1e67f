"""A table as a page of text: grids of cells that Markdown, LaTeX, HTML, CSV and JSON only format.

Nothing here is escaped; each format does that for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["text", "published", "measured"]


@dataclass(frozen=True)
class Cell:
    """One cell: what it says, the number behind it, and the trials that the number rests on.

    Numbers are None where there are none. `n` counts seeds, or pairs of a difference. `best`: not
    established to lie below the highest mean. `arm` names the line of the grid of runs that says
    where the number comes from. `links` are words and addresses that together say what `text` does.
    """

    text: str
    source: Source = "text"
    value: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    trials: tuple[str, ...] = ()
    best: bool = False
    arm: str = ""
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Line:
    """A row of a grid; lines of one `group` stand together."""

    cells: tuple[Cell, ...]
    group: str = ""


@dataclass(frozen=True)
class Grid:
    """A rectangle of cells; `caption` says what they are and on which data.

    `spare` names columns that a narrow page does without: they are said elsewhere.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    spare: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A figure: `name` ends those of its files, `alt` says it to who cannot see it."""

    name: str
    title: str
    alt: str
    caption: str
    svg: bytes
    png: bytes


@dataclass(frozen=True)
class Page:
    """The whole report of one table; `grids` begins with the table itself.

    `how` says how to read it, once per report.
    """

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
        """Names the page among those of several data sets."""
        return f"{self.name}-{self.data}" if self.data else self.name
