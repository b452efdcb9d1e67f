"""What training writes: checkpoints, records and weights, each with its owner's id and a digest.

Damage never passes for data and never fails a trial. A damaged checkpoint falls back to the one
before it; any other damaged file is removed, so that the same command makes it again.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from cmkd.errors import InfrastructureError, InputError
from cmkd.io import write_atomic, write_text

CURRENT, PREVIOUS, NEXT = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.next.pt"
_DAMAGE = (RuntimeError, EOFError, ValueError)


def discard(path: Path, reason: object) -> InfrastructureError:
    """Remove a damaged file or folder of the cache; returns the error to raise."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    first = next(iter(str(reason).splitlines()), type(reason).__name__)
    return InfrastructureError(
        f"{path}: was damaged ({first}) and has been removed; the same command makes it again"
    )


def write_json(path: Path, data: object) -> None:
    """Write `data` as indented JSON, atomically."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def write_record(path: Path, owner: str, data: object) -> None:
    """Write `data` as JSON with the id it belongs to and a digest, atomically."""
    write_json(path, {"id": owner, "data": data, "sha256": _digest(owner, data)})


def read_record(path: Path, owner: str) -> Any:
    """Data that `write_record` wrote for `owner`.

    Raises:
        InfrastructureError: it is damaged or belongs to something else, and has been removed.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        found, data, digest = stored["id"], stored["data"], stored["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise discard(path, f"no record: {error!r}") from error
    if found != owner:
        raise discard(path, f"it belongs to {found}, not to {owner}")
    if digest != _digest(owner, data):
        raise discard(path, "its digest is wrong")
    return data


def write_finished(
    path: Path, owner: str, files: Iterable[str], data: Mapping[str, object]
) -> None:
    """Write the record of something finished, with digests of the files beside it, atomically."""
    digests = {name: file_digest(path.parent / name) for name in files}
    write_record(path, owner, {**data, "files": digests})


def read_finished(path: Path, owner: str) -> Any:
    """Data that `write_finished` wrote for `owner`; its files are compared with their digests.

    Raises:
        InfrastructureError: one is damaged; it has been removed with the record.
    """
    stored = read_record(path, owner)
    for name, digest in stored["files"].items():
        file = path.parent / name
        if not file.is_file() or file_digest(file) != digest:
            path.unlink(missing_ok=True)
            raise discard(file, "its digest is wrong")
    return stored


def _digest(owner: str, data: object) -> str:
    return hashlib.sha256(json.dumps([owner, data], sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file; read once per process while the file stays as it is.

    Raises:
        InfrastructureError: the file cannot be read.
    """
    try:
        state = path.stat()
        return _file_digest(path, state.st_mtime_ns, state.st_size, state.st_ino)
    except OSError as error:
        raise InfrastructureError(
            f"{path}: cannot be read ({error.strerror}); mend the disk or its permissions, or "
            f"remove the folder {path.parent} to have it made again"
        ) from error


@lru_cache(maxsize=64)
def _file_digest(path: Path, *_state: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write tensors as safetensors with textual metadata, atomically."""
    whole = {name: value.cpu().contiguous() for name, value in tensors.items()}
    # Not safetensors' own writer, whose error on a full disk is no OSError.
    data = safetensors.torch.save(whole, metadata=dict(notes))
    write_atomic(path, lambda draft: draft.write_bytes(data))


def save_checkpoint(folder: Path, owner: str, state: dict[str, Any]) -> None:
    """Write the state as the current checkpoint of `owner` and keep the one before it.

    Raises:
        InfrastructureError: the disk is full or the folder cannot be written.
    """
    current, fresh = folder / CURRENT, folder / NEXT
    # Whole on the disk before an older one goes: the current one may be damaged.
    write_atomic(fresh, lambda draft: _save({"id": owner, **state}, draft))
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
    """Result of `load_checkpoint`.

    Attributes:
        state: of the newest whole checkpoint, on the CPU; None without one.
        note: line for the user about damaged checkpoints; empty without any.
    """

    state: dict[str, Any] | None
    note: str = ""


def load_checkpoint(folder: Path, owner: str) -> Restored:
    """Newest whole checkpoint of `owner`. Only tensors and plain data are unpickled.

    Raises:
        InfrastructureError: a file that is there cannot be read. Training anew would throw away
            what may be whole.
        InputError: a whole file asks for code to be run, which no checkpoint of cmkd does.
    """
    losses: list[str] = []
    for name in (CURRENT, PREVIOUS):
        path = folder / name
        data = _content(path)
        if data is None:
            continue
        try:
            state = _parse(data)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            wanted = found.group(1) if found else "an object that is no tensor"
            raise InputError(
                f"{path}: is no checkpoint of cmkd: it asks for {wanted}, which was not run; find "
                "out who wrote the file, and remove it to go on without it"
            ) from None
        except _DAMAGE as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            losses.append(f"{path} is damaged ({reason})")
            continue
        if state.get("id") != owner:
            losses.append(f"{path} belongs to {state.get('id')}, not to {owner}")
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
    """Compare the checksum of every part, as torch does not."""
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
