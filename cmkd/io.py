"""Atomic files and folders, free space, damaged files."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmkd.errors import InfrastructureError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DISK_FAILS = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn OSErrors of a block that writes `path` into InfrastructureError."""
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
    folder = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return f"{shutil.disk_usage(folder).free / 1e6:.0f} MB free"


def write_atomic(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place.

    The old content stays until the new one is on the disk. Missing folders are made.

    Args:
        durable: sync the file before the move and its folder after it. Without it a power cut may
            leave an empty or torn file.

    Raises:
        InfrastructureError: the disk is full, or the folder cannot be made or written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(draft)
            if durable:
                sync(draft)
            draft.replace(path)
            if durable:
                sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """`write_atomic` of text in UTF-8 with its line ends unchanged.

    Raises:
        InfrastructureError: as `write_atomic`.
    """
    write_atomic(
        path,
        lambda draft: draft.write_text(text, encoding="utf-8", newline=""),
        durable=durable,
    )


def publish_folder(draft: Path, folder: Path) -> None:
    """Sync a finished draft folder and move it to its name on the same disk.

    A folder of that name is replaced.

    Raises:
        InfrastructureError: the disk is full or fails.
    """
    with writing(folder):
        for below, _, files in os.walk(draft):
            for name in files:
                sync(Path(below, name))
            sync(Path(below))
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
            folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        draft.rename(folder)
        sync(folder.parent)


def mark_used(folder: Path) -> None:
    """Renew the time of change of a folder, by which `cmkd cache` tells what is unused."""
    with suppress(OSError):  # A cache that is only read stays as it is.
        os.utime(folder)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync folders.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_array(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """Load or map an array of a folder that can be made again.

    Raises:
        InfrastructureError: the file is damaged.
    """
    import numpy as np  # Here, as commands that load no array start without it.

    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None)
        return found
    except (OSError, EOFError, ValueError) as error:
        raise damaged(path, error, f"the folder {path.parent}") from error


def create_array(
    path: Path, kind: type[np.generic], shape: tuple[int, ...], purpose: str
) -> np.memmap[Any, Any]:
    """New array file, mapped for writing.

    Raises:
        InfrastructureError: too little space is free.
    """
    import numpy as np

    require_space(path.parent, np.dtype(kind).itemsize * math.prod(shape), purpose)
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def damaged(path: Path, reason: Exception | str, remedy: str) -> InfrastructureError:
    """Error for a file of the cache that cannot be read any more.

    Args:
        remedy: what to remove so that it is made again.
    """
    first = next(iter(str(reason).splitlines()), type(reason).__name__)
    return InfrastructureError(
        f"{path}: is damaged ({first}); remove {remedy} to have it made again"
    )


def make_folder(folder: Path) -> None:
    """Make a folder the user chose unless it is there, and check that it can be written.

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
            f"{folder}: is no folder that can be written ({error.strerror})", "choose another one"
        ) from error


def require_locks(folder: Path) -> None:
    """Check that files of a folder can be locked, without which two processes train one trial.

    Raises:
        InputError: they cannot, as on some network disks.
    """
    make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(
            f"{folder}: files there cannot be locked ({error.strerror})",
            "set CMKD_CACHE to a folder on another disk, or mount this one with locks (Lustre: "
            "-o flock; NFS: version 4)",
        ) from error


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Check for `needed` free bytes before files are mapped into memory.

    A memory map that meets a full disk kills the process.

    Raises:
        InfrastructureError: fewer are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05:
        raise InfrastructureError(
            f"{folder.parent}: {purpose} need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free; make room or point CMKD_CACHE at another disk"
        )
