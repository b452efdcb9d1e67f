"""Page of a report: grids of cells, and its writers: Markdown, CSV, JSON and HTML (`latex`: LaTeX).

Writers escape every text; equal pages give equal bytes.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from cmkd.stats import Interval, without_outliers

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
    """Grid of cells with a caption; HTML and LaTeX leave out the columns `spare`."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    spare: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[int, ...]:
        """Places of the columns that are not spare."""
        return tuple(i for i, column in enumerate(self.columns) if column not in self.spare)


@dataclass(frozen=True)
class Picture:
    """Figure; `name` is the end of its file names."""

    name: str
    title: str
    alt: str
    caption: str
    svg: bytes
    png: bytes
    pdf: bytes = b""


@dataclass(frozen=True)
class Page:
    """Report of one table; `grids` begins with the table, `how` are notes on reading it.

    `is_cited`: its first column cites works by their number in the paper, in brackets.
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
    is_cited: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Unique key in a report of several data sets."""
        return f"{self.name}-{self.data}" if self.data else self.name


NO_PICTURES: Mapping[str, Picture] = MappingProxyType({})
_SHOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {char: f"\\{char}" for char in "\\`*_[]|$~"}
)


def render_markdown(page: Page, pictures: Mapping[str, Picture] = NO_PICTURES) -> str:
    """The whole report of one table; `pictures` by the names of their files."""
    first, *others = page.grids
    parts = [f"# {escape(page.heading)}", escape(first.caption), render_notice(page)]
    shown = {picture.name: _figure(file, picture) for file, picture in pictures.items()}
    parts += shown.pop("", [])
    parts += [render_grid(first), "\n".join(f"- {escape(line)}" for line in page.circumstances)]
    parts += [part for figure in shown.values() for part in figure]
    for grid in others:
        parts += [f"## {escape(grid.title)}", escape(grid.caption), render_grid(grid)]
    if page.how:
        parts += ["## How to read this", "\n".join(f"- {escape(line)}" for line in page.how)]
    if page.notes:
        numbered = (f"{index}. {escape(note)}" for index, note in enumerate(page.notes, 1))
        parts += ["## About the paper's table", "\n".join(numbered)]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that shows as itself on one line of Markdown, inside a table cell as well."""
    one_line = " ".join(text.split())
    shown = (char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in one_line)
    return "".join(shown).translate(_SHOWN)


def _figure(file: str, picture: Picture) -> list[str]:
    return [
        f"![{escape(picture.alt)}]({file})",
        f"*{escape(picture.title)}.* {escape(picture.caption)}",
    ]


def render_notice(page: Page) -> str:
    """Headline, notice and warnings as a quotation."""
    lines = [f"**{escape(page.headline)}** {escape(page.notice)}"]
    lines += [f"**Warning:** {escape(line)}" for line in page.warnings]
    return "\n>\n".join(f"> {line}" for line in lines)


def render_grid(grid: Grid) -> str:
    """The cells of `grid`; those that are best in bold."""
    head = [escape(column) for column in grid.columns]
    rows = [
        [f"**{escape(cell.text)}**" if cell.best else escape(cell.text) for cell in line.cells]
        for line in grid.lines
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


SCHEMA = 1
"""Version of the JSON; raised when a key changes its meaning or goes."""

COLUMNS = (
    "table",
    "grid",
    "line",
    "group",
    "row",
    "column",
    "text",
    "source",
    "value",
    "sd",
    "low",
    "high",
    "n",
    "best",
    "trials",
)


_FORMULA = re.compile(
    r"[=@\t\r]"
    # A sign begins a formula, but for a lone one and for a difference as the pages write it.
    r"|[+\-](?!$)(?!\d[\d.]*(?: \[[+\-\u2212\d., ]+\])?(?: to [\w.\-\[\]=,]+)?(?: \(\d+ pairs?\))?"
    r"(?: \u26a0)?$)"
)


def render_csv(page: Page) -> str:
    """Every cell of every grid with its numbers unrounded; trial ids are parted by spaces."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for grid in page.grids:
        for number, line in enumerate(grid.lines, 1):
            place = (page.name, grid.name, number, line.group, line.cells[0].text)
            for column, cell in zip(grid.columns, line.cells, strict=True):
                shown = (*place, column, cell.text, cell.source, *cell.numbers.values())
                end = (int(cell.best), " ".join(cell.trials))
                writer.writerow([_harmless(value) for value in (*shown, *end)])
    return buffer.getvalue()


