"""Every backbone family by its config name.

A network maps frames (B, T, C, H, W) to maps (B, T, D, h, w). A new family is one entry of
`FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from cmkd.backbones.resnet import STRIDE, Depth, ResNet
from cmkd.backbones.tdn import TDN, LongTermTDN
from cmkd.backbones.tiny import TinyResNet, TinyTDN
from cmkd.config.training import BackboneName, channels_of


@dataclass(frozen=True)
class Size:
    """Channels of one frame, frames per clip, input size / map size (rounded up), channels of the
    first stage, and blocks per stage; the last three are free in the tiny families alone, see
    `Family.stride`."""

    in_channels: int
    num_frames: int
    total_stride: int
    width: int
    blocks: int = 2


@dataclass(frozen=True)
class Family:
    """How to build the networks of a family; all end in `channels(width)` channels.

    Attributes:
        temporal: looks from one frame to another; `cmkd.config.training.segment_of` says how many
            consecutive frames, folded into the channels, it wants in place of each.
        image: sees every frame alone.
        i_temporal: looks across I-frames, which have no consecutive neighbours.
        stride: the only `Size.total_stride` that its networks have; None where it can be chosen.
    """

    temporal: Callable[[Size], nn.Module]
    image: Callable[[Size], nn.Module]
    i_temporal: Callable[[Size], nn.Module]
    channels: Callable[[int], int]
    stride: int | None


def _tiny(size: Size, shift_divisor: int | None) -> nn.Module:
    return TinyResNet(
        size.in_channels,
        size.num_frames,
        total_stride=size.total_stride,
        width=size.width,
        blocks=size.blocks,
        shift_divisor=shift_divisor,
    )


def _tiny_tdn(size: Size) -> nn.Module:
    return TinyTDN(
        size.in_channels,
        size.num_frames,
        total_stride=size.total_stride,
        width=size.width,
        blocks=size.blocks,
    )


def _resnet(size: Size, depth: Depth, shifted: bool) -> nn.Module:
    assert size.total_stride == STRIDE, size
    return ResNet(depth, size.in_channels, shifted_frames=size.num_frames if shifted else None)


def _tdn(size: Size, network: type[LongTermTDN]) -> nn.Module:
    assert size.total_stride == STRIDE, size
    return network(size.in_channels, size.num_frames)


def _tsm(name: Literal["tsm_r18", "tsm_r34", "tsm_r50"], depth: Depth) -> Family:
    return Family(
        temporal=lambda size: _resnet(size, depth, True),
        image=lambda size: _resnet(size, depth, False),
        i_temporal=lambda size: _resnet(size, depth, True),
        channels=partial(channels_of, name),
        stride=STRIDE,
    )


FAMILIES: Mapping[BackboneName, Family] = {
    "tiny_tsm": Family(
        temporal=lambda size: _tiny(size, 4),
        image=lambda size: _tiny(size, None),
        i_temporal=lambda size: _tiny(size, 4),
        channels=partial(channels_of, "tiny_tsm"),
        stride=None,
    ),
    "tiny_tdn": Family(
        temporal=_tiny_tdn,
        image=lambda size: _tiny(size, None),
        i_temporal=lambda size: _tiny(size, 4),
        channels=partial(channels_of, "tiny_tdn"),
        stride=None,
    ),
    "tsm_r18": _tsm("tsm_r18", 18),
    "tsm_r34": _tsm("tsm_r34", 34),
    "tsm_r50": _tsm("tsm_r50", 50),
    "tdn_r50": Family(
        temporal=lambda size: _tdn(size, TDN),
        image=lambda size: _resnet(size, 50, False),
        i_temporal=lambda size: _tdn(size, LongTermTDN),
        channels=partial(channels_of, "tdn_r50"),
        stride=STRIDE,
    ),
}
