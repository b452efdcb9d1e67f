"""``cmkd report``: tables and figures from the tracking store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cmkd.report.page import Page
    from cmkd.report.regression import Baseline, Finding


Data = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Name or id of the data set; default: the sweep's own."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        help="Where the runs are; default: $MLFLOW_TRACKING_URI, else ./mlflow.db.",
        show_default=False,
    ),
]
MlflowUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where MLflow's pages show the runs, http://127.0.0.1:5000 of cmkd ui, say; default: "
        "the store, where it is a server.",
        show_default=False,
    ),
]


def claims(
    data: Data = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Look for the arms of all claims in this sweep."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Claims of your own; default: those of the paper.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON, not the table.")] = False,
    tracking_uri: TrackingUri = None,
    costs: Annotated[
        Path | None,
        typer.Option(help="File of measured costs; default: cost.json in the folder --out."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder the files are written to.")] = Path(
        "reports", "generated"
    ),
) -> None:
    """Verdicts on the sentences of the paper: supported, contradicted, equal or inconclusive.

    Exit code 1 where two arms that should differ give the same predictions.
    """
    from cmkd import __version__
    from cmkd.errors import TrialFailed
    from cmkd.report.build import claim_report, other_data, write_files
    from cmkd.report.claims import load_claims, read_claims
    from cmkd.report.gather import Request
    from cmkd.report.page import render_notice

    wanted = read_claims(file) if file else load_claims()
    request = Request((), data, sweep, tracking_uri, costs or out / "cost.json")
    made = claim_report(request, wanted, version=f"cmkd {__version__}")
    paths = write_files(out, made.files)
    if as_json:
        (text,) = (one for name, one in made.files.items() if name.endswith(".json"))
        typer.echo(text.decode(), nl=False)
    else:
        page = made.page
        typer.echo(f"{render_notice(page)}\n")
        _print_grid(page)
        for command in other_data(request):
            typer.echo(f"not judged, and in the store: {command}")
        for path in paths:
            typer.echo(path)
    dead = [result.reason for result in made.judgement.results if result.verdict == "dead"]
    if dead:
        raise TrialFailed("; ".join(dict.fromkeys(dead)))


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
        typer.Option(
            min=3,
            help="Seeds that a later check will have; default: as many as now.",
            show_default=False,
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write the arms of a sweep and their effects to a file that `check` compares with later.

    Exit code 2 where no effect is large enough for its spread to be guarded.
    """
    from cmkd import __version__
    from cmkd.report.build import write_files
    from cmkd.report.gather import Gatherer, Request
    from cmkd.report.regression import make_baseline, render_baseline

    evidence = Gatherer(Request((), data, None, tracking_uri)).evidence(sweep)
    made = make_baseline(
        evidence,
        sweep,
        drift=drift,
        replicates=replicates,
        platform=_platform(),
        version=f"cmkd {__version__}",
    )
    write_files(out.parent, {out.name: render_baseline(made).encode()})
    for one, other in made.identical:
        typer.echo(f"warning: {one} and {other} give the same predictions")
    for effect in made.effects:
        mark = "guarded" if effect.guarded else "not guarded, too small for its spread"
        typer.echo(f"{effect.name}: {effect.mean:+.1f} points, {mark}")
    typer.echo(f"{len(made.arms)} arms and {len(made.teachers)} teachers on {made.data}: {out}")


