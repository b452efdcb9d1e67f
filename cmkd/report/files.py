"""Report files: written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cmkd.errors import InfrastructureError, InputError


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
            raise InfrastructureError(
                f"{error.filename or folder}: {error.strerror}; free some space and run it again"
            ) from error
    return tuple(folder / name for name in files)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
