"""The ``cmkd`` command: its parts, and what an exception becomes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import cmkd
from cmkd.cli import data, report, teacher
from cmkd.cli.cost import cost
from cmkd.cli.status import status
from cmkd.cli.sweep import sweep
from cmkd.cli.ui import ui
from cmkd.errors import CmkdError
from cmkd.sweep.signals import Interrupted

app = typer.Typer(
    name="cmkd",
    help="Cross-modality knowledge distillation from decoded to compressed video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
app.add_typer(teacher.app, name="teacher")
app.command()(sweep)
app.command()(status)
app.add_typer(report.app, name="report")
app.command()(cost)
app.command()(ui)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cmkd {cmkd.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: a deliberate error is one line, anything else keeps its traceback.

    Exit codes: 0 all good; 1 a trial failed, a regression, or a report that the store does not
    give; 2 bad input; 3 infrastructure failed, resumable; 129, 130 and 143 interrupted.
    """
    try:
        app()
    except CmkdError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except Interrupted as interruption:
        _say(f"stopped by {interruption}; nothing done is lost")
        sys.exit(interruption.exit_code)


def _say(message: str) -> None:
    sys.stderr.write(f"cmkd: {' '.join(message.split())}\n")
