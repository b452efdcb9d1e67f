"""A clip as the student and the teacher see it, read from its MPEG-4 bitstream.

Axes: T sampled P-frames, G slots for I-frames, H x W pixels; S frames per sampled one, folded
frame by frame into the channels as MCG-NJU/TDN has them (those of frame 1, then of frame 2, ...;
the sampled frame is the middle one). All maps of a clip share one geometry: a
motion cell covers 4 x 4 pixels, a residual cell 2 x 2, both starting at pixel (0, 0).

The residual is that of CoViAR (Wu et al., CVPR 2018): R_t = F_t - W_t, the decoded frame minus the
I-frame warped by the accumulated motion. W_t is the decoder's own half-pel warp (a second decode
that skips the residuals). Intra blocks of P-frames have no residual to skip, so F_t - W_t is 0
there and wherever motion carries their content later; in those cells W_t is replaced by the
I-frame moved by the accumulated vectors D_t, which restart at 0 in the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float16, Int, Int8, Int16, Shaped, UInt8

from cmkd.config.data import Reading
from cmkd.data.bitstream import Picture, decode_mpeg4
from cmkd.data.colour import difference_to_rgb, planes_to_rgb
from cmkd.data.motion import accumulate, motion_field, taint, warp
from cmkd.data.sampling import clip_windows, gop_windows, intra_of, sample_clip
from cmkd.errors import DataError

MOTION_CELL = 4
RESIDUAL_CELL = 2


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


class Trace(NamedTuple):
    """The motion of one frame of a clip; all zero for an I-frame."""

    field: Int16[np.ndarray, "H W 2"]
    """Half-pels to the previous frame."""
    displacement: Int16[np.ndarray, "H W 2"]
    """Half-pels to the I-frame, accumulated."""
    tainted: Bool[np.ndarray, "H/2 W/2"]
    """Cells with content of an intra block, which does not come from the I-frame."""


class Difference(NamedTuple):
    """A frame minus its prediction, as planes."""

    y: Int16[np.ndarray, "H W"]
    u: Int16[np.ndarray, "H/2 W/2"]
    v: Int16[np.ndarray, "H/2 W/2"]


def read_clip(
    path: Path | str, reading: Reading, *, phase: float = 0.0
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
    full = decode_mpeg4(path, motion=True)
    skipped = decode_mpeg4(path, skip_residual=True)
    inputs = reading.inputs
    _require_usable(path, full, inputs.num_frames)
    kinds = [picture.kind for picture in full]
    sample = sample_clip(kinds, inputs.num_frames, inputs.num_gops, phase)
    changed = gop_windows(kinds, sample.positions, reading.compressed_segment)
    shown = clip_windows(kinds, sample.positions, reading.raw_segment)
    intra, read = intra_of(kinds), _distinct(changed)
    traces = trace(full, set(read))
    differences = [residual(full[at], skipped[at], full[intra[at]], traces[at]) for at in read]
    fields = [
        traces[at].displacement if inputs.motion == "accumulated" else traces[at].field
        for at in read
    ]
    compressed = CompressedClip(
        iframes=_rgb([full[at] for at in sample.intra]),
        gop=np.array(sample.slot, np.int8),
        motion=_fold(_pool_motion(np.stack(fields)), changed),
        residual=_fold(_pool_residual(differences), changed),
    )
    return compressed, RawClip(_fold(_rgb([full[at] for at in _distinct(shown)]), shown))


def _distinct(windows: Sequence[Sequence[int]]) -> list[int]:
    return sorted({index for window in windows for index in window})


def _fold(
    maps: Shaped[np.ndarray, "N C h w"], windows: Sequence[Sequence[int]]
) -> Shaped[np.ndarray, "T S*C h w"]:
    """The maps of each window side by side; `maps` holds those of `_distinct(windows)`."""
    of_windows = maps[np.searchsorted(_distinct(windows), np.array(windows))]
    return of_windows.reshape(len(windows), -1, *maps.shape[2:])


def _require_usable(path: Path | str, pictures: Sequence[Picture], num_frames: int) -> None:
    height, width = pictures[0].y.shape
    if len(pictures) < num_frames:
        raise DataError(
            f"{path}: has {len(pictures)} frames, {num_frames} are to be sampled; lower "
            "num_frames or prepare the data set with more frames a clip"
        )
    if all(picture.kind == "I" for picture in pictures):
        raise DataError(f"{path}: has no P-frame; re-encode it with: cmkd data prepare")
    if height % MOTION_CELL or width % MOTION_CELL:
        raise DataError(
            f"{path}: sides of {width}x{height} are no multiples of {MOTION_CELL}; re-encode it "
            "with: cmkd data prepare"
        )


def trace(pictures: Sequence[Picture], wanted: set[int]) -> dict[int, Trace]:
    """Follow the motion through every GOP; the traces of the `wanted` frames.

    Args:
        pictures: decoded with their vectors, from the first frame on.
    """
    height, width = pictures[0].y.shape
    start = Trace(
        np.zeros((height, width, 2), np.int16),
        np.zeros((height, width, 2), np.int16),
        np.zeros((height // 2, width // 2), np.bool_),
    )
    traces, latest = {}, start
    for index, picture in enumerate(pictures[: max(wanted) + 1]):
        latest = start if picture.kind == "I" else _follow(picture, latest)
        if index in wanted:
            traces[index] = latest
    return traces


def _follow(picture: Picture, previous: Trace) -> Trace:
    field, covered = motion_field(picture.vectors, *picture.y.shape)
    return Trace(
        field,
        accumulate(field, covered, previous.displacement),
        taint(field, covered, previous.tainted),
    )


def residual(picture: Picture, warped: Picture, intra: Picture, at: Trace) -> Difference:
    """R_t: `picture` minus what motion alone makes of the I-frame.

    Args:
        warped: the same frame decoded without residuals.
        intra: the I-frame of its GOP.
    """
    predicted = [warped.y, warped.u, warped.v]
    if at.tainted.any():
        moved = move(intra, at.displacement)
        masks = (at.tainted.repeat(2, axis=0).repeat(2, axis=1), at.tainted, at.tainted)
        predicted = [np.where(*three) for three in zip(masks, moved, predicted, strict=True)]
    actual = (picture.y, picture.u, picture.v)
    return Difference(*(a.astype(np.int16) - p for a, p in zip(actual, predicted, strict=True)))


def move(
    intra: Picture, displacement: Int16[np.ndarray, "H W 2"]
) -> tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H/2 W/2"], UInt8[np.ndarray, "H/2 W/2"]]:
    """The I-frame's planes warped by whole pixels to where `displacement` says they went."""
    chroma = displacement[::2, ::2]
    return (
        warp(intra.y, displacement),
        warp(intra.u, chroma, steps_per_pixel=4),
        warp(intra.v, chroma, steps_per_pixel=4),
    )


