"""torch at run time: process-wide switches, devices, transfer of batches, several processes.

One process and k of them compute the same losses and gradients up to rounding and dropout: batch
normalisation uses the statistics of the whole batch, gradients are summed over all its clips.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.futures import Future
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

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
    # As use_deterministic_algorithms(True), which also loads torch.compile: two seconds.
    torch.set_deterministic_debug_mode("error")
    # Filling fresh memory only shows reads of uninitialised values; it costs 5 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # fp32 means fp32 on every device; bf16 is a choice of the config.
    torch.backends.cudnn.allow_tf32 = False


def pick_device(name: str) -> torch.device:
    """Device of a name; ``auto`` is CUDA when there is a device, else the CPU.

    Raises:
        InputError: there is no such device, or CUDA is asked for and absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r}: is none of torch; use cpu, cuda or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch sees no CUDA device here; use device cpu or auto")
    return device


def free_gpu_memory() -> tuple[int, ...]:
    """Free bytes of each GPU; empty without one."""
    return tuple(torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count()))


def reset_peak_memory() -> None:
    """Begin `peak_memory` anew."""
    # Where the system refuses, the peak of the process until now counts.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, float]:
    """Most MiB since `reset_peak_memory`: resident in this process, and allocated on its GPU."""
    found = {"memory_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}
    if torch.cuda.is_available():
        found["memory_gpu_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


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


def prefetch(
    parts: Iterable[PartT], load: Callable[[PartT], BatchT], device: torch.device
) -> Iterator[tuple[PartT, BatchT]]:
    """Each part with its batch; on CUDA the next one is copied while the current one computes.

    `load` copies from pinned memory without waiting. The caller queues its step on the current
    stream, without waiting either, and drops a batch when it takes the next.
    """
    if device.type != "cuda":
        for part in parts:
            yield part, load(part)
        return
    copies, main = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    passed = main.record_event()
    for part in parts:
        # The copy may fill memory of the batch before last, but runs beside the last step.
        copies.wait_event(passed)
        with torch.cuda.stream(copies):
            batch = load(part)
        main.wait_stream(copies)
        passed = main.record_event()
        yield part, batch


def get_generators(device: torch.device) -> Tensor:
    """State of torch's generators of the CPU and, where it is a GPU, of `device`."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def set_generators(state: Tensor, device: torch.device) -> None:
    """Set what `get_generators` gave on a device of this type."""
    size = torch.get_rng_state().numel()
    torch.set_rng_state(state[:size])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[size:], device)


@dataclass(frozen=True)
class ProcessGroup:
    """The `size` processes of one training, of which this one has number `rank`.

    `SINGLE_PROCESS` never touches torch.distributed. All ranks make the same calls in the same
    order.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> ProcessGroup:
        """torch's default process group."""
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

    def shard(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of this process; sizes differ by one at most.

        Raises:
            InputError: fewer rows than processes.
        """
        if len(rows) < self.size:
            raise InputError(
                f"a batch of {len(rows)} clips for {self.size} processes; use fewer of them"
            )
        return np.array_split(rows, self.size)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def overlapping(self, model: nn.Module) -> DistributedDataParallel:
        """The model, whose gradients are summed over all processes while others are computed."""
        network = DistributedDataParallel(
            model,
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )
        network.register_comm_hook(None, lambda _, bucket: _begin_sum(bucket.buffer()))
        return network

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum the gradients of `model` over all processes, in place and in one message.

        Those of `overlapping` are sums already.
        """
        if self.size == 1 or isinstance(model, DistributedDataParallel):
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        total = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, summed in zip(gradients, total.split(sizes), strict=True):
            gradient.copy_(summed.view(gradient.shape))

    def gather(self, value: Tensor) -> list[Tensor]:
        """Value of every process, on the CPU."""
        found: list[Any] = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def convert_batch_norm(self, model: nn.Module) -> None:
        """Let the batch normalisation of `model` use the batches of all processes, in place."""
        if self.size == 1:
            return
        for name, child in model.named_children():
            if not isinstance(child, _BatchNorm):
                self.convert_batch_norm(child)
            elif child.weight.is_cuda:
                setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
            else:
                setattr(model, name, CpuSyncBatchNorm(child))


SINGLE_PROCESS = ProcessGroup()


def _begin_sum(values: Tensor) -> Future[Tensor]:
    """Sum in place of the mean of DistributedDataParallel: losses are weighted by shares."""
    work = distributed.all_reduce(values, async_op=True)
    assert work is not None
    summed: Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return summed


class CpuSyncBatchNorm(_BatchNorm):
    """Batch normalisation over the batches of all processes; torch's own refuses the CPU."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def forward(self, input: Float[Tensor, "N C ..."]) -> Float[Tensor, "N C ..."]:
        """`input` normalised over all axes but the second, and over processes while training."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        axes, shape = [0, *range(2, input.dim())], (1, -1, *[1] * (input.dim() - 2))
        x = input.float()
        count = all_reduce(x.new_tensor(x.numel() // x.shape[1]))
        mean = all_reduce(x.sum(axes)) / count
        centred = x - mean.view(shape)
        # The mean of squared differences: a difference of two large sums would lose digits.
        var = all_reduce(centred.square().sum(axes)) / count
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_((var * count / (count - 1)).detach(), self.momentum)
        scale = (self.weight * (var + self.eps).rsqrt()).view(shape)
        normalised: Tensor = (centred * scale + self.bias.view(shape)).to(input.dtype)
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:
        pass
