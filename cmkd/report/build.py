"""Reports as bytes: built, written, and verified against the store."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal, get_args

from cmkd.config.paths import slug
from cmkd.config.sweep import load_sweep
from cmkd.config.yaml_loader import suggest
from cmkd.errors import InputError
from cmkd.io import make_folder, sync, writing
from cmkd.report.claims import Claims, Judgement
from cmkd.report.claims_page import build_claims_page, judge, render_claims_json
from cmkd.report.evidence import NothingMeasured
from cmkd.report.figures.kept import PictureCache
from cmkd.report.gather import (
    Gatherer,
    Request,
    Snapshot,
    fill_tables,
    open_snapshot,
    sweeps_by_data,
)
from cmkd.report.latex import render_bib, render_latex
from cmkd.report.page import Page, Picture, render_csv, render_html, render_json, render_markdown
from cmkd.report.paper import TABLES, all_works, read_costs
from cmkd.report.table_page import build_page
from cmkd.report.tables import Table


def write_files(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write `files` (name -> content) into `folder`.

    All contents are on disk before the first old file is replaced, so that a full disk keeps the
    old report.

    Raises:
        InputError: `folder` cannot be created or written to.
        InfrastructureError: the disk failed on the way.
    """
    make_folder(folder)
    with writing(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".report-") as draft:
        for name, content in files.items():
            Path(draft, name).write_bytes(content)
            sync(Path(draft, name))
        for name in files:
            Path(draft, name).replace(folder / name)
        sync(folder)
    return tuple(folder / name for name in files)


