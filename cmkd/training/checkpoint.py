"""Checkpoints that survive truncation, and JSON files that are whole or absent."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from cmkd.errors import InfrastructureError, InputError
from cmkd.io import damaged, write_atomic, write_text

CURRENT, PREVIOUS, NEXT = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.next.pt"
_DAMAGE = (RuntimeError, EOFError, ValueError)


def write_json(path: Path, data: object) -> None:
    """Write `data` as indented JSON, atomically."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def read_json(path: Path, *, remedy: str) -> Any:
    """What `write_json` wrote.

    Args:
        remedy: what to remove where it is damaged.

    Raises:
        InfrastructureError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(path, error, remedy) from error


def read_tensors(path: Path, *, remedy: str) -> dict[str, Tensor]:
    """What `write_tensors` wrote, on the CPU; arguments and errors as of `read_json`."""
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise damaged(path, error, remedy) from error


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
    current, fresh = folder / CURRENT, folder / NEXT
    # Whole on the disk before an older one goes: the current one may be damaged.
    write_atomic(fresh, lambda draft: _save(state, draft))
    if current.exists():
        current.replace(folder / PREVIOUS)
    fresh.replace(current)


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
        InputError: a whole file wants code to be run, which no checkpoint of ours does.
    """
    losses: list[str] = []
    for name in (CURRENT, PREVIOUS):
        data = _content(folder / name)
        if data is None:
            continue
        try:
            state = _parse(data)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            wanted = found.group(1) if found else "something that is no tensor"
            raise InputError(
                f"{folder / name}: is no checkpoint of cmkd: it asks for {wanted}, which was not "
                "run; find out who wrote the file, and remove it to go on without it"
            ) from None
        except _DAMAGE as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            losses.append(f"{folder / name} is damaged ({reason})")
            continue
        return Restored(state, _note(losses, f"training went on from {name}, the one before it"))
    return Restored(None, _note(losses, "training began anew"))


def _note(losses: Sequence[str], remedy: str) -> str:
    return "; ".join([*losses, remedy]) if losses else ""


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
    _require_whole(data)
    # To the CPU first: a full GPU must not look like a damaged file.
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return cast("dict[str, Any]", state)


def _require_whole(data: bytes) -> None:
    """Torch looks at no checksum, and a file that was cut short has lost its directory."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            changed = archive.testzip()
    except Exception as error:
        # Flipped bits make it raise what no documentation lists: zlib.error, IndexError ...
        raise ValueError(f"cut short, or no checkpoint: {error}") from error
    if changed:
        raise ValueError(f"the checksum of {changed} is wrong")


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished training."""
    for name in (CURRENT, PREVIOUS, NEXT):
        (folder / name).unlink(missing_ok=True)
