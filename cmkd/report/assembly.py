"""Whole reports in memory, as bytes: what the commands write, and `verify` makes again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cmkd.config.paths import slug
from cmkd.config.sweep import load_sweep
from cmkd.errors import InputError
from cmkd.report.book import Format, render_files
from cmkd.report.judging.judge import Judgement, judge
from cmkd.report.pages.claims_json import render_claims_json
from cmkd.report.pages.claims_page import build_claims_page
from cmkd.report.pages.compose import build_page
from cmkd.report.pages.decoding import NAME as DECODING
from cmkd.report.pages.decoding import build_decoding_page
from cmkd.report.pages.export import render_csv
from cmkd.report.pages.html import render_html
from cmkd.report.pages.latex import render_page as render_latex
from cmkd.report.pages.markdown import render_page
from cmkd.report.pages.page import Page
from cmkd.report.paper.claims import Claims
from cmkd.report.paper.cost import read_costs
from cmkd.report.paper.specs import TABLES
from cmkd.report.store.evidence import NothingMeasured
from cmkd.report.values.decoding import FILE, Decoding, read_decoding
from cmkd.report.values.fill import fill_tables
from cmkd.report.values.gathering import Gatherer, Request, sweeps_by_data
from cmkd.report.values.tables import Table


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
