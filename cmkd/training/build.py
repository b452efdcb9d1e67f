"""Builds the networks of a setting, and random inputs in the shapes that the data layer gives."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cmkd.config.backbones import Size, find_backbone
from cmkd.config.trial import Setting, StudentConfig, TeacherConfig
from cmkd.data.clip import MOTION_CELL, RESIDUAL_CELL
from cmkd.method.networks import Branch, Branches, Resizing, Side, Student, Teacher
from cmkd.training.weights import load_into_backbone

Role = Literal["teacher", "student"]
StudentInputs = tuple[
    Float[Tensor, "N G 3 H W"],
    Int[Tensor, "B T"],
    Float[Tensor, "B T CM HM WM"],
    Float[Tensor, "B T CR HR WR"],
]


def grid_of(backbone: str, picture: Side) -> Side:
    """(h, w) of the maps that a network makes of pictures of this size."""
    stride = find_backbone(backbone).stride_of()
    return -(-picture[0] // stride), -(-picture[1] // stride)


def build_teacher(setting: Setting, num_classes: int) -> Teacher:
    """Teacher network, freshly initialised from torch's generator."""
    recipe = setting.teacher
    backbone = find_backbone(recipe.backbone)
    frames, stride = setting.inputs.num_frames, backbone.stride_of()
    size = Size(3, frames, stride, recipe.width, frozen=recipe.frozen)
    return Teacher(backbone.temporal(size), recipe.channels, num_classes, recipe.training.dropout)


def build_student(
    setting: Setting, picture: Side, num_classes: int, *, cache: Path | None = None
) -> Student:
    """Student network, freshly initialised from torch's generator, or from imported weights.

    Branches are made before the decoder, so that arms with equal seeds start from equal branches.

    Args:
        picture: (height, width) of the I-frames.
        cache: holds the imported weights; None ignores those that the setting names.

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
    )
    if cache is not None:
        _load_weights(setting, branches, cache)
    return Student(
        branches, inputs.num_frames, num_classes, setting.training.dropout, setting.method
    )


def sees_all_i_frames(setting: Setting) -> bool:
    """True if the I-branch looks across I-frames: only a fixed number of GOPs has an order."""
    return (setting.inputs.num_gops or 1) > 1


def _i_branch(setting: Setting) -> nn.Module:
    config, backbone = setting.student, find_backbone(setting.student.backbone)
    across = sees_all_i_frames(setting)
    frames = setting.inputs.num_gops or 1 if across else 1
    build = backbone.i_temporal if across else backbone.image
    size = Size(3, frames, backbone.stride_of(), config.width, frozen=config.frozen)
    return cast(nn.Module, build(size))


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
    size = Size(in_channels, setting.inputs.num_frames, stride, config.width)
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


def build(setting: Setting, role: Role, picture: Side, num_classes: int) -> nn.Module:
    """Teacher or student of a setting, freshly initialised."""
    if role == "teacher":
        return build_teacher(setting, num_classes)
    return build_student(setting, picture, num_classes)


def _seen_of_frame(
    setting: Setting, recipe: StudentConfig | TeacherConfig, picture: Side, segment: int
) -> tuple[int, ...]:
    """Shape of a frame, or segment of frames, in training, or of its maps behind frozen stages."""
    if not recipe.frozen or setting.inputs.views == "fresh":
        return 3 * segment, *picture
    backbone = find_backbone(recipe.backbone)
    with torch.device("meta"):
        size = Size(3, 1, backbone.stride_of(), recipe.width, frozen=recipe.frozen)
        build = backbone.image if segment == 1 else backbone.temporal
        maps: Tensor = build(size).frozen_maps(torch.empty(1, 3 * segment, *picture))
    return tuple(maps.shape[1:])


def noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard normal tensor, the same for equal shapes in any process."""
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator).to(device)


def random_inputs(
    setting: Setting, role: Role, picture: Side, batch: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Arguments of `Teacher.forward` or `Student.forward` for `batch` views, as `noise`.

    Args:
        picture: (height, width) of the frames.
    """
    frames, gops = setting.inputs.num_frames, setting.inputs.num_gops or 1
    if role == "teacher":
        shape = _seen_of_frame(setting, setting.teacher, picture, setting.raw_segment)
        return (noise((batch, frames, *shape), device),)
    segment, (height, width) = setting.compressed_segment, picture
    own = torch.arange(frames, device=device) * gops // frames
    motion = (2 * segment, height // MOTION_CELL, width // MOTION_CELL)
    residual = (3 * segment, height // RESIDUAL_CELL, width // RESIDUAL_CELL)
    return (
        noise((batch, gops, *_seen_of_frame(setting, setting.student, picture, 1)), device),
        own + gops * torch.arange(batch, device=device)[:, None],
        noise((batch, frames, *motion), device),
        noise((batch, frames, *residual), device),
    )
