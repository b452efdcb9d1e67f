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


def temporal_shift(
    x: Float[Tensor, "B T C H W"], fold: int, *, replicate: bool = False
) -> Float[Tensor, "B T C H W"]:
    """Give channels [0, fold) the frame t + 1 and [fold, 2 fold) the frame t - 1.

    Args:
        x: feature maps of T frames.
        fold: channels per direction, 2 * fold <= C.
        replicate: repeat the edge frame beyond the clip's ends instead of zeros.
    """
    return cast(Tensor, _Shift.apply(x, fold, replicate))  # type: ignore[no-untyped-call]


class _Shift(torch.autograd.Function):
    """One copy forward and one backward; slicing and joining would make autograd add many."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, fold: int, replicate: bool) -> Tensor:
        ctx.fold, ctx.replicate = fold, replicate  # type: ignore[attr-defined]
        return _move(x, slice(0, fold), slice(fold, 2 * fold), replicate)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        fold, replicate = ctx.fold, ctx.replicate  # type: ignore[attr-defined]
        (grad,) = grads
        # The adjoint of looking ahead is looking back; a repeated edge frame is looked at twice.
        out = _move(grad, slice(fold, 2 * fold), slice(0, fold), False)
        if replicate:
            out[:, -1, :fold] += grad[:, -1, :fold]
            out[:, 0, fold : 2 * fold] += grad[:, 0, fold : 2 * fold]
        return out, None, None


def _move(x: Tensor, ahead: slice, back: slice, replicate: bool) -> Tensor:
    out = x.clone()
    out[:, :-1, ahead] = x[:, 1:, ahead]
    out[:, 1:, back] = x[:, :-1, back]
    if not replicate:
        out[:, -1, ahead] = 0
        out[:, 0, back] = 0
    return out


class TemporalShift(nn.Module):
    """`temporal_shift` on maps whose frames are folded into the batch: (B T, C, H, W)."""

    def __init__(self, num_frames: int, divisor: int, *, replicate: bool = False) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.divisor = divisor
        self.replicate = replicate

    def forward(self, x: Float[Tensor, "BT C H W"]) -> Float[Tensor, "BT C H W"]:
        """Shift along time; the shape stays."""
        clips = x.unflatten(0, (-1, self.num_frames))
        fold = x.shape[1] // self.divisor
        return temporal_shift(clips, fold, replicate=self.replicate).flatten(0, 1)
