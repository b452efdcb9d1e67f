"""Temporal Difference Network on ResNet-50, with both of its modules or the long-term one alone.

Names of parameters and buffers are the official ones less their prefix ``module.base_model.``;
``conv1_temp``, which the official forward never reads, is left out.

Source: MCG-NJU/TDN, ``ops/tdn_net.py`` and ``ops/base_module.py``.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cmkd.backbones.resnet import STRIDE, Bottleneck, initialise, make_stage, run_blocks
from cmkd.config.backbones import Size

SEGMENT = 5
"""Consecutive frames around each sampled one that the short-term module looks at."""

_REDUCTION = 16
_SHIFT_DIVISOR = 8


class MotionAttention(nn.Module):
    """Excitation of channels and positions that differ from the neighbouring frames.

    x + x * y, where y in (-0.5, 0.5) is the mean over both directions; weights are shared by them.
    The official name is ``mSEModule``.
    """

    def __init__(self, channels: int, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        few = channels // _REDUCTION
        self.conv1 = nn.Conv2d(channels, few, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(few)
        self.conv2 = nn.Conv2d(few, few, 3, padding=1, groups=few, bias=False)
        self.conv3 = nn.Conv2d(few, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3_smallscale2 = nn.Conv2d(few, few, 3, padding=1, bias=False)
        self.bn3_smallscale2 = nn.BatchNorm2d(few)
        # Despite its official name this scale is the full one.
        self.conv3_smallscale4 = nn.Conv2d(few, few, 3, padding=1, bias=False)
        self.bn3_smallscale4 = nn.BatchNorm2d(few)

    def forward(self, x: Float[Tensor, "BT C H W"]) -> Float[Tensor, "BT C H W"]:
        """The shape stays; H, W >= 2."""
        own = self.bn1(self.conv1(x))
        other = self.conv2(own).unflatten(0, (-1, self.num_frames))
        own = own.unflatten(0, (-1, self.num_frames))
        # The last frame has no next one and the first none before: their difference is zero.
        ahead = F.pad(other[:, 1:] - own[:, :-1], (0, 0, 0, 0, 0, 0, 0, 1))
        back = F.pad(other[:, :-1] - own[:, 1:], (0, 0, 0, 0, 0, 0, 1, 0))
        # One after the other: batch normalisation sees each direction by itself.
        y = (self._weights(ahead.flatten(0, 1)) + self._weights(back.flatten(0, 1))) / 2
        return x + x * y

    def _weights(self, difference: Float[Tensor, "BT few H W"]) -> Float[Tensor, "BT C H W"]:
        small = self.bn3_smallscale2(self.conv3_smallscale2(F.avg_pool2d(difference, 2)))
        small = F.interpolate(small, difference.shape[2:])
        full = self.bn3_smallscale4(self.conv3_smallscale4(difference))
        return torch.sigmoid(self.bn3(self.conv3((difference + small + full) / 3))) - 0.5


class LearnedShift(nn.Module):
    """Depthwise convolution along time, initialised as TSM's shift."""

    def __init__(self, channels: int, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.conv = nn.Conv1d(channels, channels, 3, padding=1, groups=channels, bias=False)
        fold = channels // _SHIFT_DIVISOR
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:fold, 0, 2] = 1
            self.conv.weight[fold : 2 * fold, 0, 0] = 1
            self.conv.weight[2 * fold :, 0, 1] = 1

    def forward(self, x: Float[Tensor, "BT C H W"]) -> Float[Tensor, "BT C H W"]:
        """Mix each frame with its neighbours; the shape stays."""
        clips = x.unflatten(0, (-1, self.num_frames)).flatten(3).transpose(1, 2)
        # T and HW as two dimensions: 2 to 6 times as fast on a CPU as T brought last for Conv1d.
        mixed = F.conv2d(
            clips, self.conv.weight[..., None], padding=(1, 0), groups=self.conv.groups
        )
        return mixed.transpose(1, 2).reshape(x.shape)


