"""What commands that work on many files share: processes and a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cmkd.errors import InputError


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
    """A bar on stderr while the block runs; gives what is to be called with (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
