"""Files that are whole or absent, and failures of a disk as errors with a remedy."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmkd.errors import InfrastructureError, InputError

_DISK_FAILS = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let no raw OSError out of a block that writes `path`.

    Raises:
        InfrastructureError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InfrastructureError(
            f"{path}: cannot be written ({reason}; {free_space(path)}); free some space or check "
            "its folder, and run it again"
        ) from error


def free_space(path: Path) -> str:
    """``12 MB free``, on the disk of `path` or of the nearest folder above it that exists."""
    place = next(one for one in (path, *path.absolute().parents) if one.exists())
    return f"{shutil.disk_usage(place).free / 1e6:.0f} MB free"


def write_atomic(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place.

    What was under that name stays until the new content is on the disk. Missing folders are made.

    Args:
        durable: wait for the disk. Without it a power cut may leave an empty file.

    Raises:
        InfrastructureError: the disk is full, or the folder cannot be made or written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(draft)
            if durable:
                with draft.open("rb") as stream:
                    os.fsync(stream.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """`write_atomic` of text in UTF-8, its line ends as they are.

    Raises:
        InfrastructureError: as `write_atomic`.
    """
    write_atomic(
        path,
        lambda draft: draft.write_text(text, encoding="utf-8", newline=""),
        durable=durable,
    )


def load_array(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """An array of a folder that can be made again.

    Raises:
        InfrastructureError: the file is damaged.
    """
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None)
        return found
    except (OSError, EOFError, ValueError) as error:
        raise damaged(path, error, f"the folder {path.parent}") from error


def damaged(path: Path, error: Exception, remedy: str) -> InfrastructureError:
    """What to raise for a file of the cache that cannot be read any more.

    Args:
        remedy: what of it to remove.
    """
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return InfrastructureError(
        f"{path}: is damaged ({reason}); remove {remedy} to have it made again"
    )


def make_folder(folder: Path) -> None:
    """Make a folder the user chose unless it is there, and see that files can be made in it.

    Raises:
        InputError: it is a file or lies below one, or may not be written.
        InfrastructureError: the disk is full or fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in _DISK_FAILS:
            raise InfrastructureError(
                f"{folder}: cannot be written ({error.strerror}; {free_space(folder)}); free some "
                "space and run it again"
            ) from error
        raise InputError(
            f"{folder}: is no folder that can be written ({error.strerror}); choose another one"
        ) from error


def require_space(folder: Path, needed: int, what: str) -> None:
    """Look for `needed` bytes before mapping files into memory.

    A memory map that meets a full disk kills the process.

    Raises:
        InfrastructureError: fewer are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05:
        raise InfrastructureError(
            f"{folder.parent}: {what} need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free; make room or point CMKD_CACHE at another disk"
        )
