"""``cmkd report``: tables and figures from the tracking store."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Tables and figures from the tracking store.", no_args_is_help=True)


@app.callback()
def report() -> None:
    """Tables and figures from the tracking store."""


@app.command()
def tables(
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name or id of the data set; default: the sweep's own."),
    ] = None,
    sweep: Annotated[
        str, typer.Option(metavar="SPEC", help="Sweep whose arms are the rows.")
    ] = "ablation",
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="Where the runs are; default: $MLFLOW_TRACKING_URI, else ./mlflow.db.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder the files are written to.")] = Path(
        "reports", "generated"
    ),
) -> None:
    """Write Table 4 for one data set as Markdown, PNG and SVG."""
    from cmkd import __version__
    from cmkd.config.paths import slug
    from cmkd.config.sweep import load_sweep
    from cmkd.errors import InputError
    from cmkd.report.evidence import collect
    from cmkd.report.files import write_files
    from cmkd.report.markdown import render_notice, render_page, render_table
    from cmkd.report.plots import render_figure
    from cmkd.report.published import load_published
    from cmkd.report.tables import build_table
    from cmkd.tracking.location import default_uri, redact, store_exists
    from cmkd.tracking.mlflow_store import open_store

    spec = load_sweep(sweep)
    name = data or spec.spec.data
    where = ["--tracking-uri", redact(tracking_uri)] if tracking_uri else []
    command = shlex.join(["cmkd", "sweep", sweep, "--data", name, *where])
    published = load_published("table_4")
    if not store_exists(tracking_uri):
        raise InputError(
            f"{redact(tracking_uri or default_uri())}: no tracking store is there yet; "
            f"run: {command}"
        )
    evidence = collect(open_store(tracking_uri), spec, name, command=command)
    table = build_table(published, spec, evidence)
    of_paper = spec.spec.name == "ablation"
    stem = "_".join(["table_4", *([] if of_paper else [slug(spec.spec.name)]), slug(name)])
    page = render_page(table, version=f"cmkd {__version__}", figure=f"{stem}.svg")
    files = {
        f"{stem}.md": page.encode(),
        f"{stem}.png": render_figure(table, "png"),
        f"{stem}.svg": render_figure(table, "svg"),
    }
    paths = write_files(out, files)
    typer.echo(f"{render_notice(table)}\n\n{render_table(table)}\n")
    for path in paths:
        typer.echo(path)
