"""Parts that several commands share: verbosity, number of processes, progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cmkd.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console


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


def usable_workers(asked: int | None) -> int:
    """Processes to use: as asked, else one per CPU.

    Raises:
        InputError: more than there are CPUs, or fewer than one.
    """
    from cmkd.machine import usable_cpus

    if asked is not None and not 1 <= asked <= usable_cpus():
        raise InputError(f"--workers {asked}: this machine has {usable_cpus()} CPUs; use 1 to that")
    return asked or usable_cpus()


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Progress bar on stderr while the block runs; yields a function of (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=progress_console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
