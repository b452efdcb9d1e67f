"""A clip as the student and the teacher see it, read from its MPEG-4 bitstream.

Axes: T sampled P-frames, G slots for I-frames, H x W pixels; S frames per sampled one, folded
frame by frame into the channels as MCG-NJU/TDN has them (those of frame 1, then of frame 2, ...;
the sampled frame is the middle one). All maps of a clip share one geometry: a
motion cell covers 4 x 4 pixels, a residual cell 2 x 2, both starting at pixel (0, 0).

Only GOPs with a frame that is used are decoded, each up to its last such frame. Pictures stay
planes in the decoder's own memory, and colour is computed of what is handed out alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Int8, Shaped, UInt8

from cmkd.config.data import ReaderConfig
from cmkd.data.codec import Frame, Mpeg4Clip, Planes, open_mpeg4
from cmkd.data.color import planes_to_rgb
from cmkd.data.motion import MOTION_CELL as MOTION_CELL
from cmkd.data.motion import RESIDUAL_CELL as RESIDUAL_CELL
from cmkd.data.motion import Trace, follow, pool_motion, pool_residual, residual
from cmkd.data.sampling import clip_windows, gop_windows, sample_clip
from cmkd.errors import DataError

_ROOM = 31 << 20
"""Bytes; just below the most that glibc's threshold grows to."""


@dataclass(frozen=True)
class CompressedClip:
    """What the student sees of a clip at its T sampled P-frames."""

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
    """What the teacher sees: the decoded frames at the same T positions."""

    frames: UInt8[np.ndarray, "T 3*S H W"]


def read_clip(
    path: Path | str, reading: ReaderConfig, *, phase: float = 0.0
) -> tuple[CompressedClip, RawClip]:
    """Read the I-frames, motion and residuals of T P-frames, and those frames as the teacher's.

    Segments of several frames are consecutive: the teacher's are frames of the clip, the student's
    P-frames of the same GOP; what lies beyond the ends repeats the nearest one. The residual is
    the accumulated one whatever motion is asked for.

    Args:
        phase: in [0, 1); see `cmkd.data.sampling`.

    Raises:
        DataError: not a usable MPEG-4 Part 2 file, fewer than T frames, no P-frame, or sides that
            are no multiples of 4.
    """
    compressed, shown = _read(path, reading, phase, with_raw=True)
    return compressed, RawClip(shown)


def read_compressed(
    path: Path | str, reading: ReaderConfig, *, phase: float = 0.0
) -> CompressedClip:
    """`read_clip` of the student's part alone, as at inference."""
    return _read(path, reading, phase, with_raw=False)[0]


def _read(
    path: Path | str, reading: ReaderConfig, phase: float, *, with_raw: bool
) -> tuple[CompressedClip, UInt8[np.ndarray, "T 3*S H W"]]:
    inputs = reading.inputs
    keep_freed_memory()
    with open_mpeg4(path) as video:
        _require_usable(path, video, inputs.num_frames)
        sample = sample_clip(video.kinds, inputs.num_frames, inputs.num_gops, phase)
        changed = gop_windows(video.kinds, sample.positions, reading.compressed_segment)
        raw_positions = sample.positions if with_raw else ()
        shown = clip_windows(video.kinds, raw_positions, reading.raw_segment)
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
    """Have the next maps lie where the last ones were.

    Maps of a frame are large enough for glibc to return them to the system at once and to fetch
    fresh pages for the next, which cost more than the arithmetic on them. It stops doing so for
    blocks up to the size of the largest one freed so far (mallopt(3), M_MMAP_THRESHOLD), and this
    one, never written to, costs nothing. Elsewhere it does nothing.
    """
    np.empty(_ROOM, np.uint8)


class _Maps:
    """Arrays that are filled frame by frame, so that one frame is held at a time."""

    def __init__(
        self,
        video: Mpeg4Clip,
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
        places = {at: place for place, at in enumerate(self.changed)}
        rgb = {at: self.frames[place] for place, at in enumerate(self.shown)}
        intra_rgb = {at: self.iframes[place] for place, at in enumerate(self.intra)}
        intra: Planes | None = None
        trace: Trace | None = None
        for frame in self.video.frames({*self.intra, *self.shown}, self.changed):
            if frame.kind == "I":
                intra, trace = frame.picture, None
            elif frame.vectors is not None:
                trace = follow(frame.vectors, self.video.height, self.video.width, trace)
            if frame.index in places:
                assert trace is not None and intra is not None
                self._change(places[frame.index], frame, intra, trace, accumulated)
            for targets in (rgb, intra_rgb):
                if frame.index in targets:
                    assert frame.picture is not None
                    targets[frame.index][...] = _rgb(frame.picture)

    def _change(
        self, place: int, frame: Frame, intra: Planes, trace: Trace, accumulated: bool
    ) -> None:
        assert frame.picture is not None and frame.warped is not None
        field = (
            trace.displacement
            if accumulated
            else trace.motion.field(self.video.height, self.video.width)
        )
        self.motion[place] = pool_motion(field)
        self.residual[place] = pool_residual(residual(frame.picture, frame.warped, intra, trace))


def _distinct(windows: Sequence[Sequence[int]]) -> list[int]:
    return sorted({index for window in windows for index in window})


def _fold(
    maps: Shaped[np.ndarray, "N C h w"], windows: Sequence[Sequence[int]]
) -> Shaped[np.ndarray, "T S*C h w"]:
    """The maps of each window side by side; `maps` holds those of `_distinct(windows)`."""
    if not windows:
        return maps
    places = np.searchsorted(_distinct(windows), np.array(windows))
    if np.array_equal(places.reshape(-1), np.arange(len(maps))):
        return maps.reshape(len(windows), -1, *maps.shape[2:])
    return maps[places].reshape(len(windows), -1, *maps.shape[2:])


def _require_usable(path: Path | str, video: Mpeg4Clip, num_frames: int) -> None:
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
