"""Clips read from their MPEG-4 bitstream: inputs of the student and of the teacher.

Axes: T sampled P-frames, G slots for I-frames, H x W pixels; S frames per sampled one, folded
frame by frame into the channels as MCG-NJU/TDN has them (the sampled frame is the middle one). A
motion cell covers 4 x 4 pixels, a residual cell 2 x 2, both starting at pixel (0, 0).

Only GOPs with a frame that is used are decoded, each up to its last such frame. Colour is
computed for the frames that are returned.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Int8, Shaped, UInt8

from cmkd.config.data import ReaderConfig
from cmkd.data.codec.mpeg4 import Frame, Mpeg4Reader, Planes, open_mpeg4
from cmkd.data.color import planes_to_rgb
from cmkd.data.motion import MOTION_CELL as MOTION_CELL
from cmkd.data.motion import RESIDUAL_CELL as RESIDUAL_CELL
from cmkd.data.motion import MotionTrace, pool_motion, pool_residual, residual, step
from cmkd.data.sampling import clip_windows, gop_windows, sample_clip
from cmkd.errors import DataError

_KEPT_BYTES = 31 << 20
"""Just below the largest value of glibc's adaptive threshold."""


@dataclass(frozen=True)
class CompressedClip:
    """Inputs of the student at the T sampled P-frames."""

    iframes: UInt8[np.ndarray, "G 3 H W"]
    """RGB I-frames of the GOPs that are used."""
    gop: Int8[np.ndarray, " T"]
    """Index into `iframes` of each P-frame's GOP."""
    motion: Float16[np.ndarray, "T 2*S H/4 W/4"]
    """Displacement (x, y) in pixels towards the I-frame (accumulated) or the previous frame."""
    residual: Float16[np.ndarray, "T 3*S H/2 W/2"]
    """RGB difference in grey levels, about -255..255."""


@dataclass(frozen=True)
class RawClip:
    """Inputs of the teacher: the decoded frames at the same T positions."""

    frames: UInt8[np.ndarray, "T 3*S H W"]


def read_clip(
    path: Path | str, config: ReaderConfig, *, phase: float = 0.0
) -> tuple[CompressedClip, RawClip]:
    """Read I-frames, motion and residuals of T P-frames, and the decoded frames.

    Segments of several frames are consecutive: the teacher's are frames of the clip, the student's
    P-frames of the same GOP; beyond the ends the nearest one repeats. The residual is always the
    accumulated one.

    Args:
        phase: in [0, 1); see `cmkd.data.sampling`.

    Raises:
        DataError: not a usable MPEG-4 Part 2 file, fewer than T frames, no P-frame, or sides that
            are no multiples of 4.
    """
    compressed, shown = _read(path, config, phase, with_raw=True)
    return compressed, RawClip(shown)


def read_compressed(
    path: Path | str, config: ReaderConfig, *, phase: float = 0.0
) -> CompressedClip:
    """The student's part of `read_clip` alone, as at inference."""
    return _read(path, config, phase, with_raw=False)[0]


def _read(
    path: Path | str, config: ReaderConfig, phase: float, *, with_raw: bool
) -> tuple[CompressedClip, UInt8[np.ndarray, "T 3*S H W"]]:
    inputs = config.inputs
    keep_freed_memory()
    with open_mpeg4(path) as video:
        _require_usable(path, video, inputs.num_frames)
        sample = sample_clip(video.kinds, inputs.num_frames, inputs.num_gops, phase)
        changed = gop_windows(video.kinds, sample.positions, config.compressed_segment)
        raw_positions = sample.positions if with_raw else ()
        shown = clip_windows(video.kinds, raw_positions, config.raw_segment)
        maps = _Maps(video, _distinct(changed), _distinct(shown), sample.intra)
        maps.read(accumulated=inputs.motion == "accumulated")
    slots = np.searchsorted(maps.intra, sample.intra)
    compressed = CompressedClip(
        iframes=maps.iframes if len(slots) == len(maps.intra) else maps.iframes[slots],
        gop=np.array(sample.slot, np.int8),
        motion=_fold(maps.motion, changed),
        residual=_fold(maps.residual, changed),
    )
    return compressed, _fold(maps.frames, shown)


def keep_freed_memory() -> None:
    """Make glibc reuse the memory of freed maps.

    It returns blocks as large as a frame's maps to the system and fetches fresh pages for the
    next, which costs more than the arithmetic on them, unless a block at least as large was freed
    before (mallopt(3), M_MMAP_THRESHOLD). This block is never written to, so it costs nothing.
    """
    np.empty(_KEPT_BYTES, np.uint8)


class _Maps:
    """Output arrays, filled frame by frame so that one frame is held at a time."""

    def __init__(
        self,
        video: Mpeg4Reader,
        changed: Sequence[int],
        shown: Sequence[int],
        intra: Collection[int],
    ) -> None:
        self.video, self.changed, self.shown = video, changed, shown
        self.intra = sorted(set(intra))
        height, width = video.height, video.width
        self.iframes = np.empty((len(self.intra), 3, height, width), np.uint8)
        self.frames = np.empty((len(shown), 3, height, width), np.uint8)
        self.motion = np.empty(
            (len(changed), 2, height // MOTION_CELL, width // MOTION_CELL), np.float16
        )
        self.residual = np.empty(
            (len(changed), 3, height // RESIDUAL_CELL, width // RESIDUAL_CELL), np.float16
        )

    def read(self, *, accumulated: bool) -> None:
        row_of = {index: row for row, index in enumerate(self.changed)}
        rgb = {index: self.frames[row] for row, index in enumerate(self.shown)}
        intra_rgb = {index: self.iframes[row] for row, index in enumerate(self.intra)}
        intra: Planes | None = None
        trace: MotionTrace | None = None
        for frame in self.video.frames({*self.intra, *self.shown}, self.changed):
            if frame.kind == "I":
                intra, trace = frame.picture, None
            elif frame.vectors is not None:
                trace = step(frame.vectors, self.video.height, self.video.width, trace)
            if frame.index in row_of:
                assert trace is not None and intra is not None
                self._set_change(row_of[frame.index], frame, intra, trace, accumulated)
            for targets in (rgb, intra_rgb):
                if frame.index in targets:
                    assert frame.picture is not None
                    targets[frame.index][...] = _rgb(frame.picture)

    def _set_change(
        self, row: int, frame: Frame, intra: Planes, trace: MotionTrace, accumulated: bool
    ) -> None:
        assert frame.picture is not None and frame.warped is not None
        field = (
            trace.displacement
            if accumulated
            else trace.motion.field(self.video.height, self.video.width)
        )
        self.motion[row] = pool_motion(field)
        self.residual[row] = pool_residual(residual(frame.picture, frame.warped, intra, trace))


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
        raise DataError(
            f"{path}: has {len(video.kinds)} frames, {num_frames} are to be sampled; lower "
            "num_frames or prepare the data set with more frames a clip"
        )
    if "P" not in video.kinds:
        raise DataError(f"{path}: has no P-frame; re-encode it with: cmkd data prepare")
    if video.height % MOTION_CELL or video.width % MOTION_CELL:
        raise DataError(
            f"{path}: sides of {video.width}x{video.height} are no multiples of {MOTION_CELL}; "
            "re-encode it with: cmkd data prepare"
        )


def _rgb(picture: Planes) -> UInt8[np.ndarray, "3 H W"]:
    frame: UInt8[np.ndarray, "3 H W"] = planes_to_rgb(*(plane[None] for plane in picture))[0]
    return frame
