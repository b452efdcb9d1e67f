"""Clips read from their MPEG-4 bitstream: inputs of the student and of the teacher.

Axes: T sampled P-frames, G slots for I-frames, H x W pixels; S frames per sampled one, folded
frame by frame into the channels as MCG-NJU/TDN has them (the sampled frame is the middle one). A
motion cell covers 4 x 4 pixels, a residual cell 2 x 2, both starting at pixel (0, 0).

Only GOPs with a frame that is used are decoded, each up to its last such frame. Colour is
computed for the frames that are returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Int8, Shaped, UInt8

from cmkd.config.data import ReaderConfig
from cmkd.data.color import fill_rgb
from cmkd.data.motion import MOTION_CELL as MOTION_CELL
from cmkd.data.motion import RESIDUAL_CELL as RESIDUAL_CELL
from cmkd.data.motion import MotionTrace, pool_motion, pool_residual, residual, step
from cmkd.data.mpeg4 import Mpeg4Reader, Planes, open_mpeg4
from cmkd.data.sampling import clip_windows, gop_windows, sample_clip
from cmkd.data.video import REENCODE
from cmkd.errors import FileError

_KEPT_BYTES = 31 << 20
"""Just below the largest value of glibc's adaptive threshold."""


@dataclass(frozen=True)
class Clip:
    """Inputs of the student at the T sampled P-frames, and of the teacher at the same positions."""

    iframes: UInt8[np.ndarray, "G 3 H W"]
    """RGB I-frames of the GOPs that are used."""
    gop: Int8[np.ndarray, " T"]
    """Index into `iframes` of each P-frame's GOP."""
    motion: Float16[np.ndarray, "T 2*S H/4 W/4"]
    """Displacement (x, y) in pixels towards the I-frame (accumulated) or the previous frame."""
    residual: Float16[np.ndarray, "T 3*S H/2 W/2"]
    """RGB difference in grey levels, about -255..255."""
    frames: UInt8[np.ndarray, "T 3*S H W"]
    """Decoded RGB frames of the teacher."""


def read_clip(
    path: Path | str,
    config: ReaderConfig,
    *,
    phase: float = 0.0,
    compressed: bool = True,
    frames: bool = True,
) -> Clip:
    """Read I-frames, motion and residuals of T P-frames, and the decoded frames.

    Segments of several frames are consecutive: the teacher's are frames of the clip, the student's
    P-frames of the same GOP; beyond the ends the nearest one repeats. The residual is always the
    accumulated one.

    Args:
        phase: in [0, 1); see `cmkd.data.sampling`.
        compressed: read what the student sees; its arrays are empty otherwise.
        frames: read what the teacher sees; empty otherwise, as at inference.

    Raises:
        FileError: not a usable MPEG-4 Part 2 file, fewer than T frames, no P-frame, or sides that
            are no multiples of 4.
    """
    inputs = config.inputs
    keep_freed_memory()
    with open_mpeg4(path) as video:
        _require_usable(path, video, inputs.num_frames)
        sample = sample_clip(video.kinds, inputs.num_frames, inputs.num_gops, phase)
        if not compressed:
            sample = sample._replace(intra=[])
        positions = sample.positions if compressed else ()
        changed = gop_windows(video.kinds, positions, config.compressed_segment)
        positions = sample.positions if frames else ()
        shown = clip_windows(video.kinds, positions, config.raw_segment)
        intra = sorted(set(sample.intra))
        iframes, motion, residuals, pictures = _read_maps(
            video,
            intra,
            _distinct(changed),
            _distinct(shown),
            accumulated=inputs.motion == "accumulated",
        )
    slots = np.searchsorted(intra, sample.intra)
    return Clip(
        iframes=iframes if len(slots) == len(intra) else iframes[slots],
        gop=np.array(sample.slot, np.int8),
        motion=_fold(motion, changed),
        residual=_fold(residuals, changed),
        frames=_fold(pictures, shown),
    )