Format = Literal["md", "tex", "csv", "json", "html", "pdf"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""`pdf` is of figures alone."""


def parse_formats(text: str) -> tuple[Format, ...]:
    """The formats of a list with commas; InputError for one that is unknown."""
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise InputError(f"unknown format {name!r}{suggest(name, FORMATS)}")
    return tuple(name for name in FORMATS if name in names)


def _render(
    tables: Sequence[Table],
    pages: Sequence[Page],
    formats: Sequence[Format],
    *,
    plots: bool,
    kept: PictureCache | None,
) -> tuple[dict[str, bytes], dict[str, Sequence[Picture]]]:
    """Name -> content of all formats but HTML, and the pictures of each page by its key."""
    files: dict[str, bytes] = {}
    drawn: dict[str, Sequence[Picture]] = {}
    for table, page in zip(tables, pages, strict=True):
        stem = _stem(table)
        drawn[page.key] = _draw(table, kept, pdf="pdf" in formats) if plots else ()
        named = {"_".join(filter(None, (stem, own.name))): own for own in drawn[page.key]}
        texts = {
            "md": render_markdown(page, {f"{name}.svg": own for name, own in named.items()}),
            "tex": render_latex(page),
            "csv": render_csv(page),
            "json": render_json(page),
        }
        files |= {f"{stem}.{kind}": texts[kind].encode() for kind in formats if kind in texts}
        for name, own in named.items():
            files |= {f"{name}.png": own.png, f"{name}.svg": own.svg}
            files |= {f"{name}.pdf": own.pdf} if own.pdf else {}
    if "tex" in formats and any(page.is_cited for page in pages):
        files["works.bib"] = render_bib(all_works()).encode()
    return files, drawn


def _draw(table: Table, kept: PictureCache | None, *, pdf: bool) -> Sequence[Picture]:
    def draw(table: Table) -> Sequence[Picture]:
        # Matplotlib takes a second to load: only who has figures to draw waits for it.
        from cmkd.report.figures.pictures import draw_pictures

        return draw_pictures(table, pdf=pdf)

    return kept.pictures(table, draw, f"pdf {pdf}") if kept else draw(table)


def _stem(table: Table) -> str:
    name, own = table.spec.name, table.sweep.spec.name
    kind = f"table_{name}" if name.isdigit() else name
    if table.spec.is_own:
        kind = f"sweep_{slug(name)}"
    others = [] if own == table.spec.sweep else [slug(own)]
    return "_".join([kind, *others, slug(table.evidence.data)])


@dataclass(frozen=True)
class TableReport:
    """Tables, their pages and files (name -> content).

    Attributes:
        left_out: reasons why other tables are not there.
        sources: files of the store and its artifacts that were read; None if they are not known.
    """

    tables: tuple[Table, ...]
    pages: tuple[Page, ...]
    files: Mapping[str, bytes]
    left_out: tuple[str, ...]
    sources: frozenset[Path] | None


@dataclass(frozen=True)
class ClaimReport:
    """The verdicts, their page, and its files (name -> content)."""

    judgement: Judgement
    page: Page
    files: Mapping[str, bytes]


def table_report(
    request: Request,
    formats: Sequence[Format],
    *,
    plots: bool,
    version: str,
    kept: Path | None = None,
) -> TableReport:
    """The tables of `request`; the HTML page with all of them is the last of the files.

    A request that names neither table, data set nor sweep is one for everything in the store.

    Args:
        kept: folder of pictures that were drawn before; None draws all of them.

    Raises:
        CmkdError: as `fill_tables`.
    """
    tables: list[Table] = []
    left_out: list[str] = []
    lacking: list[NothingMeasured] = []
    home = _home()
    store = open_snapshot(request)
    for part in _parts(request, home, store):
        try:
            filled, absent = fill_tables(part, store)
        except NothingMeasured as error:
            lacking.append(error)
            continue
        is_home = part is request or part.data in home
        # A table with numbers of other work alone is shown once.
        tables += [table for table in filled if table.evidence.trials or is_home]
        left_out += [line for line in absent if is_home or line.startswith("table of sweep")]
    if not tables:
        raise lacking[0]
    pages = tuple(build_page(table, version=version) for table in tables)
    cache = PictureCache(kept) if kept is not None and plots else None
    files, pictures = _render(tables, pages, formats, plots=plots, kept=cache)
    if "html" in formats:
        data = list(dict.fromkeys(table.evidence.data for table in tables))
        own = [tables[0].sweep.spec.name] if request.sweep else []
        where = [data[0]] if len(data) == 1 else []
        book = "_".join(["report", *map(slug, (*request.tables, *own, *where))])
        title = f"cmkd: tables on {', '.join(data)}"
        files[f"{book}.html"] = render_html(pages, pictures, title=title).encode()
    sources = store.files if store is not None else None
    return TableReport(tuple(tables), pages, files, tuple(left_out), sources)


def _home() -> frozenset[str]:
    """Data sets that the tables of the paper are filled on by default."""
    return frozenset(load_sweep(table.sweep).spec.data for table in TABLES.values())


def _parts(request: Request, home: Set[str], store: Snapshot | None) -> list[Request]:
    """One request per data set of the store if `request` names none."""
    if request.data or request.sweep:
        return [request]
    known = sorted(sweeps_by_data(store), key=lambda data: (data not in home, data))
    parts = [replace(request, data=data) for data in known]
    return parts if home & set(known) else [*parts, request]


def other_data(request: Request) -> tuple[str, ...]:
    """Commands that judge the other data sets of the store."""
    if not request.is_whole:
        return ()
    own = _home()
    return tuple(
        shlex.join(["cmkd", "report", "claims", "--data", data, "--sweep", name])
        for data, sweeps in sweeps_by_data(open_snapshot(request)).items()
        if data not in own
        for name in sweeps
    )


def claim_report(request: Request, claims: Claims, *, version: str) -> ClaimReport:
    """The verdicts on `claims`; errors as those of `judge`."""
    judgement = judge(claims, Gatherer(request), read_costs(request.costs))
    page = build_claims_page(judgement, version=version)
    first = judgement.evidence[0]
    own = [slug(first.sweep.spec.name)] if request.sweep else []
    stem = "_".join(["claims", *own, slug(first.data)])
    texts = {
        f"{stem}.md": render_markdown(page),
        f"{stem}.tex": render_latex(page),
        f"{stem}.csv": render_csv(page),
        f"{stem}.json": render_claims_json(judgement),
        f"{stem}.html": render_html((page,), {}, title=f"cmkd: claims on {first.data}"),
    }
    return ClaimReport(judgement, page, {name: text.encode() for name, text in texts.items()})


_BEGINNINGS = frozenset({"table", "claims", "report", "sweep", *TABLES})
_PICTURES = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Verification:
    """Compared files, faults (one line each), and notes on files that were not compared."""

    compared: tuple[str, ...]
    wrong: tuple[str, ...]
    notes: tuple[str, ...]


def verify_report(request: Request, claims: Claims, folder: Path, *, version: str) -> Verification:
    """Build the files of `folder` again and compare them.

    A missing file is a fault if the folder has others of its format. For a request of the whole
    store, a file that the store does not give is a fault as well.

    Raises:
        InputError: the folder has none of the files.
    """
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    files: dict[str, bytes] = {}
    plots = any(name.endswith((".png", ".svg")) for name in there)
    formats = [kind for kind in FORMATS if kind != "pdf" or any(".pdf" in name for name in there)]
    files |= table_report(request, formats, plots=plots, version=version).files
    if any(name.startswith("claims_") for name in there):
        for part in (request, *(_single_sweeps(request, there) if request.is_whole else ())):
            files |= claim_report(part, claims, version=version).files
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
    kinds = {_kind(name) for name in compared}
    absent = sorted(name for name in files.keys() - there if _kind(name) in kinds)
    wrong += [f"{folder / name}: is missing, and the store gives it" for name in absent]
    foreign = [
        f"{folder / name}: is not of this report"
        for name in sorted(there - files.keys())
        if name.split("_")[0] in _BEGINNINGS and Path(name).suffix[1:] in (*FORMATS, *_PICTURES)
    ]
    return Verification(
        compared,
        (*wrong, *foreign) if request.is_whole else tuple(wrong),
        () if request.is_whole else tuple(foreign),
    )


def _single_sweeps(request: Request, there: Set[str]) -> Iterator[Request]:
    """Requests for the sweeps with their own file of claims in the folder."""
    for data, sweeps in sweeps_by_data(open_snapshot(request)).items():
        for sweep in sweeps:
            end = f"_{slug(sweep)}_{slug(data)}."
            if any(name.startswith("claims_") and end in name for name in there):
                yield replace(request, data=data, sweep=sweep)


def _kind(name: str) -> tuple[bool, str]:
    """Key of files made together: verdicts or tables, in one format."""
    return name.startswith("claims_"), Path(name).suffix


_WRITER = re.compile(rb"(?<=eport by )cmkd [0-9][\w.+]*\w")


def _fault(kept: bytes, made: bytes) -> str | None:
    """The first difference of two files, but for the version of their writer; None if equal."""
    kept, made = _WRITER.sub(b"cmkd", kept), _WRITER.sub(b"cmkd", made)
    if kept == made:
        return None
    try:
        lines = kept.decode().splitlines(), made.decode().splitlines()
    except UnicodeDecodeError:
        return "is another picture than the store gives now"
    for number, (old, new) in enumerate(zip_longest(*lines, fillvalue=""), 1):
        if old != new:
            same = len(os.path.commonprefix([old, new]))
            shown, given = (repr(line[max(0, same - 20) : same + 40]) for line in (old, new))
            return f"line {number}, column {same + 1}: {shown}, but the store gives {given}"
    return "has other ends of lines than the store gives"
