"""One driver per sweep and data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cmkd.config.paths import slug
from cmkd.errors import InputError
from cmkd.tracking.location import named, owner


@contextmanager
def sweep_lock(cache: Path, sweep: str, data: str) -> Iterator[None]:
    """Hold ``<cache>/locks/<sweep>-<data>.lock``; the system frees it however we end.

    Raises:
        InputError: another process sweeps the same; it is named by host and process id.
    """
    folder = cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(f'{sweep}-{data}')}.lock"
    # The holder is named in a file of its own, as the locked one may not be readable everywhere.
    holder = path.with_suffix(".owner")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        who = named(holder.read_text(encoding="utf-8")) if holder.is_file() else "another process"
        raise InputError(
            f"sweep {sweep!r} on {data!r} is being run by {who} ({path}); "
            "wait for it, or stop it first"
        ) from None
    try:
        holder.write_text(owner(), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
