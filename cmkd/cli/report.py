"""``cmkd report``: tables, figures and verdicts from the tracking store."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmkd.cli.work import GENERATED, AsJson, Out, TrackingUri, grouped
from cmkd.errors import InputError, TrialFailed

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from cmkd.report.page import Cell, Page
    from cmkd.report.regression import Baseline, Finding

Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Data set by name or id; default: that of the sweep, if any."
    ),
]
Spec = Annotated[
    str | None,
    typer.Option(metavar="SPEC", help="Only this sweep; of a table, the one whose arms are rows."),
]
Tables = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N",
        help="1 to 5, components, or a YAML file of printed rows; can be repeated. Default: every "
        "table and every sweep that the store has runs for.",
    ),
]
Costs = Annotated[
    Path | None,
    typer.Option(help="File of measured costs; default: cost.json beside the tables."),
]
MlflowUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where MLflow's pages show the runs, http://127.0.0.1:5000 of cmkd ui, say; default: "
        "the store, where it is a server.",
    ),
]

app = typer.Typer(
    help="Tables, figures and verdicts from the tracking store.", no_args_is_help=True
)


@app.command(cls=grouped({"Which runs": "table data sweep tracking_uri"}))
def tables(
    table: Tables = None,
    data: Data = None,
    sweep: Spec = None,
    formats: Annotated[
        str,
        typer.Option("--format", metavar="LIST", help="Comma between: md, tex, csv, json, html."),
    ] = "md,tex,csv,json,html",
    plots: Annotated[bool, typer.Option(help="Draw figures, as PNG and SVG.")] = True,
    tracking_uri: TrackingUri = None,
    costs: Costs = None,
    mlflow_url: MlflowUrl = None,
    with_trace: Annotated[
        bool,
        typer.Option("--trace", help="Print the trials, runs and commits of every cell, too."),
    ] = False,
    out: Out = GENERATED,
) -> None:
    """Write the tables of the paper with our rows, and a table of every other sweep.

    Without --data and --sweep they are those of every data set of the store.
    """
    from cmkd.config.paths import cache_root
    from cmkd.report.page import render_notice
    from cmkd.report.stamp import Shown, Stamp

    costs = costs or out / "cost.json"
    options: dict[str, Any] = {
        "tables": table or (),
        "data": data,
        "sweep": sweep,
        "tracking_uri": tracking_uri,
        "plots": plots,
        "costs": costs,
        "mlflow_url": mlflow_url,
    }
    specs = [Path(name) for name in (*(table or ()), sweep or "") if Path(name).suffix]
    stamp = Stamp(cache_root() / "reports", out, options | {"format": formats}, [costs, *specs])
    shown = None if with_trace else stamp.read()
    is_unchanged, trace_lines = shown is not None, []
    if shown is None:
        from cmkd.api import write_report
        from cmkd.report.build import parse_formats
        from cmkd.report.provenance import render_trace, traces

        made = write_report(out, formats=parse_formats(formats), **options)
        shown = Shown(made.pages, made.left_out, tuple(made.files))
        if made.sources is not None:
            stamp.write(shown, made.files, made.sources)
        trace_lines = [render_trace(one, traces(one)) for one in made.tables if with_trace]
    for notice in dict.fromkeys(render_notice(page) for page in shown.pages):
        typer.echo(f"{notice}\n")
    for page in shown.pages:
        _print_grid(page)
    for line in (*trace_lines, *(f"left out: {line}" for line in shown.left_out)):
        typer.echo(line)
    if is_unchanged:
        typer.echo("nothing has changed since the last report:")
    paths = [out / name for name in shown.files]
    typer.echo(
        f"{len(paths)} files in {out}" if sys.stdout.isatty() else "\n".join(map(str, paths))
    )
    if paths[-1].suffix == ".html":
        typer.echo(f"open: {paths[-1]}")


@app.command("open")
def open_page(
    folder: Annotated[Path, typer.Argument(help="Folder of a report.")] = GENERATED,
) -> None:
    """Show the newest HTML page of a report in the browser, and print its address."""
    import webbrowser

    pages = sorted(folder.glob("*.html"), key=lambda path: path.stat().st_mtime)
    if not pages:
        raise InputError(f"{folder}: has no HTML page; run: cmkd report tables --out {folder}")
    address = pages[-1].absolute().as_uri()
    typer.echo(address)
    webbrowser.open(address)


@app.command()
def trace(
    table: Annotated[str, typer.Argument(metavar="N", help="1 to 5, components or a sweep.")],
    arm: Annotated[str | None, typer.Argument(help="Default: every arm.")] = None,
    data: Data = None,
    sweep: Spec = None,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
    mlflow_url: MlflowUrl = None,
) -> None:
    """Say where the cells of a table come from: trials, runs, commits, configs.

    With --json the configs are whole.
    """
    from cmkd.report.gather import Request, fill_tables
    from cmkd.report.paper import TABLES
    from cmkd.report.provenance import render_trace, render_trace_json, traces

    names, sweep = ((table,), sweep) if table in TABLES or sweep else ((), table)
    request = Request(names, data, sweep, tracking_uri, mlflow_url=mlflow_url)
    filled = fill_tables(request)[0][0]
    render = render_trace_json if as_json else render_trace
    typer.echo(render(filled, traces(filled, arm)), nl=False)


@app.command()
def claims(
    data: Data = None,
    sweep: Spec = None,
    file: Annotated[
        Path | None, typer.Option(help="Claims of your own; default: those of the paper.")
    ] = None,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
    costs: Costs = None,
    out: Out = GENERATED,
) -> None:
    """Verdicts on the sentences of the paper: supported, contradicted, equal or inconclusive.

    Exit code 1 where two arms that should differ give the same predictions.
    """
    from cmkd.report.build import claim_report, other_data, write_files
    from cmkd.report.claims import load_claims, read_claims
    from cmkd.report.gather import Request
    from cmkd.report.page import render_notice

    wanted = read_claims(file) if file else load_claims()
    request = Request((), data, sweep, tracking_uri, costs or out / "cost.json")
    made = claim_report(request, wanted, version=_version())
    paths = write_files(out, made.files)
    if as_json:
        (text,) = (text for name, text in made.files.items() if name.endswith(".json"))
        typer.echo(text.decode(), nl=False)
    else:
        typer.echo(f"{render_notice(made.page)}\n")
        _print_grid(made.page)
        for command in other_data(request):
            typer.echo(f"not judged, and in the store: {command}")
        for path in paths:
            typer.echo(path)
    dead = [result.reason for result in made.judgement.results if result.verdict == "dead"]
    if dead:
        raise TrialFailed("; ".join(dict.fromkeys(dead)))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a report, as committed.")] = GENERATED,
    table: Tables = None,
    data: Data = None,
    sweep: Spec = None,
    tracking_uri: TrackingUri = None,
    costs: Costs = None,
    mlflow_url: MlflowUrl = None,
) -> None:
    """Make the tables, figures and claims of a folder again and compare every byte.

    Only the version of cmkd that wrote them may differ.

    Options as `tables` was given them. Exit codes: 0 all equal; 1 a file differs, is missing, or
    is one that the store does not give; 2 bad input, or nothing to compare.
    """
    from cmkd.report.build import verify_report
    from cmkd.report.claims import load_claims
    from cmkd.report.gather import Request

    costs = costs or folder / "cost.json"
    request = Request(tuple(table or ()), data, sweep, tracking_uri, costs, mlflow_url)
    found = verify_report(request, load_claims(), folder, version=_version())
    for line in found.wrong:
        typer.echo(line)
    for line in found.notes:
        typer.echo(f"not verified: {line}")
    if found.wrong:
        raise TrialFailed(
            f"{len(found.wrong)} files in {folder} are not what the store gives "
            f"({len(found.compared)} were compared)"
        )
    compared = ", ".join(found.compared)
    typer.echo(f"{len(found.compared)} files in {folder} are what the store gives: {compared}")


@app.command()
def baseline(
    out: Annotated[Path, typer.Option(help="File that is written, to be committed.")],
    data: Data = None,
    sweep: Annotated[
        str, typer.Option(metavar="SPEC", help="Sweep whose arms are kept.")
    ] = "ablation",
    drift: Annotated[
        float, typer.Option(min=0, help="Points that another platform may move an accuracy.")
    ] = 0.5,
    replicates: Annotated[
        int | None,
        typer.Option(min=3, help="Seeds that a later check will have; default: as many as now."),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write the arms of a sweep and their effects to a file that `check` compares with later.

    Exit code 2 where no effect is large enough for its spread to be guarded.
    """
    from cmkd.report.build import write_files
    from cmkd.report.gather import Gatherer, Request
    from cmkd.report.regression import make_baseline, render_baseline

    made = make_baseline(
        Gatherer(Request((), data, None, tracking_uri)).evidence(sweep),
        sweep,
        drift=drift,
        replicates=replicates,
        platform=_platform(),
        version=_version(),
    )
    write_files(out.parent, {out.name: render_baseline(made).encode()})
    for arm, other in made.identical:
        typer.echo(f"warning: {arm} and {other} give the same predictions")
    for effect in made.effects:
        mark = "guarded" if effect.guarded else "not guarded, too small for its spread"
        typer.echo(f"{effect.name}: {effect.mean:+.1f} points, {mark}")
    typer.echo(f"{len(made.arms)} arms and {len(made.teachers)} teachers on {made.data}: {out}")