def keep_freed_memory() -> None:
    """Make glibc reuse the memory of freed maps.

    It returns blocks as large as a frame's maps to the system and fetches fresh pages for the
    next, which costs more than the arithmetic on them, unless a block at least as large was freed
    before (mallopt(3), M_MMAP_THRESHOLD). This block is never written to, so it costs nothing.
    """
    np.empty(_KEPT_BYTES, np.uint8)


def _read_maps(
    video: Mpeg4Reader,
    intra: Sequence[int],
    changed: Sequence[int],
    shown: Sequence[int],
    *,
    accumulated: bool,
) -> tuple[
    UInt8[np.ndarray, "I 3 H W"],
    Float16[np.ndarray, "C 2 H/4 W/4"],
    Float16[np.ndarray, "C 3 H/2 W/2"],
    UInt8[np.ndarray, "R 3 H W"],
]:
    """I-frames, motion and residuals of the changed frames, and RGB of the shown ones.

    They are filled frame by frame so that one decoded frame is held at a time.
    """
    height, width = video.height, video.width
    iframes = np.empty((len(intra), 3, height, width), np.uint8)
    frames = np.empty((len(shown), 3, height, width), np.uint8)
    cells = height // MOTION_CELL, width // MOTION_CELL
    motion = np.empty((len(changed), 2, *cells), np.float16)
    cells = height // RESIDUAL_CELL, width // RESIDUAL_CELL
    residuals = np.empty((len(changed), 3, *cells), np.float16)
    row_of = {index: row for row, index in enumerate(changed)}
    targets = [dict(zip(intra, iframes, strict=True)), dict(zip(shown, frames, strict=True))]
    opening: Planes | None = None
    trace: MotionTrace | None = None
    for frame in video.frames({*intra, *shown}, changed):
        if frame.kind == "I":
            opening, trace = frame.picture, None
        elif frame.vectors is not None:
            trace = step(frame.vectors, height, width, trace)
        if frame.index in row_of:
            assert opening and trace and frame.picture and frame.warped
            row = row_of[frame.index]
            field = trace.displacement if accumulated else trace.motion.field(height, width)
            motion[row] = pool_motion(field)
            residuals[row] = pool_residual(residual(frame.picture, frame.warped, opening, trace))
        for rgb_of in targets:
            if frame.index in rgb_of:
                assert frame.picture
                fill_rgb(*frame.picture, rgb_of[frame.index])
    return iframes, motion, residuals, frames


def _distinct(windows: Sequence[Sequence[int]]) -> list[int]:
    return sorted({index for window in windows for index in window})


def _fold(
    maps: Shaped[np.ndarray, "N C h w"], windows: Sequence[Sequence[int]]
) -> Shaped[np.ndarray, "T S*C h w"]:
    """Maps of each window side by side; `maps` holds those of `_distinct(windows)`."""
    if not windows:
        return maps
    rows = np.searchsorted(_distinct(windows), np.array(windows))
    if np.array_equal(rows.reshape(-1), np.arange(len(maps))):
        return maps.reshape(len(windows), -1, *maps.shape[2:])
    return maps[rows].reshape(len(windows), -1, *maps.shape[2:])


def _require_usable(path: Path | str, video: Mpeg4Reader, num_frames: int) -> None:
    if len(video.kinds) < num_frames:
        reason = f"has {len(video.kinds)} frames, {num_frames} are to be sampled"
        remedy = "lower num_frames or prepare the data set with more frames a clip"
        raise FileError(path, reason, remedy)
    if "P" not in video.kinds:
        raise FileError(path, "has no P-frame", REENCODE)
    if video.height % MOTION_CELL or video.width % MOTION_CELL:
        sides = f"{video.width}x{video.height}"
        raise FileError(path, f"sides of {sides} are no multiples of {MOTION_CELL}", REENCODE)
