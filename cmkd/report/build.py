"""Whole reports in memory, as bytes: what the commands write, and `verify` makes again."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from cmkd.config.paths import slug
from cmkd.config.sweep import load_sweep
from cmkd.config.yaml_loader import suggest
from cmkd.errors import InfrastructureError, InputError
from cmkd.report.claims import Claims, Judgement
from cmkd.report.claims_page import build_claims_page, judge, render_claims_json
from cmkd.report.compose import build_page
from cmkd.report.costs import read_costs
from cmkd.report.decoding import FILE, Decoding, read_decoding
from cmkd.report.decoding_page import NAME as DECODING
from cmkd.report.decoding_page import build_decoding_page
from cmkd.report.evidence import NothingMeasured
from cmkd.report.figures.pictures import draw_pictures
from cmkd.report.gather import Gatherer, Request, fill_tables, sweeps_by_data
from cmkd.report.page import Page, Picture
from cmkd.report.paper import TABLES
from cmkd.report.tables import Table
from cmkd.report.writers.data import render_csv, render_json
from cmkd.report.writers.html import render_html
from cmkd.report.writers.latex import render_page as render_latex
from cmkd.report.writers.markdown import render_page
from cmkd.report.writers.markdown import render_page as render_markdown

FULL = {errno.ENOSPC, errno.EDQUOT}


def write_files(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write `files` (name -> content) into `folder`; existing ones are replaced at the end.

    All contents are on disk before the first old file is replaced, so a full disk leaves the
    old report as it was.

    Raises:
        InputError: `folder` cannot be created or written to.
        InfrastructureError: the disk failed on the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=folder, prefix=".report-")
    except OSError as error:
        if error.errno in FULL:
            raise _full(folder, error) from error
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}); choose another with --out"
        ) from None
    with scratch as temporary:
        try:
            for name, content in files.items():
                _write_synced(Path(temporary, name), content)
            for name in files:
                os.replace(Path(temporary, name), folder / name)
        except OSError as error:
            raise _full(folder, error) from error
    return tuple(folder / name for name in files)


def _full(folder: Path, error: OSError) -> InfrastructureError:
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(place).free
    return InfrastructureError(
        f"{folder}: the report cannot be written ({error.strerror}; {free / 1e6:.0f} MB free), so "
        "an old one is left as it was; free some space and run it again"
    )


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


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


@dataclass(frozen=True)
class TableReport:
    """Tables, their pages and files (name -> content); `left_out` says why others are not there."""

    tables: tuple[Table, ...]
    pages: tuple[Page, ...]
    files: Mapping[str, bytes]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class ClaimReport:
    """The verdicts, their page, and its files (name -> content)."""

    judgement: Judgement
    page: Page
    files: Mapping[str, bytes]


def table_report(
    request: Request, formats: Sequence[Format], *, plots: bool, version: str
) -> TableReport:
    """The tables of `request`, and that of decoding where it was measured and may be wanted.

    A request that names neither data set nor sweep is one for all data sets of the store.

    Raises:
        InputError: the table of decoding is asked for by its name and was not measured; what
            `read_decoding` refuses.
        CmkdError: as `fill_tables`.
    """
    others = _of_other_data(request)
    parts: list[TableReport] = []
    lacking: list[NothingMeasured] = []
    for one in (request, *others):
        decoding = _decoding(one) if one is request else None
        try:
            filled, left_out = _filled(one, decoding)
        except NothingMeasured as error:
            lacking.append(error if one is request else _elsewhere(one, others[one]))
            continue
        if one is not request:
            # What others printed is said once, whatever data there is.
            filled, left_out = tuple(table for table in filled if table.evidence.trials), ()
            if not filled:
                lacking.append(_elsewhere(one, others[one]))
                continue
        pages = tuple(build_page(table, version=version) for table in filled)
        if decoding is not None:
            pages = (*pages, build_decoding_page(decoding, version=version))
        own = [slug(filled[0].sweep.spec.name)] if request.sweep and filled else []
        book = "_".join(["report", *request.tables, *own])
        files = render_files(filled, pages, formats, plots=plots, book=book, decoding=decoding)
        parts.append(TableReport(filled, pages, files, left_out))
    if not parts:
        raise lacking[0]
    return TableReport(
        tuple(table for part in parts for table in part.tables),
        tuple(page for part in parts for page in part.pages),
        {name: content for part in parts for name, content in part.files.items()},
        (*(line for part in parts for line in part.left_out), *map(str, lacking)),
    )


def other_data(request: Request) -> tuple[str, ...]:
    """What `request` says nothing of, though the store has it: the commands, by data set."""
    return tuple(
        shlex.join(["cmkd", "report", "claims", "--data", one.data or "", "--sweep", name])
        for one, sweeps in _of_other_data(request).items()
        for name in sweeps
    )


def _of_other_data(request: Request) -> Mapping[Request, tuple[str, ...]]:
    """The same for each data set that `request` does not mean by itself, and the sweeps on it."""
    tables = [TABLES[name] for name in request.tables or TABLES if name in TABLES]
    if request.data or request.sweep or not tables:
        return {}
    own = {load_sweep(table.sweep).spec.data for table in tables}
    return {
        replace(request, data=data): sweeps
        for data, sweeps in sweeps_by_data(request).items()
        if data not in own
    }


def _elsewhere(request: Request, sweeps: Sequence[str]) -> NothingMeasured:
    data = request.data or ""
    commands = [
        shlex.join(["cmkd", "report", "tables", "--data", data, "--sweep", name]) for name in sweeps
    ]
    return NothingMeasured(
        f"data set {data}: its finished trials are of other sweeps than the tables'"
        + (f"; run: {' and '.join(commands)}" if commands else "")
    )


def _decoding(request: Request) -> Decoding | None:
    is_named = DECODING in request.tables
    # A sweep of the user's own alone means one table, of that sweep.
    if not is_named and (request.tables or request.sweep):
        return None
    path = request.costs.with_name(FILE)
    found = read_decoding(path)
    if found is None and is_named:
        raise InputError(
            f"{path}: there is no such file; measure it with: "
            f"cmkd cost --decoding DATA --out {path.parent}"
        )
    return found


def _filled(
    request: Request, decoding: Decoding | None
) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    """`fill_tables`, of nothing where the table of decoding alone is wanted or there."""
    names = tuple(name for name in request.tables if name != DECODING)
    if request.tables and not names:
        return (), ()
    try:
        return fill_tables(replace(request, tables=names))
    except NothingMeasured as error:
        if names or decoding is None:
            raise
        return (), (str(error),)


def claim_report(request: Request, claims: Claims, *, version: str) -> ClaimReport:
    """The verdicts on `claims`; errors as those of `judge`."""
    judgement = judge(claims, Gatherer(request), read_costs(request.costs))
    page = build_claims_page(judgement, version=version)
    first = judgement.evidence[0]
    own = [slug(first.sweep.spec.name)] if request.sweep else []
    stem = "_".join(["claims", *own, slug(first.data)])
    texts = {
        f"{stem}.md": render_page(page),
        f"{stem}.tex": render_latex(page),
        f"{stem}.csv": render_csv(page),
        f"{stem}.json": render_claims_json(judgement),
        f"{stem}.html": render_html((page,), {}, title=f"cmkd: claims on {first.data}"),
    }
    return ClaimReport(judgement, page, {name: text.encode() for name, text in texts.items()})