@app.command()
def check(
    baseline: Annotated[Path, typer.Option(help="File that `baseline` wrote.")],
    data: Data = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Compare the store with a baseline: effects over the control, and arms.

    Exit codes: 0 nothing moved; 1 a regression; 2 bad input, or too few seeds to compare.
    """
    from cmkd.report.gather import Gatherer, Request
    from cmkd.report.regression import compare, read_baseline

    then = read_baseline(baseline)
    evidence = Gatherer(Request((), data or then.data, None, tracking_uri)).evidence(then.sweep)
    finding = compare(then, evidence)
    _show(then, finding)
    if not finding.passes:
        since = ", ".join(commit[:12] for commit in then.commits)
        now = ", ".join(commit[:12] for commit in evidence.commits)
        count = len(finding.structure) + sum(cell.fails for cell in finding.cells)
        raise TrialFailed(
            f"{count} regression{'s' if count > 1 else ''} on {evidence.data} since commit {since} "
            f"(now {now}); if it is meant, write the baseline anew: cmkd report baseline "
            f"--sweep {then.sweep} --data {then.data} --out {baseline}"
        )


def _show(then: Baseline, finding: Finding) -> None:
    here = _platform()
    if here != then.platform:
        typer.echo(
            f"the baseline is of another platform: {then.platform}; this one is {here}: arms may "
            f"move by {then.drift:g} points for it, effects may not"
        )
    for line in finding.structure:
        typer.echo(f"REGRESSION  {line}")
    width = max((len(cell.cell) for cell in finding.cells), default=0)
    for cell in finding.cells:
        mark = "REGRESSION" if cell.fails else "ok"
        then_n, now_n = cell.replicates
        count = f", n {then_n} -> {now_n}" if then_n != now_n else ""
        typer.echo(
            f"{mark:10}  {cell.cell:{width}}  {cell.before:5.1f} -> {cell.after:5.1f}  "
            f"{cell.delta:+5.1f}  (tolerance {cell.tolerance:.1f}{count})"
        )


def _print_grid(page: Page) -> None:
    """The table of a page: Markdown for pipes, on a terminal its measured rows and columns."""
    if not sys.stdout.isatty():
        from cmkd.report.page import render_grid

        typer.echo(f"{page.heading}\n\n{render_grid(page.grids[0])}\n")
        return
    from rich.console import Console

    console = Console()
    table = terminal_table(page, narrow=False)
    whole_width = Console(width=1000).measure(table).maximum
    console.print(terminal_table(page, narrow=True) if whole_width > console.width else table)


def terminal_table(page: Page, *, narrow: bool) -> RichTable:
    """Rows with a measured value, without the columns of the paper; all of them if none is.

    Args:
        narrow: intervals stand below their means.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def is_measured(cell: Cell) -> bool:
        return cell.source == "measured" and cell.value is not None

    def folded(words: str) -> str:
        return re.sub(r" (?=[\[(])", "\n", words).replace(": ", ":\n") if narrow else words

    grid = page.grids[0]
    own = [line for line in grid.lines if any(map(is_measured, line.cells))]
    lines = own or grid.lines
    kept = [
        i
        for i, column in enumerate(grid.columns)
        if column not in grid.spare
        and not (own and any(line.cells[i].source == "published" for line in lines))
    ]
    title = Text(page.heading + (" (rows of the paper alone are in the files)" if own else ""))
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i in kept:
        is_number = any(is_measured(line.cells[i]) for line in lines)
        heading = Text(folded(grid.columns[i]))
        table.add_column(heading, no_wrap=is_number, justify="right" if is_number else "left")
    for line, after in zip(lines, [*lines[1:], None], strict=True):
        cells = [line.cells[i] for i in kept]
        texts = [
            Text(
                folded(cell.text) if cell.source == "measured" else cell.text,
                style="bold" if cell.best else "",
            )
            for cell in cells
        ]
        table.add_row(*texts, end_section=after is not None and after.group != line.group)
    return table


def _platform() -> str:
    import platform

    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


def _version() -> str:
    from cmkd import __version__

    return f"cmkd {__version__}"
