"""Pages of tables as one HTML file that asks the network for nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from urllib.parse import quote

from cmkd.report.page import Cell, Grid, Line, Page, Picture

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --soft: #f2f4f7;
  --line: #c9ced6; --link: #00558f; --warn: #8a3b00; --side: 1.5rem; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181c; --soft: #22262d;
  --line: #454b55; --link: #8cc8ff; --warn: #ffb27a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; max-width: 104rem; padding: 1rem var(--side) 4rem; overflow-wrap: anywhere; }
a { color: var(--link); }
td a { color: inherit; text-decoration-style: dotted; }
tr:target, tr:target th { background: var(--soft); }
h2 { border-top: 2px solid var(--line); margin-top: 3rem; padding-top: 1rem; }
.notice { border-left: 4px solid var(--warn); background: var(--soft); padding: .6rem 1rem; }
.notice strong { color: var(--warn); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .4rem 0; }
caption span { display: block; position: sticky; left: 0; width: fit-content;
  max-width: min(100%, calc(100vw - 2 * var(--side))); }
th, td { overflow-wrap: normal; padding: .3rem .6rem; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--ink); background: var(--soft); }
tbody { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; min-width: 12rem; background: var(--paper); }
tbody th, thead th:first-child { position: sticky; left: 0; }
@media (max-width: 40rem) { :root { --side: .8rem; } tbody th { min-width: 8rem; } }
td.measured { white-space: nowrap; }
td.published { opacity: .85; font-style: italic; }
td.best { font-weight: 700; }
figure { margin: 1.5rem 0; }
figcaption { font-size: .82rem; max-width: 60rem; }
img { background: #ffffff; max-width: 100%; height: auto; }
ol, ul { max-width: 60rem; }
@media print { body { max-width: none; } .scroll { overflow: visible; } }
"""


def render_html(
    pages: Sequence[Page], pictures: Mapping[str, Sequence[Picture]], *, title: str
) -> str:
    """All `pages` in one file; `pictures` maps names of pages to theirs, set inside it.

    Pictures are data of ``img``, so that no script in one could run; the policy of the page
    refuses any other source.
    """
    body = [f"<h1>{escape(title)}</h1>"]
    for headline in dict.fromkeys(page.headline for page in pages):
        body.append(_notice(f"<strong>{escape(headline)}</strong>"))
    links = (f'<li><a href="#{_anchor(one)}">{escape(one.heading)}</a></li>' for one in pages)
    body.append(f'<nav aria-label="Tables"><ul>{"".join(links)}</ul></nav>')
    for page in pages:
        body += _section(page, pictures.get(page.name, ()))
    head = (
        '<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>"
    )
    text = "\n".join(body)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n'
        f"<body>\n<main>\n{text}\n</main>\n</body>\n</html>\n"
    )


def _notice(html: str) -> str:
    return f'<p class="notice" role="note">{html}</p>'


def _anchor(page: Page) -> str:
    return f"table-{escape(page.name)}"


def _section(page: Page, pictures: Sequence[Picture]) -> Iterator[str]:
    first, *others = page.grids
    yield f'<section id="{_anchor(page)}">\n<h2>{escape(page.heading)}</h2>'
    yield _notice(f"{escape(page.headline)} {escape(page.notice)}")
    yield from (_figure(one) for one in pictures if not one.name)
    yield _table(first, page)
    yield _list("ul", page.circumstances)
    yield from (_figure(one) for one in pictures if one.name)
    for grid in others:
        title = escape(grid.title)
        yield f"<details>\n<summary>{title}</summary>\n{_table(grid, page)}\n</details>"
    if page.notes:
        yield f"<h3>About the paper's table</h3>\n{_list('ol', page.notes)}"
    yield "</section>"


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.svg).decode("ascii")
    caption = f"<strong>{escape(picture.title)}.</strong> {escape(picture.caption)}"
    return (
        f'<figure>\n<img alt="{escape(picture.alt)}" src="data:image/svg+xml;base64,{data}">\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )


def _list(kind: str, items: Sequence[str]) -> str:
    return f"<{kind}>{''.join(f'<li>{escape(item)}</li>' for item in items)}</{kind}>"


def _table(grid: Grid, page: Page) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in grid.columns)
    bodies = "\n".join(
        f"<tbody>\n{''.join(_row(line, grid, page) for line in lines)}</tbody>"
        for _, lines in groupby(grid.lines, key=lambda line: line.group)
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(grid.title)}">\n'
        f"<table>\n<caption><span>{escape(grid.caption)}</span></caption>\n"
        f"<thead><tr>{head}</tr></thead>\n{bodies}\n</table>\n</div>"
    )


def _row(line: Line, grid: Grid, page: Page) -> str:
    first, *others = line.cells
    cells = "".join(_cell(cell, page) for cell in others)
    is_place = grid.name == "runs" and any(cell.trials for cell in others)
    place = f' id="{escape(_runs_of(first.text, page))}"' if is_place else ""
    return f'<tr{place}><th scope="row">{escape(first.text)}</th>{cells}</tr>\n'


def _runs_of(arm: str, page: Page) -> str:
    """Names the line of the runs of an arm."""
    return f"runs-{page.name}-{arm}".replace(" ", "-")


def _cell(cell: Cell, page: Page) -> str:
    kinds = [cell.source, *(["best"] if cell.best else [])]
    trials = f' data-trials="{escape(" ".join(cell.trials))}"' if cell.trials else ""
    return f'<td class="{" ".join(kinds)}"{trials}>{_linked(cell, page)}</td>'


def _linked(cell: Cell, page: Page) -> str:
    """The text of a cell, leading to where it comes from; followed only when it is clicked."""
    if cell.links:
        return ", ".join(_link(text, address) for text, address in cell.links)
    if cell.arm and cell.trials:
        return _link(cell.text, f"#{quote(_runs_of(cell.arm, page), safe='()')}")
    return escape(cell.text)


def _link(text: str, address: str) -> str:
    return f'<a href="{escape(address)}" rel="noreferrer">{escape(text)}</a>'
