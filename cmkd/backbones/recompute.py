"""Activation checkpointing: blocks whose activations are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def run_blocks(
    blocks: Iterable[nn.Module], x: Float[Tensor, "N C H W"], recompute: bool
) -> Float[Tensor, "N D h w"]:
    """The blocks in turn; with `recompute` only their inputs are kept for the backward pass.

    Gradients and running statistics are those of the plain pass. Blocks must not be random.
    """
    for block in blocks:
        x = _recomputed(block, x) if recompute and torch.is_grad_enabled() else block(x)
    return x


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    # A compiled graph has its side effects once, and the compiler takes no contexts of ours.
    if not torch.compiler.is_compiling():
        options["context_fn"] = lambda: (nullcontext(), _statistics_kept(block))
    return cast(Tensor, checkpoint(block, x, **options))


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    # The second pass would move the running statistics by the same batch once more.
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
