"""Whole reports in memory, as bytes: what the commands write, and `verify` makes again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cmkd.config.paths import slug
from cmkd.errors import InputError
from cmkd.report.book import FORMATS, Format, render_files
from cmkd.report.judging.judge import Judgement, judge
from cmkd.report.pages.claims_json import render_claims_json
from cmkd.report.pages.claims_page import build_claims_page
from cmkd.report.pages.compose import build_page
from cmkd.report.pages.decoding import NAME as DECODING
from cmkd.report.pages.decoding import build_decoding_page
from cmkd.report.pages.markdown import render_page
from cmkd.report.pages.page import Page
from cmkd.report.paper.claims import Claims
from cmkd.report.paper.cost import read_costs
from cmkd.report.store.evidence import NothingMeasured
from cmkd.report.values.decoding import FILE, Decoding, read_decoding
from cmkd.report.values.fill import fill_tables
from cmkd.report.values.gathering import Gatherer, Request
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

    Raises:
        InputError: the table of decoding is asked for by its name and was not measured; what
            `read_decoding` refuses.
        CmkdError: as `fill_tables`.
    """
    decoding = _decoding(request)
    filled, left_out = _filled(request, decoding)
    pages = tuple(build_page(one, version=version) for one in filled)
    if decoding is not None:
        pages = (*pages, build_decoding_page(decoding, version=version))
    own = [slug(filled[0].sweep.spec.name)] if request.sweep and filled else []
    book = "_".join(["report", *request.tables, *own])
    files = render_files(filled, pages, formats, plots=plots, book=book, decoding=decoding)
    return TableReport(filled, pages, files, left_out)


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
        f"{stem}.json": render_claims_json(judgement),
    }
    return ClaimReport(judgement, page, {name: text.encode() for name, text in texts.items()})


def differences(
    request: Request, claims: Claims, folder: Path, *, version: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the report's files in `folder`, and what is wrong with those that are wrong.

    What the store gives in any format is compared where the folder has it.

    Raises:
        InputError: none of the files is in the folder, so that nothing would be verified.
    """
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    plots = any(name.endswith((".png", ".svg")) for name in there)
    files = dict(table_report(request, FORMATS, plots=plots, version=version).files)
    if any(name.startswith("claims_") for name in there):
        files |= claim_report(request, claims, version=version).files
    compared = tuple(sorted(files.keys() & there))
    if not compared:
        raise InputError(
            f"{folder}: has none of the files of this report ({', '.join(sorted(files))}); write "
            f"them with: cmkd report tables --out {folder}"
        )
    wrong = [
        f"{folder / name}: {fault}"
        for name in compared
        if (fault := _fault((folder / name).read_bytes(), files[name]))
    ]
    return compared, tuple(wrong)


def _fault(kept: bytes, made: bytes) -> str | None:
    if kept == made:
        return None
    try:
        lines = kept.decode().splitlines(), made.decode().splitlines()
    except UnicodeDecodeError:
        return "is another picture than the store gives now"
    longest = max(map(len, lines))
    one, other = ([*side, *[""] * (longest - len(side))] for side in lines)
    at = next((i for i in range(longest) if one[i] != other[i]), longest - 1)
    same = len(os.path.commonprefix([one[at], other[at]]))
    here, there = (repr(line[max(0, same - 20) : same + 40]) for line in (one[at], other[at]))
    return f"line {at + 1}, column {same + 1}: {here}, but the store gives {there}"
