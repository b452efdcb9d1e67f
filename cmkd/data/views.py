"""Fixed augmented views of a clip: one affine map for I-frames, vectors, residuals and RGB (A7).

Coordinates are normalised as `torch.nn.functional.affine_grid` takes them (-1 and 1 are the
outer edges of the picture, ``align_corners=False``), so one matrix serves maps of all strides.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch.nn.functional import affine_grid, grid_sample

from cmkd.config.data import DatasetInfo, ViewsConfig
from cmkd.data.clips import CompressedClip, RawClip

Row = tuple[float, float, float]
IDENTITY: tuple[Row, Row] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
COARSEST_STRIDE = 4
"""Pixels per cell of the motion map; a shift by a multiple of it interpolates nowhere."""


@dataclass(frozen=True)
class View:
    """One view.

    Attributes:
        matrix: 2 x 3, from output to input coordinates (x, y), both normalised.
        phase: in [0, 1), how much earlier inside its segment each frame is sampled.
        flipped_x: mirrored left to right.
        flipped_y: mirrored top to bottom.
    """

    matrix: tuple[Row, Row] = IDENTITY
    phase: float = 0.0
    flipped_x: bool = False
    flipped_y: bool = False


def make_views(config: ViewsConfig, clip_key: str, height: int, width: int) -> tuple[View, ...]:
    """The views of a clip, the same on every machine; view 0 is the clip itself.

    Flips take turns (plain, x, y, both; or plain, x), so that every clip is seen in all of them.
    Shifts are multiples of 4 pixels where nothing is zoomed or turned.

    Args:
        clip_key: decides shifts, zooms, angles and phases; use the clip's path.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
    """
    return (View(), *(_view(config, clip_key, n, height, width) for n in range(1, config.count)))


def _view(config: ViewsConfig, clip_key: str, number: int, height: int, width: int) -> View:
    seed = hashlib.sha256(f"{clip_key}\0{number}".encode()).digest()[:8]
    rng = np.random.default_rng(int.from_bytes(seed, "little"))
    flip_x = config.flip != "none" and number % 2 == 1
    flip_y = config.flip == "both" and number // 2 % 2 == 1
    step = COARSEST_STRIDE if config.scale == config.rotation == 0 else 0
    shift_x = _shift(rng, config.shift * width, step) * 2 / width
    shift_y = _shift(rng, config.shift * height, step) * 2 / height
    zoom = 1 + rng.uniform(-config.scale, config.scale)
    angle = math.radians(rng.uniform(-config.rotation, config.rotation))
    phase = rng.random() if config.phase else 0.0
    # A turn is rigid in pixels; in normalised coordinates it carries the aspect ratio.
    aspect = height / width
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    mirror_x, mirror_y = (-1.0 if flip_x else 1.0), (-1.0 if flip_y else 1.0)
    matrix = (
        (cos * mirror_x, -sin * aspect * mirror_y, shift_x),
        (sin / aspect * mirror_x, cos * mirror_y, shift_y),
    )
    return View(matrix, phase, flip_x, flip_y)


def _shift(rng: np.random.Generator, largest: float, step: int) -> float:
    if step == 0:
        return float(rng.uniform(-largest, largest))
    steps = int(largest // step)
    return float(step * rng.integers(-steps, steps + 1))


def label_of(info: DatasetInfo, label: int, view: View) -> int:
    """The class a view shows: mirrored classes change places as `flip_labels` says."""
    name = info.classes[label]
    for flipped, axis in ((view.flipped_x, "horizontal"), (view.flipped_y, "vertical")):
        if flipped:
            name = info.flip_labels.get(axis, {}).get(name, name)
    return info.classes.index(name)


def apply_view(clip: CompressedClip, raw: RawClip, view: View) -> tuple[CompressedClip, RawClip]:
    """Resample every map of a clip by the view's one affine map, bilinearly.

    What comes into the picture from outside repeats the edge in I-frames and RGB, and is zero in
    motion and residual. Vectors also turn with the picture: they are multiplied by the inverse
    of the linear part, so a horizontal flip negates their x. The view's phase is not applied
    here; it decides which frames `cmkd.data.clips.read_clip` reads.
    """
    if view.matrix == IDENTITY:
        return clip, raw
    height, width = clip.iframes.shape[-2:]
    linear = np.linalg.inv(_linear_in_pixels(view, height, width))
    vectors = np.einsum("ij,tjhw->tihw", linear, clip.motion.astype(np.float64))
    moved = replace(
        clip,
        iframes=_bytes(_resample(clip.iframes, view, "border")),
        motion=_resample(vectors, view, "zeros").astype(np.float16),
        residual=_resample(clip.residual, view, "zeros").astype(np.float16),
    )
    return moved, replace(raw, frames=_bytes(_resample(raw.frames, view, "border")))


def _linear_in_pixels(view: View, height: int, width: int) -> Float64[np.ndarray, "2 2"]:
    linear = np.array(view.matrix)[:, :2]
    side = np.array([width, height], np.float64)
    return np.asarray(linear * side[:, None] / side[None, :])


def _resample(
    maps: np.ndarray, view: View, padding: Literal["border", "zeros"]
) -> Float64[np.ndarray, "N C H W"]:
    # Double precision keeps aligned shifts exact for widths that are no power of two: what
    # leaks from a neighbour is below half a grey level and below float16's smallest number.
    batch = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float64))
    folded = batch.reshape(1, -1, *batch.shape[-2:])
    grid = affine_grid(
        torch.tensor([view.matrix], dtype=torch.float64), list(folded.shape), align_corners=False
    )
    moved = grid_sample(folded, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return np.asarray(moved.reshape(batch.shape).numpy())


def _bytes(maps: Float64[np.ndarray, "N C H W"]) -> UInt8[np.ndarray, "N C H W"]:
    return np.asarray(np.clip(np.rint(maps), 0, 255), np.uint8)
