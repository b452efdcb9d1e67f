"""``cmkd`` command: its parts, global options, and exit codes of errors."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated

import typer

import cmkd
from cmkd.cli import data, models, report, specs, work
from cmkd.cli.cache import cache
from cmkd.cli.keys import keys
from cmkd.cli.status import status
from cmkd.cli.sweep import app as sweep
from cmkd.cli.ui import ui
from cmkd.errors import CmkdError, ConfigError
from cmkd.sweep.failures import Interrupted

MOST_LINES = 20
"""Mistakes of a file that are shown at once."""

app = typer.Typer(
    name="cmkd",
    help="Cross-modality knowledge distillation from decoded to compressed video.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(data.app, name="data")
app.add_typer(models.teacher, name="teacher")
app.add_typer(sweep, name="sweep", cls=specs.SweepGroup)
sweep.command("list")(specs.list_specs)
sweep.command()(specs.show)
sweep.command()(specs.new)
app.command()(status)
app.add_typer(report.app, name="report")
app.command()(models.predict)
app.command()(models.export)
app.command()(keys)
app.command()(models.cost)
app.command()(cache)
app.command()(ui)

for group in (app, data.app, models.teacher, report.app, sweep):
    for command in group.registered_commands:
        # Whole first lines in the lists of commands; typer cuts them at "...".
        command.short_help = (inspect.getdoc(command.callback) or "").partition("\n")[0]


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
    except (CmkdError, Interrupted) as error:
        if work.VERBOSITY.verbose and isinstance(error, CmkdError):
            sys.excepthook(type(error), error, error.__traceback__)
        interrupted = isinstance(error, Interrupted)
        message = f"stopped by {error}; nothing done is lost" if interrupted else str(error)
        # Each mistake of a sweep file has its line.
        lines = message.splitlines() if isinstance(error, ConfigError) else [message]
        if len(lines) > MOST_LINES:
            lines[MOST_LINES:] = [f"and {len(lines) - MOST_LINES} more"]
        sys.stderr.writelines(f"cmkd: {' '.join(line.split())}\n" for line in lines)
        sys.exit(error.exit_code)
