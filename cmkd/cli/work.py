"""Parts that commands share: options, verbosity, workers, progress bar, aligned rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from cmkd.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

TrackingUri = Annotated[
    str | None,
    typer.Option(
        help="Tracking store; default: $MLFLOW_TRACKING_URI, else ./mlflow.db.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Workers = Annotated[
    int | None, typer.Option(help="Processes; default: one per CPU.", show_default=False)
]
Out = Annotated[Path, typer.Option(help="Folder the files are written to.")]
GENERATED = Path("reports", "generated")
"""Default of `Out`."""


def grouped(groups: Mapping[str, str]) -> type[TyperCommand]:
    """Class of a command whose help lists options in groups: title -> names of parameters.

    typer groups options too, in boxes that cut off words.
    """
    titles = {name: title for title, names in groups.items() for name in names.split()}

    class Grouped(TyperCommand):
        def format_options(self, ctx: Any, formatter: Any) -> None:
            kinds = {"argument": "Arguments", "option": "Options"}
            lists: dict[str, list[tuple[str, str]]]
            lists = {title: [] for title in ("Arguments", *groups, "Options")}
            for param in self.get_params(ctx):
                if record := param.get_help_record(ctx):
                    lists[titles.get(param.name or "", kinds[param.param_type_name])] += [record]
            for title, records in lists.items():
                if records:
                    with formatter.section(title):
                        formatter.write_dl(records)

    return Grouped


@dataclass
class Verbosity:
    """Options ``-q`` and ``-v`` of this call."""

    quiet: bool = False
    verbose: bool = False


VERBOSITY = Verbosity()


def progress_console(*, stderr: bool) -> Console:
    """Console for progress and notes, silent under ``-q``."""
    from rich.console import Console

    return Console(stderr=stderr, quiet=VERBOSITY.quiet)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Progress bar on stderr while the block runs; yields a function of (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=progress_console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def usable_workers(asked: int | None) -> int:
    """Processes to use: as asked, else one per CPU.

    Raises:
        InputError: more than there are CPUs, or fewer than one.
    """
    from cmkd.machine import usable_cpus

    if asked is not None and not 1 <= asked <= usable_cpus():
        raise InputError(f"--workers {asked}: this machine has {usable_cpus()} CPUs; use 1 to that")
    return asked or usable_cpus()


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line per row, its cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def checked_name(name: str) -> str:
    """The value of ``--name``, if it can be the name of a file.

    Raises:
        InputError: it has other characters.
    """
    from cmkd.config.paths import slug

    if slug(name) != name:
        raise InputError(f"--name {name!r}: use letters, digits, _ . - only, as in {slug(name)!r}")
    return name
