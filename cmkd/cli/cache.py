"""``cmkd cache``: sizes of the cache's parts, and removal of what no recent trial used."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout

from cmkd.cli.work import aligned
from cmkd.config.paths import cache_root
from cmkd.errors import InputError

LOCKS: dict[str, Callable[[Path], Path]] = {
    "arrays": lambda folder: folder.with_name(f".{folder.name.strip('.').partition('.')[0]}.lock"),
    "frozen": lambda folder: folder.with_name(f".{folder.name}.lock"),
    "teachers": lambda folder: folder / "lock",
    "trials": lambda folder: folder.parents[1] / "locks" / f"trial-{folder.name}.lock",
}
"""Parts that trials fill and can fill again, with the lock of one of their folders."""
DAY_SECONDS = 86_400.0


def cache(
    older_than: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="DAYS",
            help="Remove decoded clips, maps of frozen stages, teachers and trials that no "
            "trial used for so many days.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them without being asked.")] = False,
) -> None:
    """Show the size of each part of the cache; with --older-than, remove what is unused.

    What is removed is made again when a trial needs it. Data sets and imported weights stay, and
    nothing is removed while a sweep uses the cache. Exit code 1 if the answer is no.
    """
    root = cache_root()
    rows = [("part", "entries", "MB")]
    for part in sorted(path for path in root.glob("*") if path.is_dir()):
        rows.append((part.name, str(len(list(part.glob("[!.]*")))), _megabytes([part])))
    typer.echo("\n".join([*aligned(rows), f"in {root}"]))
    if older_than is None:
        return
    limit = time.time() - older_than * DAY_SECONDS
    folders = [folder for part in LOCKS for folder in (root / part).glob("*") if folder.is_dir()]
    unused = [folder for folder in folders if _last_used(folder) < limit]
    if not unused:
        typer.echo(f"nothing is unused for {older_than} days")
        return
    for lock in (root / "locks").glob("*.lock"):
        if not _with_lock(lock, lambda: None):
            raise InputError(f"{lock}: is held by a sweep; wait for its end, or stop it")
    if not yes:
        question = f"remove {len(unused)} folders of {_megabytes(unused)} MB, unused for so long?"
        typer.confirm(question, abort=True)
    removed = [folder for folder in unused if _remove(folder)]
    typer.echo(f"{len(removed)} removed, {len(unused) - len(removed)} left, as they are in use")


def _last_used(folder: Path) -> float:
    """Newest time of change of the folder, which a trial that uses it renews, and its files."""
    return max((stat.st_mtime for stat in _stats(folder)), default=time.time())


def _megabytes(folders: Iterable[Path]) -> str:
    return f"{sum(stat.st_size for folder in folders for stat in _stats(folder)) / 1e6:.1f}"


def _stats(folder: Path) -> Iterator[os.stat_result]:
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):  # A sweep may remove it meanwhile.
            yield path.lstat()


def _remove(folder: Path) -> bool:
    """Remove a folder whose lock is free."""
    lock = LOCKS[folder.parent.name](folder)
    return _with_lock(lock, lambda: shutil.rmtree(folder))


def _with_lock(path: Path, act: Callable[[], None]) -> bool:
    """Act under the lock; False if another process holds it."""
    try:
        with FileLock(path, timeout=0):
            act()
    except Timeout:
        return False
    return True
