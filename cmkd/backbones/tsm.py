"""Temporal Shift Module: a share of the channels sees the next and the previous frame.

Source: mit-han-lab/temporal-shift-module, ``blockres`` (the shift stands before the first
convolution of a residual block, inside the residual branch).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def temporal_shift(
    x: Float[Tensor, "B T C H W"], fold: int, *, replicate: bool = False
) -> Float[Tensor, "B T C H W"]:
    """Give channels [0, fold) the frame t + 1 and [fold, 2 fold) the frame t - 1.

    Args:
        x: feature maps of T frames.
        fold: channels per direction, 2 * fold <= C.
        replicate: repeat the edge frame beyond the clip's ends instead of zeros.
    """
    after, before, rest = x.split([fold, fold, x.shape[2] - 2 * fold], dim=2)
    end = after[:, -1:] if replicate else torch.zeros_like(after[:, -1:])
    start = before[:, :1] if replicate else torch.zeros_like(before[:, :1])
    shifted = (torch.cat([after[:, 1:], end], 1), torch.cat([start, before[:, :-1]], 1), rest)
    return torch.cat(shifted, dim=2)


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
