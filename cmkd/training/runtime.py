"""Process-wide switches of torch, devices, precision and the transfer of batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

import torch
from torch import nn

from cmkd.errors import InputError

ModuleT = TypeVar("ModuleT", bound=nn.Module)
PartT = TypeVar("PartT")
BatchT = TypeVar("BatchT")


def configure(threads: int) -> None:
    """Make training deterministic and limit it to `threads` CPU threads.

    Holds for the calling thread and those it starts.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # Gradients of a trained BiConvLSTM hold 2 % subnormals, which slow oneDNN down 2 to 5 times.
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory only shows reads of uninitialised values; it costs 5 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # fp32 means fp32 on every device; bf16 is a choice of the config.
    torch.backends.cudnn.allow_tf32 = False


def pick_device(name: str) -> torch.device:
    """Device of a name; ``auto`` is CUDA when there is a device, else the CPU.

    Raises:
        InputError: CUDA is asked for and absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch sees no CUDA device here; use device cpu or auto")
    return device


def free_gpu_memory() -> tuple[int, ...]:
    """Free bytes of each GPU; empty without one."""
    return tuple(torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count()))


def to_device(model: ModuleT, device: torch.device) -> ModuleT:
    """Move the model to `device` with channels last, the fastest layout of convolutions."""
    model.to(device)
    # 3-D convolutions of other packages' backbones have another layout, and torch refuses this one.
    if all(value.dim() != 5 for value in model.state_dict().values()):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def autocast(precision: Literal["fp32", "bf16"], device: torch.device) -> torch.autocast:
    """Context of a forward pass of `TrainingConfig.precision`; losses belong outside of it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class Prefetcher:
    """Loads batches; on CUDA the next one is copied while the current one computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(
        self, parts: Iterable[PartT], load: Callable[[PartT], BatchT]
    ) -> Iterator[tuple[PartT, BatchT]]:
        """Each part with the batch that `load` makes of it.

        `load` copies from pinned memory without waiting. The caller queues its step on the
        current stream, without waiting either, and drops a batch when it takes the next.
        """
        if self._stream is None:
            for part in parts:
                yield part, load(part)
            return
        main = torch.cuda.current_stream(self.device)
        passed = main.record_event()
        for part in parts:
            # The copy may fill memory of the batch before last, but runs beside the last step.
            self._stream.wait_event(passed)
            with torch.cuda.stream(self._stream):
                batch = load(part)
            main.wait_stream(self._stream)
            passed = main.record_event()
            yield part, batch