def _harmless(value: object) -> object:
    """Text that no spreadsheet takes for a formula; numbers with a sign are left alone."""
    if isinstance(value, str) and _FORMULA.match(value):
        return f"'{value}"
    return value


def render_json(page: Page) -> str:
    """The page as it is; keys of numbers that a cell does not have are left out."""
    whole = {
        "schema": SCHEMA,
        "name": page.name,
        "heading": page.heading,
        "headline": page.headline,
        "notice": page.notice,
        "warnings": page.warnings,
        "grids": [_grid(grid) for grid in page.grids],
        "circumstances": page.circumstances,
        "notes": page.notes,
        "how_to_read": page.how,
    }
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def _grid(grid: Grid) -> dict[str, Any]:
    return {
        "name": grid.name,
        "title": grid.title,
        "caption": grid.caption,
        "columns": grid.columns,
        "lines": [
            {"cells": [_cell(cell) for cell in line.cells], "group": line.group}
            for line in grid.lines
        ],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    numbers = {key: number for key, number in cell.numbers.items() if number is not None}
    rest = {"trials": list(cell.trials)} if cell.trials else {}
    best = {"best": True} if cell.best else {}
    return {"text": cell.text, "source": cell.source, **numbers, **rest, **best}


def render_html(
    pages: Sequence[Page], pictures: Mapping[str, Sequence[Picture]], *, title: str
) -> str:
    """All `pages` in one file; `pictures` maps keys of pages to theirs, set inside it.

    Every text is escaped. Pictures are data of ``img``, so that no script in one could run; the
    policy of the page refuses any other source.
    """
    return _template().render(
        title=title,
        pages=pages,
        pictures=pictures,
        headlines=list(dict.fromkeys(page.headline for page in pages)),
        how=list(dict.fromkeys(line for page in pages for line in page.how)),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("cmkd", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "anchor": _anchor,
        "bars": _bars,
        "base64": lambda data: base64.b64encode(data).decode("ascii"),
        "fragment": lambda text: quote(text, safe="()"),
        "groups": _groups,
        "has_trials": lambda line: any(cell.trials for cell in line.cells[1:]),
        "runs": _runs_of,
    }
    return environment.get_template("report.html.jinja")


def _anchor(page: Page) -> str:
    return f"table-{page.key}".replace(" ", "-")


def _bars(grid: Grid) -> dict[tuple[int, int], dict[str, float]]:
    """By line and column, where interval, mean and zero lie in per cent of the column's range.

    An outlier does not set the range; its bar ends at the edge.
    """
    found: dict[tuple[int, int], dict[str, float]] = {}
    for column, name in enumerate(grid.columns):
        numbers = {
            (number, column): {"low": own.low, "mean": cell.value, "high": own.high}
            for number, cell in enumerate(line.cells[column] for line in grid.lines)
            if (own := cell.interval) and cell.value is not None
        }
        if not numbers:
            continue
        ends = [value for known in numbers.values() for value in known.values()]
        low, high = without_outliers(ends)
        if name.startswith("Δ"):
            low, high = min(low, 0.0), max(high, 0.0)
        for place, known in numbers.items():
            shown = {**known, "zero": 0.0}
            found[place] = {
                key: round(float(np.clip((value - low) / (high - low or 1), 0, 1)) * 100, 1)
                for key, value in shown.items()
            }
    return found


def _groups(grid: Grid) -> list[list[tuple[int, Line]]]:
    """Numbered lines of each group."""
    numbered = groupby(enumerate(grid.lines), key=lambda entry: entry[1].group)
    return [list(lines) for _, lines in numbered]


def _runs_of(arm: str, page: Page) -> str:
    """Id of the line of the runs of an arm."""
    return f"runs-{page.key}-{arm}".replace(" ", "-")
