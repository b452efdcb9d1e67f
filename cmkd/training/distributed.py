"""Several processes that train one network: equal weights, and of each batch a share for each.

One process and k of them with the same batches compute the same losses and gradients, but for
rounding and dropout: batch normalisation uses the statistics of the whole batch, gradients are
summed, and figures are of all clips.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from cmkd.errors import InputError


@dataclass(frozen=True)
class Peers:
    """The processes of one training, of which this one has number `rank`.

    `ALONE` never touches torch.distributed. All ranks must make the same calls in the same order.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_group(cls) -> Peers:
        """Those of torch's default process group."""
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process' rows; sizes differ by one at most.

        Raises:
            InputError: fewer rows than processes.
        """
        if len(rows) < self.size:
            raise InputError(
                f"a batch of {len(rows)} clips for {self.size} processes; use fewer of them"
            )
        return np.array_split(rows, self.size)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all processes, in one piece.

        Not by DistributedDataParallel: it averages, which is wrong for unequal shares, and wants
        a gradient for every parameter, while arms exist whose gate has none.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        total = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(
            gradients, total.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def join(self, model: nn.Module) -> None:
        """Make the batch normalisation of `model` use the batches of all processes, in place."""
        if self.size == 1:
            return
        for name, child in model.named_children():
            if isinstance(child, _BatchNorm):
                setattr(model, name, SyncedBatchNorm(child, self.size))
            else:
                self.join(child)


ALONE = Peers()


class SyncedBatchNorm(_BatchNorm):
    """`norm` with the statistics of all processes' batches, which may differ in size.

    torch.nn.SyncBatchNorm refuses the CPU; this is one code for all devices.
    """

    def __init__(self, norm: _BatchNorm, size: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.size = size

    def forward(self, input: Float[Tensor, "N C ..."]) -> Float[Tensor, "N C ..."]:
        """Normalised over all axes but the second, and over processes while training."""
        if not self.training:
            return super().forward(input)
        mean, var, count = self._statistics(input)
        self._track(mean, var * count / (count - 1))
        out = _Normalise.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, mean, var, count, self.eps
        )
        return cast(Tensor, out)

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    @torch.no_grad()
    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(x.float(), _axes(x), correction=0)
        own = torch.cat([mean, var, mean.new_full((1,), x.numel() // x.shape[1])])
        everyones = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(everyones, own)
        channels = self.num_features
        means, variances, counts = torch.stack(everyones).split([channels, channels, 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        # Parts' own spread and that between them: no difference of large squares.
        var = (counts * (variances + (means - mean).square())).sum(0) / count
        return mean, var, count

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_var, self.momentum)


class _Normalise(torch.autograd.Function):
    """Batch normalisation with given statistics, which the gradient takes as functions of x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        shape = (1, -1, *[1] * (x.dim() - 2))
        standard = (x.float() - mean.view(shape)) * scale.view(shape)
        gradient = gradients[0].float()
        of_bias = gradient.sum(_axes(x))
        of_weight = (gradient * standard).sum(_axes(x))
        means = torch.cat([of_bias, of_weight])
        distributed.all_reduce(means)
        by_mean, by_scale = (part.view(shape) for part in (means / count).chunk(2))
        of_x = (weight * scale).view(shape) * (gradient - by_mean - standard * by_scale)
        return of_x.to(x.dtype), of_weight, of_bias, None, None, None, None


def _axes(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]
