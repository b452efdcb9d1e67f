"""Report files: written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cmkd.errors import InfrastructureError, InputError

FULL = {errno.ENOSPC, errno.EDQUOT}


def write_files(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write `files` (name -> content) into `folder`; existing ones are replaced at the end.

    All contents are on disk before the first old file is replaced, so a full disk leaves the
    old report as it was.

    Raises:
        InputError: `folder` cannot be created or written to.
        InfrastructureError: the disk failed on the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=folder, prefix=".report-")
    except OSError as error:
        if error.errno in FULL:
            raise _full(folder, error) from error
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}); choose another with --out"
        ) from None
    with scratch as temporary:
        try:
            for name, content in files.items():
                _write_synced(Path(temporary, name), content)
            for name in files:
                os.replace(Path(temporary, name), folder / name)
        except OSError as error:
            raise _full(folder, error) from error
    return tuple(folder / name for name in files)


def _full(folder: Path, error: OSError) -> InfrastructureError:
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(place).free
    return InfrastructureError(
        f"{folder}: the report cannot be written ({error.strerror}; {free / 1e6:.0f} MB free), so "
        "an old one is left as it was; free some space and run it again"
    )


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
