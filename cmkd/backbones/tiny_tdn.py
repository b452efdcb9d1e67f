"""Temporal differences at the stem: the idea of TDN's short-term module at CPU size.

Source of the idea: MCG-NJU/TDN, whose stem adds features of RGB differences to those of RGB.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from cmkd.backbones.tiny import TinyResNet, stem


def frame_differences(x: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T C H W"]:
    """x_t - x_{t-1}; zero for the first frame."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], dim=1)


class TinyTDN(TinyResNet):
    """A shifted `TinyResNet` whose stem also sees the difference to the frame before."""

    def __init__(
        self, in_channels: int, num_frames: int, *, total_stride: int, width: int, blocks: int
    ) -> None:
        super().__init__(
            in_channels,
            num_frames,
            total_stride=total_stride,
            width=width,
            blocks=blocks,
            shift_divisor=4,
        )
        self.difference_stem = stem(in_channels, width, self.first_stride)

    def forward(self, x: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T D h w"]:
        """Feature maps of every frame."""
        still = self.stem(x.flatten(0, 1))
        moving = self.difference_stem(frame_differences(x).flatten(0, 1))
        maps = self.stages(self.activation(still + moving))
        return cast(Tensor, maps.unflatten(0, x.shape[:2]))
