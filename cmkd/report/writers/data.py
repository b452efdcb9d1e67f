"""A page for programs: CSV with one line per cell, and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

from cmkd.report.page import Cell, Grid, Page

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
                values = (cell.value, cell.sd, cell.low, cell.high, cell.n)
                shown = (*place, column, cell.text, cell.source, *values)
                end = (int(cell.best), " ".join(cell.trials))
                writer.writerow([_harmless(value) for value in (*shown, *end)])
    return buffer.getvalue()


def render_json(page: Page) -> str:
    """The page as it is; keys of numbers that a cell does not have are left out."""
    whole = {
        "schema": SCHEMA,
        "name": page.name,
        "heading": page.heading,
        "headline": page.headline,
        "notice": page.notice,
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
    optional = ("value", "sd", "low", "high", "n")
    numbers = {key: getattr(cell, key) for key in optional if getattr(cell, key) is not None}
    rest = {"trials": list(cell.trials)} if cell.trials else {}
    best = {"best": True} if cell.best else {}
    return {"text": cell.text, "source": cell.source, **numbers, **rest, **best}


def _harmless(value: object) -> object:
    """Text that no spreadsheet takes for a formula; numbers with a sign are left alone."""
    if isinstance(value, str) and _FORMULA.match(value):
        return f"'{value}"
    return value