class DifferenceBottleneck(Bottleneck):
    """Long-term module: motion attention and a learned shift before the 3x3 convolution."""

    def __init__(self, inputs: int, planes: int, stride: int, num_frames: int) -> None:
        super().__init__(inputs, planes, stride, LearnedShift(planes, num_frames), bias=True)
        self.mse = MotionAttention(planes, num_frames)

    def forward(self, x: Float[Tensor, "BT C H W"]) -> Float[Tensor, "BT D h w"]:
        """Feature maps at 1 / stride of the size."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.shift(self.mse(out))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return cast(Tensor, self.relu(out + self.downsample(x)))


def _plain(inputs: int, planes: int, stride: int) -> Bottleneck:
    return Bottleneck(inputs, planes, stride, nn.Identity(), bias=True)


class LongTermTDN(nn.Module):
    """TDN without its short-term module, for frames whose neighbours do not exist.

    Attributes:
        checkpointing: whether training computes the activations inside blocks twice.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        assert size.total_stride == STRIDE, size
        self.checkpointing = False
        self.num_frames = size.num_frames

        def block(inputs: int, planes: int, stride: int) -> DifferenceBottleneck:
            return DifferenceBottleneck(inputs, planes, stride, size.num_frames)

        self.conv1 = nn.Conv2d(size.in_channels, 64, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1_bak = make_stage(_plain, 64, 64, 1, 3)
        self.layer2_bak = make_stage(block, 256, 128, 2, 4)
        self.layer3_bak = make_stage(block, 512, 256, 2, 6)
        self.layer4_bak = make_stage(block, 1024, 512, 2, 3)
        initialise(self)

    def forward(self, x: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T 2048 h w"]:
        """Feature maps of every frame at 1 / 32 of the size; H, W > 32."""
        assert x.shape[1] == self.num_frames, (self.num_frames, x.shape)
        maps = self._run(self.layer1_bak, self._stem(x.flatten(0, 1)))
        return cast(Tensor, self._upper(maps).unflatten(0, x.shape[:2]))

    def _run(self, stage: nn.Sequential, maps: Tensor) -> Tensor:
        return run_blocks(stage, maps, self.checkpointing)

    def _stem(self, x: Float[Tensor, "BT C H W"]) -> Float[Tensor, "BT 64 h w"]:
        return cast(Tensor, self.maxpool(self.relu(self.bn1(self.conv1(x)))))

    def _upper(self, maps: Float[Tensor, "BT 256 h w"]) -> Float[Tensor, "BT 2048 p q"]:
        for stage in (self.layer2_bak, self.layer3_bak, self.layer4_bak):
            maps = self._run(stage, maps)
        return maps


class TDN(LongTermTDN):
    """Whole network; takes five consecutive frames around each of the T sampled ones.

    Short-term module: differences of the five frames, at half their size, go through layers of
    their own and are added to the centre frame's maps before and after the first stage. Maps and
    differences count half each for T = 8, and 3 to 1 for other T.
    """

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        self.in_channels = size.in_channels
        self.share = 0.5 if size.num_frames == 8 else 0.25
        stem = nn.Conv2d((SEGMENT - 1) * size.in_channels, 64, 7, 2, 3, bias=False)
        self.conv1_5 = nn.Sequential(stem, nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        self.resnext_layer1 = make_stage(_plain, 64, 64, 1, 3)
        initialise(self.resnext_layer1)
        with torch.no_grad():
            single = torch.empty_like(self.conv1.weight)
            nn.init.kaiming_normal_(single, mode="fan_out", nonlinearity="relu")
            stem.weight.copy_(inflate(single))

    def forward(self, x: Float[Tensor, "B T 5C H W"]) -> Float[Tensor, "B T 2048 h w"]:
        """Feature maps of every centre frame at 1 / 32 of the size; H, W > 32."""
        assert x.shape[1:3] == (self.num_frames, SEGMENT * self.in_channels), x.shape
        five = x.flatten(0, 1).unflatten(1, (SEGMENT, self.in_channels))
        differences = F.avg_pool2d((five[:, 1:] - five[:, :-1]).flatten(1, 2), 2)
        moving = self.maxpool(self.conv1_5(differences))
        maps = self._run(self.layer1_bak, self._mix(self._stem(five[:, SEGMENT // 2]), moving))
        moving = self._run(self.resnext_layer1, moving)
        maps = self._upper(self._mix(maps, moving))
        return cast(Tensor, maps.unflatten(0, x.shape[:2]))

    def _mix(self, maps: Tensor, moving: Tensor) -> Tensor:
        return (1 - self.share) * maps + self.share * F.interpolate(moving, maps.shape[2:])


def inflate(stem: Float[Tensor, "64 C 7 7"]) -> Float[Tensor, "64 4C 7 7"]:
    """First convolution for the four differences, from that for one frame: its channels' mean."""
    return stem.mean(1, keepdim=True).repeat(1, (SEGMENT - 1) * stem.shape[1], 1, 1)
