"""``cmkd report``: tables and figures from the tracking store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmkd.cli import gate
from cmkd.cli.gate import Data, MlflowUrl, TrackingUri

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
            help="1 to 5, components or decoding; can be repeated. Default: every table that the "
            "store has runs for.",
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
            help="Another sweep whose arms are the rows; alone it means Table 4.",
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
        typer.Option(
            help="File of measured costs; default: cost.json in the folder --out. decoding.json "
            "beside it is read as well."
        ),
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
    """Write the tables of the paper with our rows, for each data set."""
    from cmkd import __version__
    from cmkd.report.assembly import table_report
    from cmkd.report.book import parse_formats
    from cmkd.report.files import write_files
    from cmkd.report.pages.markdown import render_grid, render_notice
    from cmkd.report.pages.trace import render_trace
    from cmkd.report.values.gathering import Request
    from cmkd.report.values.tracing import traces

    request = Request(
        tuple(table or ()), data, sweep, tracking_uri, costs or out / "cost.json", mlflow_url
    )
    made = table_report(request, parse_formats(formats), plots=plots, version=f"cmkd {__version__}")
    paths = write_files(out, made.files)
    for notice in dict.fromkeys(render_notice(page) for page in made.pages):
        typer.echo(f"{notice}\n")
    for page in made.pages:
        typer.echo(f"{page.heading}\n\n{render_grid(page.grids[0])}\n")
    for filled in made.tables if with_trace else ():
        typer.echo(render_trace(filled, traces(filled)))
    for line in made.left_out:
        typer.echo(f"left out: {line}")
    for path in paths:
        typer.echo(path)


@app.command()
def trace(
    table: Annotated[str, typer.Argument(metavar="N", help="1 to 5 or components.")],
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
    from cmkd.report.pages.trace import render_trace, render_trace_json
    from cmkd.report.values.fill import fill_tables
    from cmkd.report.values.gathering import Request
    from cmkd.report.values.tracing import traces

    request = Request((table,), data, sweep, tracking_uri, mlflow_url=mlflow_url)
    (filled,), _ = fill_tables(request)
    render = render_trace_json if as_json else render_trace
    typer.echo(render(filled, traces(filled, arm)), nl=False)


app.command()(gate.claims)
app.command()(gate.verify)
app.command()(gate.baseline)
app.command()(gate.check)
