"""Temporal Shift Module: a share of the channels sees the next and the previous frame.

Source: mit-han-lab/temporal-shift-module, ``blockres`` (the shift stands before the first
convolution of a residual block, inside the residual branch).
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


def temporal_shift(x: Float[Tensor, "B T C H W"], fold: int) -> Float[Tensor, "B T C H W"]:
    """Give channels [0, fold) the frame t + 1 and [fold, 2 fold) the frame t - 1.

    Beyond the clip's ends there is zero.

    Args:
        x: feature maps of T frames.
        fold: channels per direction, 2 * fold <= C.
    """
    return cast(Tensor, _Shift.apply(x, fold))  # type: ignore[no-untyped-call]


class _Shift(torch.autograd.Function):
    """One copy forward and one backward; slicing and joining would make autograd add many."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, fold: int) -> Tensor:
        ctx.fold = fold  # type: ignore[attr-defined]
        return _move(x, slice(0, fold), slice(fold, 2 * fold))

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        fold = ctx.fold  # type: ignore[attr-defined]
        # The adjoint of looking ahead is looking back.
        return _move(grads[0], slice(fold, 2 * fold), slice(0, fold)), None


def _move(x: Tensor, ahead: slice, back: slice) -> Tensor:
    out = x.clone()
    out[:, :-1, ahead] = x[:, 1:, ahead]
    out[:, 1:, back] = x[:, :-1, back]
    out[:, -1, ahead] = 0
    out[:, 0, back] = 0
    return out


class TemporalShift(nn.Module):
    """`temporal_shift` on maps whose frames are folded into the batch: (B T, C, H, W)."""

    def __init__(self, num_frames: int, divisor: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.divisor = divisor

    def forward(self, x: Float[Tensor, "BT C H W"]) -> Float[Tensor, "BT C H W"]:
        """Shift along time; the shape stays."""
        clips = x.unflatten(0, (-1, self.num_frames))
        fold = x.shape[1] // self.divisor
        return temporal_shift(clips, fold).flatten(0, 1)
