"""Backbones: one table of everything that the package asks about a network.

A backbone maps frames (B, T, C, H, W) to feature maps (B, T, D, h, w). Backbones of other packages
are named ``module:object`` in a spec, or registered as entry points of the group `cmkd.backbones`;
both lead to a `Backbone`. See ``docs/extending.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, WithJsonSchema

from cmkd.config.paths import load_plugin

FREE_STRIDE = 16
"""Picture size / map size of backbones that leave it open."""


class ChannelStats(NamedTuple):
    """Mean and standard deviation of R, G and B in grey levels."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = ChannelStats((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Channel statistics that published weights of TSM, TDN and torchvision expect."""
LITE = ChannelStats((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
"""Channel statistics of EfficientNet-Lite; tensorflow/tpu, ``efficientnet_lite_builder.py``."""
NATURAL = ChannelStats((114.0, 114.0, 114.0), (58.0, 58.0, 58.0))
"""Natural video; brings pictures to about zero mean, unit deviation."""


@dataclass(frozen=True)
class Size:
    """Shape of the network to build.

    Attributes:
        in_channels: of one frame: 3 for pictures and residuals, 2 for motion vectors.
        num_frames: frames per clip.
        total_stride: input size / map size, rounded up.
        width: channels of the first stage; backbones of fixed width ignore it.
        blocks: blocks per stage; backbones of fixed depth ignore it.
        frozen: first stages that keep their weights; see `Backbone.stages`.
    """

    in_channels: int
    num_frames: int
    total_stride: int
    width: int
    blocks: int = 1
    frozen: int = 0


Builder = Callable[[Size], Any]
"""Makes a freshly initialised ``torch.nn.Module``."""


@dataclass(frozen=True)
class Backbone:
    """Entry of the table.

    Attributes:
        name: in specs.
        family: rows of a report are grouped by it; each family has a teacher of its own.
        channels: of the last feature maps, by `Size.width`.
        temporal: builds the network that looks across frames: teacher, motion, residual.
        image: builds the network that sees every frame alone: I-frames.
        i_temporal: builds the network that looks across I-frames, which have no consecutive
            neighbours.
        segment: consecutive frames, folded into the channels, that `temporal` reads per sampled
            frame; odd.
        stride: the only `Size.total_stride` that it can have; None where 1, 2, 4, 8 and 16 can.
        in_paper: it has rows in the paper's tables; no other is compared with printed accuracies.
        stages: most that `Size.frozen` can name. The module's `frozen_maps` then gives their maps
            (N, D, h, w) of single frames or segments, D not their channels, and it takes those in
            place of pictures.
        scalable: `Size.width` and `Size.blocks` are free; for small networks on CPUs.
        normalisation: of its RGB input.
        eval_batch: clips per batch that fit into memory without gradients.
        probe_batch: clips per batch of the steps that are measured before a sweep.
    """

    name: str
    family: str
    channels: Callable[[int], int]
    temporal: Builder
    image: Builder
    i_temporal: Builder
    segment: int = 1
    stride: int | None = 32
    in_paper: bool = False
    stages: int = 0
    scalable: bool = False
    normalisation: ChannelStats = IMAGENET
    eval_batch: int = 8
    probe_batch: int = 2

    def __post_init__(self) -> None:
        if self.segment < 1 or self.segment % 2 == 0:
            raise ValueError(f"backbone {self.name}: segment {self.segment} must be odd")

    def stride_of(self, cell: int = 1) -> int:
        """Input size / map size on maps with one value per `cell` x `cell` pixels.

        With a free stride, all kinds of maps lead to one grid.
        """
        return self.stride or FREE_STRIDE // cell


def _lazy(path: str, **arguments: Any) -> Builder:
    """Builder ``module:function``, imported when it is first called."""
    return lambda size: load_plugin("backbone", path)(size, **arguments)


_RESNET = "cmkd.backbones.resnet:ResNet"
_LITE = "cmkd.backbones.efficientnet:EfficientNetLite0"
_DIFFERENCES = "cmkd.backbones.efficientnet:DifferenceLite0"
_TINY_TSM = _lazy("cmkd.backbones.tiny:TinyResNet", shift_divisor=4)


def _tiny(name: str, family: str, temporal: Builder) -> Backbone:
    return Backbone(
        name,
        family,
        channels=lambda width: 4 * width,
        temporal=temporal,
        image=_lazy("cmkd.backbones.tiny:TinyResNet"),
        i_temporal=_TINY_TSM,
        stride=None,
        scalable=True,
        normalisation=NATURAL,
        eval_batch=64,
        probe_batch=8,
    )


def _tsm(depth: int, channels: int) -> Backbone:
    shifted = _lazy(_RESNET, depth=depth, shifted=True)
    return Backbone(
        f"tsm_r{depth}",
        "TSM",
        channels=lambda _: channels,
        temporal=shifted,
        image=_lazy(_RESNET, depth=depth),
        i_temporal=shifted,
        in_paper=depth == 50,
    )


def _lite_tiny(name: str, family: str, temporal: str, segment: int = 1) -> Backbone:
    return Backbone(
        name,
        family,
        channels=lambda width: 4 * width,
        temporal=_lazy(temporal, shifted=True, tiny=True),
        image=_lazy(_LITE, tiny=True),
        i_temporal=_lazy(_LITE, shifted=True, tiny=True),
        segment=segment,
        stride=FREE_STRIDE,
        stages=7,
        normalisation=LITE,
        eval_batch=16,
    )


_ENTRIES = (
    _tiny("tiny_tsm", "TSM", _TINY_TSM),
    _tiny("tiny_tdn", "TDN", _lazy("cmkd.backbones.tiny:TinyTDN")),
    _tsm(18, 512),
    _tsm(34, 512),
    _tsm(50, 2048),
    Backbone(
        "tsm_lite0",
        "TSM",
        channels=lambda _: 1280,
        temporal=_lazy(_LITE, shifted=True),
        image=_lazy(_LITE),
        i_temporal=_lazy(_LITE, shifted=True),
        stages=7,
        normalisation=LITE,
        eval_batch=16,
    ),
    _lite_tiny("tsm_lite0_tiny", "TSM", _LITE),
    _lite_tiny("tdn_lite0_tiny", "TDN", _DIFFERENCES, segment=3),
    Backbone(
        "tdn_r50",
        "TDN",
        channels=lambda _: 2048,
        temporal=_lazy("cmkd.backbones.tdn:TDN"),
        image=_lazy(_RESNET, depth=50),
        i_temporal=_lazy("cmkd.backbones.tdn:LongTermTDN"),
        segment=5,
        in_paper=True,
    ),
)
BACKBONES: Mapping[str, Backbone] = {entry.name: entry for entry in _ENTRIES}
"""Backbones of this package."""


@cache
def find_backbone(name: str) -> Backbone:
    """Entry of a backbone: of this package, an entry point, or ``module:object``.

    Raises:
        ValueError: there is none, or it cannot be imported; lists the known names.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    found = load_plugin("backbone", name, known=BACKBONES)
    entry = getattr(found, "backbone", found)  # A network class may carry its entry.
    if not isinstance(entry, Backbone):
        raise ValueError(
            f"{name} is a {type(found).__name__}, not a cmkd.config.backbones.Backbone"
        )
    return entry


def _known(name: str) -> str:
    find_backbone(name)
    return name


BackboneName = Annotated[
    str,
    AfterValidator(_known),
    WithJsonSchema({"anyOf": [{"enum": list(BACKBONES)}, {"type": "string"}]}),
]
"""Name of a backbone that exists."""
