"""The files of a report: every table in every format, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from cmkd.config.load import suggest
from cmkd.config.paths import slug
from cmkd.errors import InputError
from cmkd.report.figures.pictures import draw_pictures
from cmkd.report.pages.decoding import NAME as DECODING
from cmkd.report.pages.export import render_csv, render_json
from cmkd.report.pages.html import render_html
from cmkd.report.pages.latex import render_page as render_latex
from cmkd.report.pages.markdown import render_page as render_markdown
from cmkd.report.pages.page import Page, Picture
from cmkd.report.values.decoding import Decoding
from cmkd.report.values.tables import Table

Format = Literal["md", "tex", "csv", "json", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)


def parse_formats(text: str) -> tuple[Format, ...]:
    """The formats of a list with commas; InputError for one that is unknown."""
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise InputError(f"unknown format {name!r}{suggest(name, FORMATS)}")
    return tuple(one for one in FORMATS if one in names)


def render_files(
    tables: Sequence[Table],
    pages: Sequence[Page],
    formats: Sequence[Format],
    *,
    plots: bool,
    book: str = "report",
    decoding: Decoding | None = None,
) -> dict[str, bytes]:
    """Name -> content. One HTML file, `book`_DATA, holds all tables; the others are one each.

    Args:
        pages: one for each of `tables`, and a last one where there is `decoding`.
        decoding: what it costs to get at the inputs, a table of no sweep.
    """
    chapters = [(_stem(table), draw_pictures(table) if plots else ()) for table in tables]
    if decoding is not None:
        chapters.append((f"{DECODING}_{slug(decoding.data)}", _drawn(decoding) if plots else ()))
    files: dict[str, bytes] = {}
    drawn: dict[str, Sequence[Picture]] = {}
    for (stem, pictures), page in zip(chapters, pages, strict=True):
        drawn[page.name] = pictures
        named = {"_".join(filter(None, (stem, one.name))): one for one in pictures}
        for kind in formats:
            if kind != "html":
                files[f"{stem}.{kind}"] = _render(page, kind, named).encode()
        for name, picture in named.items():
            files |= {f"{name}.png": picture.png, f"{name}.svg": picture.svg}
    if "html" in formats:
        data = [table.evidence.data for table in tables] + ([decoding.data] if decoding else [])
        text = render_html(pages, drawn, title=f"cmkd: tables on {data[0]}")
        files[f"{book}_{slug(data[0])}.html"] = text.encode()
    return files


def _drawn(decoding: Decoding) -> tuple[Picture, ...]:
    # Matplotlib takes a second to load: only who wants figures waits for it.
    from cmkd.report.figures.decoding import decoding_picture

    return (decoding_picture(decoding),)


def _render(
    page: Page, kind: Literal["md", "tex", "csv", "json"], pictures: Mapping[str, Picture]
) -> str:
    match kind:
        case "md":
            return render_markdown(page, {f"{name}.svg": one for name, one in pictures.items()})
        case "tex":
            return render_latex(page)
        case "csv":
            return render_csv(page)
        case "json":
            return render_json(page)


def _stem(table: Table) -> str:
    name, own = table.spec.name, table.sweep.spec.name
    kind = f"table_{name}" if name.isdigit() else name
    others = [] if own == table.spec.sweep else [slug(own)]
    return "_".join([kind, *others, slug(table.evidence.data)])
