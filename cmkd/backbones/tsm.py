"""Temporal Shift Module: a share of the channels sees the next and the previous frame.

Source: mit-han-lab/temporal-shift-module, ``blockres`` (the shift stands before the first
convolution of a residual block, inside the residual branch).
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

Edge = Literal["zero", "replicate"]


def temporal_shift(
    x: Float[Tensor, "B T C H W"], fold: int, edge: Edge = "zero"
) -> Float[Tensor, "B T C H W"]:
    """Give channels [0, fold) the frame t + 1 and [fold, 2 fold) the frame t - 1.

    Args:
        x: feature maps of T frames.
        fold: channels per direction, 2 * fold <= C.
        edge: beyond the clip's ends there is zero, as in the official code, or the end frame.
    """
    return cast(Tensor, _Shift.apply(x, fold, edge == "replicate"))  # type: ignore[no-untyped-call]


class _Shift(torch.autograd.Function):
    """One copy forward and one backward; slicing and joining would make autograd add many."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, fold: int, replicate: bool) -> Tensor:
        ctx.fold, ctx.replicate = fold, replicate  # type: ignore[attr-defined]
        out = _move(x, slice(0, fold), slice(fold, 2 * fold))
        if replicate:
            out[:, -1, :fold] = x[:, -1, :fold]
            out[:, 0, fold : 2 * fold] = x[:, 0, fold : 2 * fold]
        return out

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        fold = ctx.fold  # type: ignore[attr-defined]
        # The adjoint of looking ahead is looking back.
        out = _move(grads[0], slice(fold, 2 * fold), slice(0, fold))
        if ctx.replicate:  # type: ignore[attr-defined]
            out[:, -1, :fold] += grads[0][:, -1, :fold]
            out[:, 0, fold : 2 * fold] += grads[0][:, 0, fold : 2 * fold]
        return out, None, None


def _move(x: Tensor, ahead: slice, back: slice) -> Tensor:
    out = x.clone()
    out[:, :-1, ahead] = x[:, 1:, ahead]
    out[:, 1:, back] = x[:, :-1, back]
    out[:, -1, ahead] = 0
    out[:, 0, back] = 0
    return out


class TemporalShift(nn.Module):
    """`temporal_shift` on maps whose frames are folded into the batch: (B T, C, H, W)."""

    def __init__(self, num_frames: int, divisor: int, edge: Edge = "zero") -> None:
        super().__init__()
        self.num_frames = num_frames
        self.divisor = divisor
        self.edge = edge

    def forward(self, x: Float[Tensor, "BT C H W"]) -> Float[Tensor, "BT C H W"]:
        """Shift along time; the shape stays."""
        clips = x.unflatten(0, (-1, self.num_frames))
        fold = x.shape[1] // self.divisor
        return temporal_shift(clips, fold, self.edge).flatten(0, 1)
