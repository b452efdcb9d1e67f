"""Checkpoints that survive truncation, and JSON files that are whole or absent."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from cmkd.data.files import write_atomic, write_text
from cmkd.errors import InfrastructureError

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
_DAMAGE = (RuntimeError, EOFError, ValueError, pickle.UnpicklingError)


def write_json(path: Path, data: object) -> None:
    """Write `data` as indented JSON, atomically."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write tensors as safetensors with textual metadata, atomically."""
    whole = {name: value.cpu().contiguous() for name, value in tensors.items()}
    # Not its own writer, whose error on a full disk is no OSError.
    data = safetensors.torch.save(whole, metadata=dict(notes))
    write_atomic(path, lambda draft: draft.write_bytes(data))


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state as the current checkpoint and keep the one before it.

    Raises:
        InfrastructureError: the disk is full or the folder cannot be written.
    """
    current = folder / CURRENT
    if current.exists():
        current.replace(folder / PREVIOUS)
    write_atomic(current, lambda draft: _save(state, draft))


def _save(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:
        # So torch reports a full disk.
        raise OSError(str(error)) from error


@dataclass(frozen=True)
class Restored:
    """What a folder's checkpoints gave.

    Attributes:
        state: of the newest whole checkpoint, on the CPU; None where there is none.
        note: what was lost and why, in a line for the user; empty where nothing was.
    """

    state: dict[str, Any] | None
    note: str = ""


def load_checkpoint(folder: Path) -> Restored:
    """The newest whole checkpoint. Only tensors and plain data are unpickled.

    Raises:
        InfrastructureError: the disk does not give a file that is there. Training anew would
            throw away what may be whole.
    """
    damage: list[str] = []
    for name in (CURRENT, PREVIOUS):
        data = _content(folder / name)
        if data is None:
            continue
        try:
            state = _parse(data)
        except _DAMAGE as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            damage.append(f"{folder / name} is damaged ({reason})")
            continue
        return Restored(state, _note(damage, "training went on from the checkpoint before it"))
    return Restored(None, _note(damage, "training began anew"))


def _note(damage: Sequence[str], remedy: str) -> str:
    return "; ".join([*damage, remedy]) if damage else ""


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InfrastructureError(
            f"{path}: cannot be read ({error.strerror}); mend the disk or its permissions, or "
            "remove the file to train anew"
        ) from error


def _parse(data: bytes) -> dict[str, Any]:
    # A truncated file has lost the directory at its end; a bare pickle never had one.
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise ValueError("cut short, or no checkpoint")
    # To the CPU first: a full GPU must not look like a damaged file.
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return cast("dict[str, Any]", state)


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished training."""
    for name in (CURRENT, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
