"""Every backbone family by its config name.

A temporal backbone maps frames (B, T, C, H, W) to maps (B, T, D, h, w); an image backbone does
the same without looking from one frame to another. A new family is one entry of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from cmkd.backbones.tdn import TinyTDN
from cmkd.backbones.tiny import TinyResNet
from cmkd.config.training import BackboneName


@dataclass(frozen=True)
class Size:
    """Input channels, frames per clip, input size / map size, and channels of the first stage."""

    in_channels: int
    num_frames: int
    total_stride: int
    width: int


@dataclass(frozen=True)
class Family:
    """How to build the two networks of a family; both end in `channels(width)` channels."""

    temporal: Callable[[Size], nn.Module]
    image: Callable[[Size], nn.Module]
    channels: Callable[[int], int]


def _tiny(size: Size, shift_divisor: int | None) -> nn.Module:
    return TinyResNet(
        size.in_channels,
        size.num_frames,
        total_stride=size.total_stride,
        width=size.width,
        shift_divisor=shift_divisor,
    )


def _tiny_tdn(size: Size) -> nn.Module:
    return TinyTDN(
        size.in_channels, size.num_frames, total_stride=size.total_stride, width=size.width
    )


FAMILIES: Mapping[BackboneName, Family] = {
    "tiny_tsm": Family(
        temporal=lambda size: _tiny(size, 4),
        image=lambda size: _tiny(size, None),
        channels=lambda width: 4 * width,
    ),
    "tiny_tdn": Family(
        temporal=_tiny_tdn,
        image=lambda size: _tiny(size, None),
        channels=lambda width: 4 * width,
    ),
}
