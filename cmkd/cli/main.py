"""``cmkd`` command: its parts, global options, and exit codes of errors."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated

import typer

import cmkd
from cmkd.cli import data, report, teacher, work
from cmkd.cli.cost import cost
from cmkd.cli.keys import keys
from cmkd.cli.predict import predict
from cmkd.cli.status import status
from cmkd.cli.sweep import sweep
from cmkd.cli.ui import ui
from cmkd.errors import CmkdError
from cmkd.sweep.signals import Interrupted

app = typer.Typer(
    name="cmkd",
    help="Cross-modality knowledge distillation from decoded to compressed video.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(data.app, name="data")
app.add_typer(teacher.app, name="teacher")
app.command()(sweep)
app.command()(status)
app.add_typer(report.app, name="report")
app.command()(predict)
app.command()(keys)
app.command()(cost)
app.command()(ui)


def _keep_help_lines_whole(group: typer.Typer) -> None:
    """Give every command its whole first line in the list of commands; typer cuts it at "..."."""
    for command in group.registered_commands:
        if command.callback is not None:
            command.short_help = (inspect.getdoc(command.callback) or "").partition("\n")[0]
    for part in group.registered_groups:
        if part.typer_instance is not None:
            _keep_help_lines_whole(part.typer_instance)


_keep_help_lines_whole(app)


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
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results and errors, no progress.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the traceback of every error.")
    ] = False,
) -> None:
    work.VERBOSITY.quiet, work.VERBOSITY.verbose = quiet, verbose


def main() -> None:
    """Run the command line: an expected error is one line, any other one a traceback.

    Exit codes: 0 all good; 1 a trial failed, a regression, or a report that the store does not
    give; 2 bad input; 3 infrastructure failed, resumable; 129, 130 and 143 interrupted.
    """
    try:
        app()
    except CmkdError as error:
        if work.VERBOSITY.verbose:
            sys.excepthook(type(error), error, error.__traceback__)
        _print_error(str(error))
        sys.exit(error.exit_code)
    except Interrupted as interruption:
        _print_error(f"stopped by {interruption}; nothing done is lost")
        sys.exit(interruption.exit_code)


def _print_error(message: str) -> None:
    sys.stderr.write(f"cmkd: {' '.join(message.split())}\n")
