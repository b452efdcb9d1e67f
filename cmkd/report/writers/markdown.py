"""A page as Markdown. Every text is escaped; equal pages give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from cmkd.report.page import Cell, Grid, Page, Picture

NO_PICTURES: Mapping[str, Picture] = MappingProxyType({})
_SHOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {char: f"\\{char}" for char in "\\`*_[]|$~"}
)


def escape(text: str) -> str:
    """Text that shows as itself on one line of Markdown, inside a table cell as well."""
    one_line = " ".join(text.split())
    if not one_line.isprintable():
        replaced = (
            char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in one_line
        )
        one_line = "".join(replaced)
    return one_line.translate(_SHOWN)


def render_page(page: Page, pictures: Mapping[str, Picture] = NO_PICTURES) -> str:
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


def _figure(file: str, picture: Picture) -> list[str]:
    return [
        f"![{escape(picture.alt)}]({file})",
        f"*{escape(picture.title)}.* {escape(picture.caption)}",
    ]


def render_notice(page: Page) -> str:
    """Headline and notice as a quotation."""
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
