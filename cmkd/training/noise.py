"""Noise in the shapes that the data layer gives, for what needs a network's input but no clips."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cmkd.config.trial import Setting
from cmkd.data.clips import MOTION_CELL, RESIDUAL_CELL
from cmkd.method.branch import Side

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