def check(
    baseline: Annotated[Path, typer.Option(help="File that `baseline` wrote.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name or id of the data set; default: the baseline's."),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Compare the store with a baseline: effects over the control, and arms.

    Exit codes: 0 nothing moved; 1 a regression; 2 bad input, or too few seeds to compare.
    """
    from cmkd.errors import TrialFailed
    from cmkd.report.gather import Gatherer, Request
    from cmkd.report.regression import compare, read_baseline

    then = read_baseline(baseline)
    request = Request((), data or then.data, None, tracking_uri)
    evidence = Gatherer(request).evidence(then.sweep)
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


def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a report, as committed.")] = Path(
        "reports", "generated"
    ),
    table: Annotated[
        list[str] | None,
        typer.Option(metavar="N", help="As `tables` was given it; can be repeated."),
    ] = None,
    data: Data = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="SPEC", help="As `tables` was given it.")
    ] = None,
    tracking_uri: TrackingUri = None,
    costs: Annotated[
        Path | None, typer.Option(help="File of measured costs; default: cost.json in the folder.")
    ] = None,
    mlflow_url: MlflowUrl = None,
) -> None:
    """Make the tables, figures and claims of a folder again and compare every byte.

    Exit codes: 0 all equal; 1 a file differs, is missing, or is one that the store does not give;
    2 bad input, or nothing to compare.
    """
    from cmkd import __version__
    from cmkd.errors import TrialFailed
    from cmkd.report.build import verify_report
    from cmkd.report.claims import load_claims
    from cmkd.report.gather import Request

    request = Request(
        tuple(table or ()), data, sweep, tracking_uri, costs or folder / "cost.json", mlflow_url
    )
    found = verify_report(request, load_claims(), folder, version=f"cmkd {__version__}")
    for line in found.wrong:
        typer.echo(line)
    for line in found.notes:
        typer.echo(f"not verified: {line}")
    if found.wrong:
        raise TrialFailed(
            f"{len(found.wrong)} files in {folder} are not what the store gives "
            f"({len(found.compared)} were compared)"
        )
    typer.echo(
        f"{len(found.compared)} files in {folder} are what the store gives: "
        f"{', '.join(found.compared)}"
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
    width = max(len(cell.cell) for cell in finding.cells) if finding.cells else 0
    for cell in finding.cells:
        mark = "REGRESSION" if cell.fails else "ok"
        then_n, now_n = cell.replicates
        count = f", n {then_n} -> {now_n}" if then_n != now_n else ""
        typer.echo(
            f"{mark:10}  {cell.cell:{width}}  {cell.before:5.1f} -> {cell.after:5.1f}  "
            f"{cell.delta:+5.1f}  (tolerance {cell.tolerance:.1f}{count})"
        )


def _print_grid(page: Page) -> None:
    """The table of a page: compact on a terminal, Markdown elsewhere."""
    from cmkd.report.page import render_grid

    grid = page.grids[0]
    if not sys.stdout.isatty():
        typer.echo(f"{page.heading}\n\n{render_grid(grid)}\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kept = [i for i, column in enumerate(grid.columns) if column not in grid.spare]
    shown = Table(title=Text(page.heading), title_justify="left")
    for i in kept:
        is_number = all(line.cells[i].value is not None for line in grid.lines)
        shown.add_column(Text(grid.columns[i]), justify="right" if is_number else "left")
    groups = [line.group for line in grid.lines]
    for line, after in zip(grid.lines, [*groups[1:], None], strict=True):
        cells = [line.cells[i] for i in kept]
        texts = [Text(cell.text, style="bold" if cell.best else "") for cell in cells]
        shown.add_row(*texts, end_section=after != line.group)
    Console().print(shown)


def _platform() -> str:
    import platform

    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


app = typer.Typer(
    help="Tables, figures and verdicts from the tracking store.", no_args_is_help=True
)


@app.callback()
def report() -> None:
    """Tables, figures and verdicts from the tracking store."""


@app.command()
def tables(
    table: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N",
            help="1 to 5, components, or a YAML file of printed rows; can be repeated. Default: "
            "every table and every sweep that the store has runs for.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name or id of the data set; default: every one of the store, with --sweep the "
            "sweep's own.",
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="One sweep of the store; with --table, the sweep whose arms are the rows.",
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option("--format", metavar="LIST", help="Comma between: md, tex, csv, json, html."),
    ] = "md,tex,csv,json,html",
    plots: Annotated[bool, typer.Option(help="Draw figures, as PNG and SVG.")] = True,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="Where the runs are; default: $MLFLOW_TRACKING_URI, else ./mlflow.db.",
            show_default=False,
        ),
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option(help="File of measured costs; default: cost.json in the folder --out."),
    ] = None,
    mlflow_url: MlflowUrl = None,
    with_trace: Annotated[
        bool,
        typer.Option("--trace", help="Print the trials, runs and commits of every cell, too."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder the files are written to.")] = Path(
        "reports", "generated"
    ),
) -> None:
    """Write the tables of the paper with our rows, and a table of every other sweep."""
    from cmkd import __version__
    from cmkd.report.build import parse_formats, table_report, write_files
    from cmkd.report.gather import Request
    from cmkd.report.page import render_notice
    from cmkd.report.provenance import render_trace, traces

    request = Request(
        tuple(table or ()), data, sweep, tracking_uri, costs or out / "cost.json", mlflow_url
    )
    made = table_report(request, parse_formats(formats), plots=plots, version=f"cmkd {__version__}")
    paths = write_files(out, made.files)
    for notice in dict.fromkeys(render_notice(page) for page in made.pages):
        typer.echo(f"{notice}\n")
    for page in made.pages:
        _print_grid(page)
    for filled in made.tables if with_trace else ():
        typer.echo(render_trace(filled, traces(filled)))
    for line in made.left_out:
        typer.echo(f"left out: {line}")
    if not sys.stdout.isatty():
        for path in paths:
            typer.echo(path)
    else:
        typer.echo(f"{len(paths)} files in {out}")
    if paths and paths[-1].suffix == ".html":
        typer.echo(f"open: {paths[-1]}")


@app.command()
def trace(
    table: Annotated[str, typer.Argument(metavar="N", help="1 to 5, components or a sweep.")],
    arm: Annotated[str | None, typer.Argument(help="Default: every arm.")] = None,
    data: Data = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Another sweep whose arms are the rows.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with whole configs.")
    ] = False,
    tracking_uri: TrackingUri = None,
    mlflow_url: MlflowUrl = None,
) -> None:
    """Say where the cells of a table come from: trials, runs, commits, configs."""
    from cmkd.report.gather import Request, fill_tables
    from cmkd.report.paper import TABLES
    from cmkd.report.provenance import render_trace, render_trace_json, traces

    names, sweep = ((table,), sweep) if table in TABLES or sweep else ((), table)
    request = Request(names, data, sweep, tracking_uri, mlflow_url=mlflow_url)
    filled = fill_tables(request)[0][0]
    render = render_trace_json if as_json else render_trace
    typer.echo(render(filled, traces(filled, arm)), nl=False)


app.command()(claims)
app.command()(verify)
app.command()(baseline)
app.command()(check)
