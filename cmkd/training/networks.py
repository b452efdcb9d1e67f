"""Noise in the shapes that the data layer gives, for what needs a network's input but no clips."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cmkd.config.backbones import Size, find_backbone
from cmkd.config.trial import Setting
from cmkd.data.clip import MOTION_CELL, RESIDUAL_CELL
from cmkd.method.branch import Branch, Resizing, Side
from cmkd.method.student import Branches, Student
from cmkd.training.weights.pretrained import load_into_backbone

BRANCH_BLOCKS = 1
"""Blocks per stage of a branch in the tiny families; the teacher has the two of `Size`."""


def grid_of(backbone: str, picture: Side) -> Side:
    """(h, w) of the maps that a network makes of pictures of this size."""
    stride = find_backbone(backbone).stride_of()
    return -(-picture[0] // stride), -(-picture[1] // stride)


def build_student(
    setting: Setting, picture: Side, num_classes: int, *, cache: Path | None = None
) -> Student:
    """The student network, freshly initialised from torch's generator, or from imported weights.

    Branches are made before the decoder, so that arms with equal seeds start from equal branches.

    Args:
        picture: (height, width) of the I-frames.
        cache: where imported weights are; None ignores those that the setting names.

    Raises:
        InputError: the weights are not there or belong to another network.
    """
    config, inputs = setting.student, setting.inputs
    branches = Branches(
        i_frame=_i_branch(setting),
        motion=_p_branch(setting, picture, MOTION_CELL, 2, config.motion_size, "nearest"),
        residual=_p_branch(setting, picture, RESIDUAL_CELL, 3, config.residual_size, "bilinear"),
        channels=config.channels,
        grid=grid_of(config.backbone, picture),
        i_temporal=_sees_all_i_frames(setting),
    )
    if cache is not None:
        _load_weights(setting, branches, cache)
    return Student(
        branches, inputs.num_frames, num_classes, setting.training.dropout, setting.method
    )


def _sees_all_i_frames(setting: Setting) -> bool:
    """Whether the I-branch looks across I-frames: only a fixed number of GOPs has an order."""
    return (setting.inputs.num_gops or 1) > 1


def _i_branch(setting: Setting) -> nn.Module:
    config = setting.student
    backbone = find_backbone(config.backbone)
    stride = backbone.stride_of()
    if _sees_all_i_frames(setting):
        assert setting.inputs.num_gops is not None
        across = Size(3, setting.inputs.num_gops, stride, config.width, BRANCH_BLOCKS)
        network: nn.Module = backbone.i_temporal(across)
    else:
        network = backbone.image(Size(3, 1, stride, config.width, BRANCH_BLOCKS))
    return network


def _p_branch(
    setting: Setting,
    picture: Side,
    cell: int,
    in_channels: int,
    side: int | None,
    resizing: Resizing,
) -> Branch:
    config, backbone = setting.student, find_backbone(setting.student.backbone_of_p)
    stored = (picture[0] // cell, picture[1] // cell)
    stride = backbone.stride_of(cell)
    size = Size(in_channels, setting.inputs.num_frames, stride, config.width, BRANCH_BLOCKS)
    return Branch(
        backbone.temporal(size),
        input_size=stored,
        resized=stored if side is None else (side, side),
        resizing=resizing,
        stride=stride,
        channels=backbone.channels(config.width),
        out_channels=config.channels,
        grid=grid_of(config.backbone, picture),
    )


def _load_weights(setting: Setting, branches: Branches, cache: Path) -> None:
    config = setting.student
    if config.weights is not None:
        load_into_backbone(branches.i_frame, config.weights, cache, in_channels=3)
    of_p = config.p_weights if config.p_backbone else config.p_weights or config.weights
    if of_p is not None:
        for branch, in_channels in ((branches.motion, 2), (branches.residual, 3)):
            assert isinstance(branch, Branch)
            load_into_backbone(branch.backbone, of_p, cache, in_channels=in_channels)


StudentInputs = tuple[
    Float[Tensor, "B G 3 H W"],
    Int[Tensor, "B T"],
    Float[Tensor, "B T CM HM WM"],
    Float[Tensor, "B T CR HR WR"],
]


class Noise:
    """Standard normal tensors, the same for equal shapes in every process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(len(shape))
        return torch.randn(shape, generator=generator).to(self.device)


def noise_frames(
    setting: Setting, picture: Side, batch: int, noise: Noise
) -> Float[Tensor, "B T C H W"]:
    """What the teacher reads: `batch` views of frames of (height, width) `picture`."""
    return noise(batch, setting.inputs.num_frames, 3 * setting.raw_segment, *picture)


def noise_compressed(setting: Setting, picture: Side, batch: int, noise: Noise) -> StudentInputs:
    """What the student reads: (I-frames, the I-frame of each P-frame, motion maps, residuals)."""
    frames, gops = setting.inputs.num_frames, setting.inputs.num_gops or 1
    segment, (height, width) = setting.compressed_segment, picture
    return (
        noise(batch, gops, 3, height, width),
        (torch.arange(frames, device=noise.device) * gops // frames).expand(batch, -1),
        noise(batch, frames, 2 * segment, height // MOTION_CELL, width // MOTION_CELL),
        noise(batch, frames, 3 * segment, height // RESIDUAL_CELL, width // RESIDUAL_CELL),
    )
