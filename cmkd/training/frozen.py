"""Maps behind the frozen stages of a backbone, computed once for all rows of the clip arrays.

They depend on weights and pictures alone, so all trials and teachers of a data set share them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float16, UInt8
from torch import Tensor

from cmkd.config.backbones import Size, find_backbone
from cmkd.config.base import content_id
from cmkd.config.trial import StudentConfig, TeacherConfig, TrialConfig
from cmkd.data.decoded_cache import READER, ClipArrays
from cmkd.errors import InputError
from cmkd.io import create_array, load_array, mark_used
from cmkd.training.outcome import read_finished, write_finished
from cmkd.training.runtime import to_device
from cmkd.training.weights import load_into_backbone

Part = Literal["student", "teacher"]

FILE, RECORD = "maps.npy", "maps.json"
ROWS = 8
"""Rows between two writes."""
PICTURES, CPU_PICTURES = 64, 4
"""Pictures of one forward pass; on a CPU larger maps are fresh pages each time, which cost more
than the convolutions."""


def frozen_maps(
    config: TrialConfig,
    part: Part,
    arrays: ClipArrays,
    cache: Path,
    norm: tuple[Tensor, Tensor],
) -> Float16[np.ndarray, "R T D h w"]:
    """Mapped maps of the student's I-frames or the teacher's frames, made if they are not there.

    Args:
        norm: mean and standard deviation of the pictures, on the device to compute on.

    Raises:
        InputError: the weights are not there.
        InfrastructureError: the disk is full, or files were damaged.
    """
    setting = config.setting
    recipe = setting.student if part == "student" else setting.teacher
    network = {"backbone": recipe.backbone, "weights": recipe.weights, "frozen": recipe.frozen}
    owner = content_id("frozen", READER, config.data_id, setting.reading, part, network)
    folder = cache / "frozen" / owner
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{owner}.lock")):
        if not (folder / RECORD).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            pictures = arrays.iframes if part == "student" else arrays.frames
            network = imported_network(recipe, cache, norm[0].device, segments=part == "teacher")
            _compute(network, pictures, norm, folder / FILE)
            write_finished(folder / RECORD, owner, (FILE,), {})
    mark_used(folder)
    read_finished(folder / RECORD, owner)
    return load_array(folder / FILE, mapped=True)


def imported_network(
    recipe: StudentConfig | TeacherConfig,
    cache: Path,
    device: torch.device,
    *,
    segments: bool = False,
    complete: bool = False,
) -> Any:
    """Backbone of single frames with the weights that the recipe names, in evaluation mode.

    Args:
        segments: whether a frame comes with its neighbours, as it does for teachers.
        complete: whether the weights must be those of all layers.

    Raises:
        InputError: the weights are not there, belong to another network, or are not complete.
    """
    assert recipe.weights is not None, "`Setting` refuses this"
    backbone = find_backbone(recipe.backbone)
    build = backbone.temporal if segments else backbone.image
    network = build(Size(3, 1, backbone.stride_of(), recipe.width, frozen=recipe.frozen))
    fresh = load_into_backbone(network, recipe.weights, cache, in_channels=3)
    if complete and fresh:
        raise InputError(
            f"weights {recipe.weights} leave {', '.join(fresh)} of {recipe.backbone} random; "
            "choose the backbone that they were made for"
        )
    return to_device(network, device).eval()


def _compute(
    network: Any,
    pictures: UInt8[np.ndarray, "R T 3*S H W"],
    norm: tuple[Tensor, Tensor],
    path: Path,
) -> None:
    mean, std = norm
    size = CPU_PICTURES if mean.device.type == "cpu" else PICTURES

    @torch.no_grad()
    def maps_of(rows: slice) -> Tensor:
        found = torch.from_numpy(np.array(pictures[rows])).to(mean.device)
        parts = found.flatten(0, 1).unflatten(1, (-1, 3)).split(size)
        normed = (((part.float() - mean) / std).flatten(1, 2) for part in parts)
        maps = torch.cat([network.frozen_maps(part) for part in normed])
        return cast(Tensor, maps.unflatten(0, found.shape[:2]).half().cpu())

    shape = (*pictures.shape[:2], *maps_of(slice(0, 1)).shape[2:])
    purpose = "maps of frozen stages; freeze none or set inputs.views: fresh"
    file = create_array(path, np.float16, shape, purpose)
    for start in range(0, len(pictures), ROWS):
        file[start : start + ROWS] = maps_of(slice(start, start + ROWS)).numpy()
    file.flush()
