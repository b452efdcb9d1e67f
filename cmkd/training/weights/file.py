"""Tensors out of checkpoints that others wrote; nothing inside a file is ever run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cmkd.errors import InputError

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors, on the CPU, of a safetensors file or of what ``torch.save`` wrote.

    They are those under ``state_dict`` where there is such an entry. Files of torch before 1.6 are
    read as well.

    Raises:
        InputError: no such file, no checkpoint, cut short, or one that needs more of pickle than
            tensors and plain data.
    """
    start = _start_of(path)
    if start[8:9] == b"{":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(
                f"{path}: is safetensors but cut short or damaged ({error}); get it again"
            ) from None
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise InputError(f"{path}: {_what_else(start)}")
    return _named_tensors(path, _unpickle(path))


def _start_of(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the checkpoint file in it")
    try:
        with path.open("rb") as stream:
            start = stream.read(256)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    if not start:
        raise InputError(f"{path}: is empty; get it again")
    return start


def _what_else(start: bytes) -> str:
    if start.lstrip().startswith(b"<"):
        return "is a web page, not a checkpoint; the link led to a notice, so open it in a browser"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file; run git lfs pull where it came from"
    return "is neither safetensors nor written by torch.save; give a checkpoint of one of the two"


def _unpickle(path: Path) -> Any:
    try:
        # As a stream, since torch takes the name's end for the format.
        with path.open("rb") as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can end in any of them
        # The reasons of torch advise to load such files unsafely, so they are not passed on.
        message = str(error)
    if named := _GLOBAL.search(message):
        raise InputError(
            f"{path}: needs the Python object {named[1]}, and loading such objects can run any "
            "code; save only its state_dict() with torch.save or safetensors, where you trust it"
        )
    if "TorchScript" in message:
        raise InputError(f"{path}: is a TorchScript program; save its state_dict() instead")
    raise InputError(f"{path}: is cut short, damaged or no checkpoint of torch; get it again")


def _named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    inner = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(inner, Mapping) or not inner:
        raise InputError(
            f"{path}: holds a {type(inner).__name__} in place of named tensors; save a state_dict()"
        )
    wrong = [str(key) for key, value in inner.items() if not _is_plain(key, value)]
    if wrong:
        raise InputError(
            f"{path}: not every entry is a plain tensor under a name, as in a state_dict(): "
            f"{', '.join(wrong)}"
        )
    return {key: value.detach() for key, value in inner.items()}


def _is_plain(key: object, value: object) -> bool:
    return (
        isinstance(key, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
    )
