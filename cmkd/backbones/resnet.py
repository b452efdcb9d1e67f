"""ResNet-18, 34 and 50 without classifier, plain or with the Temporal Shift Module in every block.

Names of parameters and buffers are torchvision's, so that its ImageNet files (without ``fc``) and,
less their prefixes, those of TSM fit as they are.

Sources: torchvision.models.resnet (the "v1.5" with its stride in the 3x3 convolution);
mit-han-lab/temporal-shift-module, ``blockres`` (the shift stands before the first convolution of a
residual block, inside the residual branch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from cmkd.config.backbones import Size

Depth = Literal[18, 34, 50]
Edge = Literal["zero", "replicate"]
STRIDE = 32
"""Input size / map size, rounded up."""

_SHIFT_DIVISOR = 8
_PLANES = (64, 128, 256, 512)
_BLOCKS: dict[Depth, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
}


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


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; `shift` acts before the first of them."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, shift: nn.Module) -> None:
        super().__init__()
        self.shift = shift
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(inputs, planes, stride, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Feature maps at 1 / stride of the size."""
        out = self.relu(self.bn1(self.conv1(self.shift(x))))
        out = self.bn2(self.conv2(out))
        return cast(Tensor, self.relu(out + self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut; `shift` acts before the first of them.

    Args:
        inputs: channels of the input; the output has 4 * planes.
        planes: channels of the 3x3 convolution.
        stride: of the 3x3 convolution and the shortcut.
        shift: keeps the shape.
        bias: whether the convolutions have one, as TDN's do.
    """

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, stride: int, shift: nn.Module, bias: bool = False
    ) -> None:
        super().__init__()
        self.shift = shift
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=bias)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = shortcut(inputs, 4 * planes, stride, bias)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Feature maps at 1 / stride of the size."""
        out = self.relu(self.bn1(self.conv1(self.shift(x))))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return cast(Tensor, self.relu(out + self.downsample(x)))


def shortcut(inputs: int, outputs: int, stride: int, bias: bool) -> nn.Module:
    """Nothing where the shape stays, else a strided 1x1 convolution with normalisation."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=bias), nn.BatchNorm2d(outputs))


def make_stage(
    block: Callable[[int, int, int], nn.Module], inputs: int, planes: int, stride: int, count: int
) -> nn.Sequential:
    """`count` bottleneck or basic blocks; `block` is called with (inputs, planes, stride)."""
    first = block(inputs, planes, stride)
    outputs = planes * cast(int, first.expansion)
    return nn.Sequential(first, *(block(outputs, planes, 1) for _ in range(count - 1)))


def initialise(network: nn.Module) -> None:
    """Kaiming's normal weights by fan-out for 2-D convolutions, whose biases stay as they are."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResNet(nn.Module):
    """Last feature maps, 512 channels (18, 34) or 2048 (50), at 1 / 32 of the size.

    Args:
        depth: layers with weights.
        shifted: True if blocks look one frame ahead and back; else every frame is seen alone.

    Attributes:
        checkpointing: whether training computes the activations inside blocks twice.
    """

    def __init__(self, size: Size, *, depth: Depth, shifted: bool = False) -> None:
        super().__init__()
        assert size.total_stride == STRIDE, size
        self.checkpointing = False
        self.num_frames = size.num_frames if shifted else None
        kind = Bottleneck if depth == 50 else BasicBlock

        def block(inputs: int, planes: int, stride: int) -> nn.Module:
            shift = TemporalShift(size.num_frames, _SHIFT_DIVISOR) if shifted else nn.Identity()
            return kind(inputs, planes, stride, shift)

        self.conv1 = nn.Conv2d(size.in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        wide, counts = [planes * kind.expansion for planes in _PLANES], _BLOCKS[depth]
        self.layer1 = make_stage(block, 64, _PLANES[0], 1, counts[0])
        self.layer2 = make_stage(block, wide[0], _PLANES[1], 2, counts[1])
        self.layer3 = make_stage(block, wide[1], _PLANES[2], 2, counts[2])
        self.layer4 = make_stage(block, wide[2], _PLANES[3], 2, counts[3])
        initialise(self)

    def forward(self, x: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T D h w"]:
        """Feature maps of every frame."""
        assert self.num_frames in (None, x.shape[1]), (self.num_frames, x.shape)
        maps = self.maxpool(self.relu(self.bn1(self.conv1(x.flatten(0, 1)))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = run_blocks(stage, maps, self.checkpointing)
        return cast(Tensor, maps.unflatten(0, x.shape[:2]))


def run_blocks(
    blocks: Iterable[nn.Module], x: Float[Tensor, "N C H W"], recompute: bool
) -> Float[Tensor, "N D h w"]:
    """Run blocks in order; `recompute` keeps only their inputs for the backward pass.

    Gradients and running statistics are those of the plain pass. Blocks must not be random.
    """
    for block in blocks:
        x = _recomputed(block, x) if recompute and torch.is_grad_enabled() else block(x)
    return x


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    # A compiled graph has its side effects once, and the compiler takes no contexts of ours.
    if not torch.compiler.is_compiling():
        options["context_fn"] = lambda: (nullcontext(), _statistics_kept(block))
    return cast(Tensor, checkpoint(block, x, **options))


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    # The second pass would move the running statistics by the same batch once more.
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
