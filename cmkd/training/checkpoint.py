"""Checkpoints that survive truncation, and JSON files that are whole or absent."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from cmkd.data.files import write_atomic, write_text

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


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