def _rgb(pictures: Sequence[Picture]) -> UInt8[np.ndarray, "N 3 H W"]:
    y, u, v = (np.stack(p) for p in zip(*((p.y, p.u, p.v) for p in pictures), strict=True))
    return planes_to_rgb(y, u, v)


def _pool_motion(fields: Int16[np.ndarray, "T H W 2"]) -> Float16[np.ndarray, "T 2 H/4 W/4"]:
    sums = _sum_2x2(_sum_2x2(fields.transpose(0, 3, 1, 2).astype(np.int32)))
    half_pels = sums / np.float32(MOTION_CELL**2)
    return (half_pels / 2).astype(np.float16)


def _pool_residual(differences: Sequence[Difference]) -> Float16[np.ndarray, "T 3 h w"]:
    y, u, v = (np.stack(planes) for planes in zip(*differences, strict=True))
    luma = _sum_2x2(y) / np.float32(RESIDUAL_CELL**2)
    return difference_to_rgb(luma, u.astype(np.float32), v.astype(np.float32)).astype(np.float16)


def _sum_2x2(maps: Int[np.ndarray, "*N H W"]) -> Int[np.ndarray, "*N H/2 W/2"]:
    rows = maps[..., 0::2, :] + maps[..., 1::2, :]
    cells: Int[np.ndarray, "*N H/2 W/2"] = rows[..., 0::2] + rows[..., 1::2]
    return cells
