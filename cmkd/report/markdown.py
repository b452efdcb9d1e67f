"""A page as Markdown. Every text is escaped; equal pages give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence

from cmkd.report.page import Cell, Grid, Page

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_BACKSLASHED = set("\\`*_[]|$~")


def escape(text: str) -> str:
    """Text that shows as itself on one line of Markdown, inside a table cell as well."""
    one_line = " ".join(text.split())
    shown = (char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in one_line)
    return "".join(
        f"\\{char}" if char in _BACKSLASHED else _ENTITIES.get(char, char) for char in shown
    )


def render_page(page: Page, *, figure: str | None) -> str:
    """The whole report of one table; `figure` is the name of its picture's file."""
    first, *others = page.grids
    parts = [f"# {escape(page.heading)}", escape(first.caption), render_notice(page)]
    if figure is not None:
        parts.append(f"![Accuracy of every arm, seeds as points]({figure})")
    parts += [render_grid(first), "\n".join(f"- {escape(line)}" for line in page.circumstances)]
    for grid in others:
        parts += [f"## {escape(grid.title)}", escape(grid.caption), render_grid(grid)]
    if page.notes:
        numbered = (f"{index}. {escape(note)}" for index, note in enumerate(page.notes, 1))
        parts += ["## About the paper's table", "\n".join(numbered)]
    return "\n\n".join(parts) + "\n"


def render_notice(page: Page) -> str:
    """What the numbers must not be taken for."""
    return f"> **{escape(page.headline)}** {escape(page.notice)}"


def render_grid(grid: Grid) -> str:
    """The cells of `grid`; those that are best in bold."""
    rows = [[_cell(cell) for cell in line.cells] for line in grid.lines]
    head = [escape(column) for column in grid.columns]
    return "\n".join(_joined(row) for row in (head, ["---"] * len(head), *rows))


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"**{text}**" if cell.best else text


def _joined(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
