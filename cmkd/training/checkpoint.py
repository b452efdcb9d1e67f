"""Files that are whole or absent: atomic writes, and checkpoints that survive truncation."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from cmkd.errors import InfrastructureError

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place.

    Raises:
        InfrastructureError: the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as RuntimeError.
        raise InfrastructureError(
            f"{path}: cannot be written ({error}); free space and rerun"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: object) -> None:
    """Write `data` as indented JSON, atomically."""
    text = json.dumps(data, indent=2, sort_keys=True) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state as the current checkpoint and keep the one before it."""
    current = folder / CURRENT
    if current.exists():
        current.replace(folder / PREVIOUS)
    write_atomic(current, lambda temporary: torch.save(state, temporary))


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest readable checkpoint, or None. Only tensors and plain data are unpickled."""
    for name in (CURRENT, PREVIOUS):
        path = folder / name
        # A truncated file has lost the directory at its end; a bare pickle never had one.
        if not zipfile.is_zipfile(path):
            continue
        try:
            return cast("dict[str, Any]", torch.load(path, map_location=device, weights_only=True))
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            continue
    return None


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished training."""
    for name in (CURRENT, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
