"""Several processes that train one network: equal weights, and a share of each batch for each.

One process and k of them compute the same losses and gradients up to rounding and dropout: batch
normalisation uses the statistics of the whole batch, gradients are summed over all its clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from cmkd.errors import InputError


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

    def parallel(self, module: nn.Module) -> DistributedDataParallel:
        """`module` with gradients averaged over the processes during its backward pass."""
        # Arms exist whose gate gets no gradient; statistics are equal already.
        return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)


SINGLE_PROCESS = ProcessGroup()


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
        axes, shape = [0, *range(2, input.dim())], (1, -1, *[1] * (input.dim() - 2))
        x = input.float()
        count = _sum(x.new_tensor(x.numel() // x.shape[1]))
        mean = _sum(x.sum(axes)) / count
        centred = x - mean.view(shape)
        # Of differences: that of two large sums of squares would lose digits.
        var = _sum(centred.square().sum(axes)) / count
        self._track(mean.detach(), (var * count / (count - 1)).detach())
        scale = (self.weight * (var + self.eps).rsqrt()).view(shape)
        return (centred * scale + self.bias.view(shape)).to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_var, self.momentum)


class _SumOverProcesses(Function):
    """Sum over all processes, which passes on the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


def _sum(values: Tensor) -> Tensor:
    return cast(Tensor, _SumOverProcesses.apply(values))  # type: ignore[no-untyped-call]
