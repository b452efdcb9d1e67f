"""The teacher's network: built, and as a finished one that only looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cmkd.config.backbones import Size, find_backbone
from cmkd.config.trial import Setting, TrialConfig
from cmkd.method.teacher import Teacher
from cmkd.training.checkpoint import read_tensors
from cmkd.training.runtime import autocast, place

WEIGHTS_FILE = "teacher.safetensors"


def build_teacher(setting: Setting, num_classes: int) -> Teacher:
    """The teacher network, freshly initialised from torch's generator."""
    recipe = setting.teacher
    backbone = find_backbone(recipe.backbone)
    size = Size(3, setting.inputs.num_frames, backbone.stride_of(), recipe.width)
    return Teacher(backbone.temporal(size), recipe.channels, num_classes, recipe.training.dropout)


def load_teacher(config: TrialConfig, folder: Path, num_classes: int) -> Teacher:
    """The network of the finished teacher in `folder`, in evaluation mode."""
    teacher = build_teacher(config.setting, num_classes)
    weights = read_tensors(folder / WEIGHTS_FILE, remedy=f"the folder {folder}")
    teacher.load_state_dict(weights)
    return teacher.eval().requires_grad_(False)


@dataclass(frozen=True)
class FrozenTeacher:
    """A finished teacher: never trained again.

    Attributes:
        network: in evaluation mode.
        precision: of its forward pass, as in its training.
        batch: clips that fit into memory together.
    """

    network: Teacher
    precision: Literal["fp32", "bf16"]
    batch: int
    device: torch.device

    def __call__(
        self, frames: Float[Tensor, "B T C H W"]
    ) -> tuple[Float[Tensor, "B T D h w"], Float[Tensor, "B K"]]:
        """(h, logits) in fp32; see `Teacher.forward`."""
        with torch.no_grad(), autocast(self.precision, self.device):
            h, logits = self.network(frames)
        return h.float(), logits.float()


def open_frozen(
    config: TrialConfig, folder: Path, num_classes: int, device: torch.device
) -> FrozenTeacher:
    """The finished teacher in `folder`."""
    recipe = config.setting.teacher
    network = place(load_teacher(config, folder, num_classes), device)
    batch = find_backbone(recipe.backbone).eval_batch
    return FrozenTeacher(network, recipe.training.precision, batch, device)


def teacher_folder(config: TrialConfig, cache: Path) -> Path:
    """Where the teacher of this trial is kept."""
    return cache / "teachers" / config.teacher_id
