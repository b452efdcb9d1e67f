"""Residual networks small enough for a CPU: three stages of basic blocks, four times the width."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmkd.backbones.resnet import TemporalShift
from cmkd.config.backbones import Size


class Shortcut(nn.Conv2d):
    """A 1x1 convolution of every `stride`-th pixel, without bias.

    Pixels are thinned out before it. oneDNN's backward pass of a strided 1x1 convolution is slow,
    and writes beyond its memory where a pixel does not fill a vector register
    (uxlfoundation/oneDNN#6035).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self.step = stride

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Maps at 1 / stride of the size."""
        return super().forward(x[..., :: self.step, :: self.step])


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; `shift` acts before the first of them."""

    def __init__(self, inputs: int, outputs: int, stride: int, shift: nn.Module) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            shift,
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                Shortcut(inputs, outputs, stride), nn.BatchNorm2d(outputs)
            )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Feature maps at 1 / stride of the size."""
        return cast(Tensor, self.activation(self.residual(x) + self.shortcut(x)))


def stem(in_channels: int, width: int, stride: int) -> nn.Sequential:
    """First convolution with normalisation, ready for BasicBlocks."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
    )


def split_stride(total: int) -> tuple[int, int, int, int, int]:
    """Strides of (average, stem, stage 1, 2, 3) whose product is `total`, one of 1, 2, 4, 8, 16.

    The stem halves first, since cost lies at high resolution; then stages 2 and 1. A total of 16
    starts with an average over 2 x 2 pixels, which costs nothing and takes noise away.
    """
    assert total in (1, 2, 4, 8, 16), total
    first, stage_2, stage_1, average = (2 if total >= 2**k else 1 for k in (1, 2, 3, 4))
    return average, first, stage_1, stage_2, 1


class TinyResNet(nn.Module):
    """Stem and three stages; TSM in every block when `shift_divisor` is given.

    The shift repeats the end frames of a clip instead of padding with zeros.

    Args:
        size: its `total_stride` is one of 1, 2, 4, 8, 16; the last stage has 4 * `width` channels.
        shift_divisor: 1 / share of channels shifted per direction; None for no shift.
    """

    def __init__(self, size: Size, *, shift_divisor: int | None = None) -> None:
        super().__init__()
        average, first, *strides = split_stride(size.total_stride)
        self.average: nn.Module = nn.AvgPool2d(average) if average > 1 else nn.Identity()
        self.stem: nn.Module = stem(size.in_channels, size.width, first)
        self.activation = nn.ReLU(inplace=True)
        layers: list[nn.Module] = []
        inputs = size.width
        for stage, stride in enumerate(strides):
            outputs = size.width * 2**stage
            for block in range(size.blocks):
                shift: nn.Module = nn.Identity()
                if shift_divisor is not None:
                    shift = TemporalShift(size.num_frames, shift_divisor, "replicate")
                layers.append(BasicBlock(inputs, outputs, stride if block == 0 else 1, shift))
                inputs = outputs
        self.stages = nn.Sequential(*layers)
        self.first_stride = first

    def forward(self, x: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T D h w"]:
        """Feature maps of every frame."""
        maps = self.stages(self.activation(self.stem(self.average(x.flatten(0, 1)))))
        return cast(Tensor, maps.unflatten(0, x.shape[:2]))


def frame_differences(x: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T C H W"]:
    """x_t - x_{t-1}; zero for the first frame."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], dim=1)


class TinyTDN(TinyResNet):
    """A shifted `TinyResNet` whose stem also sees the difference to the frame before."""

    def __init__(self, size: Size) -> None:
        super().__init__(size, shift_divisor=4)
        self.difference_stem = stem(size.in_channels, size.width, self.first_stride)

    def forward(self, x: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T D h w"]:
        """Feature maps of every frame."""
        pixels = self.average(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        still = self.stem(pixels.flatten(0, 1))
        moving = self.difference_stem(frame_differences(pixels).flatten(0, 1))
        maps = self.stages(self.activation(still + moving))
        return cast(Tensor, maps.unflatten(0, x.shape[:2]))
