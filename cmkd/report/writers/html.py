"""Pages as one HTML file that asks the network for nothing; its template is a file beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from cmkd.report.page import Grid, Line, Page, Picture


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
        loader=PackageLoader("cmkd.report", "writers"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "anchor": _anchor,
        "base64": lambda data: base64.b64encode(data).decode("ascii"),
        "fragment": lambda text: quote(text, safe="()"),
        "groups": _groups,
        "has_trials": lambda line: any(cell.trials for cell in line.cells[1:]),
        "runs": _runs_of,
    }
    return environment.get_template("report.html.jinja")


def _anchor(page: Page) -> str:
    return f"table-{page.key}".replace(" ", "-")


def _groups(grid: Grid) -> list[list[Line]]:
    return [list(lines) for _, lines in groupby(grid.lines, key=lambda line: line.group)]


def _runs_of(arm: str, page: Page) -> str:
    """Id of the line of the runs of an arm."""
    return f"runs-{page.key}-{arm}".replace(" ", "-")
