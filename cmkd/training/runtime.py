"""Process-wide switches of torch that a training process sets once, at its start."""

from __future__ import annotations

import os
from typing import TypeVar

import torch
from torch import nn

from cmkd.errors import InputError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def configure(threads: int) -> None:
    """Make training deterministic and keep it to `threads` CPU threads."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory only shows reads of uninitialised values; it costs 5 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA when there is a device, else the CPU.

    Raises:
        InputError: CUDA is asked for and absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch sees no CUDA device here; use device cpu or auto")
    return device


def place(model: ModuleT, device: torch.device) -> ModuleT:
    """Move the model to `device` with channels last, the fastest layout of convolutions."""
    model.to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
