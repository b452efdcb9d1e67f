"""What a P-frame has of its own: its motion towards the I-frame, and its residual.

The residual is that of CoViAR (Wu et al., CVPR 2018): R_t = F_t - W_t, the decoded frame minus the
I-frame warped by the accumulated motion. W_t is the decoder's own half-pel warp (a decoder that
skips the residuals). Intra blocks of P-frames have no residual to skip, so F_t - W_t is 0 there
and wherever motion carries their content later; in those cells W_t is replaced by the I-frame
moved by the accumulated vectors D_t, which restart at 0 in the block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float16, Int, Int16, Int64, UInt8

from cmkd.data.bitstream import Planes
from cmkd.data.colour import difference_to_rgb
from cmkd.data.motion import BlockMotion, accumulate, block_motion, fetch, taint

MOTION_CELL = 4
RESIDUAL_CELL = 2
_CORNERS = np.array([[0, 0, 1, 1], [0, 1, 0, 1]]).reshape(2, 4, 1)
"""Rows and columns of a cell's four pixels; the first is where its chroma sample lies."""


class Trace(NamedTuple):
    """The motion of one P-frame of a clip."""

    motion: BlockMotion
    """Towards the previous frame."""
    displacement: Int16[np.ndarray, "H W 2"]
    """Half-pels to the I-frame, accumulated."""
    tainted: Bool[np.ndarray, "H/2 W/2"]
    """Cells with content of an intra block, which does not come from the I-frame."""


class Difference(NamedTuple):
    """A frame minus its prediction, as planes."""

    y: Int16[np.ndarray, "H W"]
    u: Int16[np.ndarray, "H/2 W/2"]
    v: Int16[np.ndarray, "H/2 W/2"]


def follow(vectors: np.ndarray, height: int, width: int, previous: Trace | None) -> Trace:
    """The trace of a P-frame; `previous` is that of the frame before, None after an I-frame."""
    motion = block_motion(vectors, height, width)
    if previous is None:
        clean = np.zeros((height // 2, width // 2), np.bool_)
        return Trace(motion, motion.field(height, width), taint(motion, clean))
    return Trace(motion, accumulate(motion, previous.displacement), taint(motion, previous.tainted))


def residual(picture: Planes, warped: Planes, intra: Planes, at: Trace) -> Difference:
    """R_t: `picture` minus what motion alone makes of the I-frame.

    Args:
        warped: the same frame decoded without residuals.
        intra: the I-frame of its GOP.
    """
    found = Difference(
        *(np.subtract(a, b, dtype=np.int16) for a, b in zip(picture, warped, strict=True))
    )
    rows, columns = np.nonzero(at.tainted)
    if not len(rows):
        return found
    height, width = picture.y.shape
    # Places are numbers into what lies flat, and both coordinates travel as one word.
    vectors = np.ascontiguousarray(at.displacement).view(np.int32).reshape(-1)
    y, x = (2 * rows + _CORNERS[0]).reshape(-1), (2 * columns + _CORNERS[1]).reshape(-1)
    luma, chroma = y * width + x, rows * (width // 2) + columns
    displacement = vectors.take(luma).view(np.int16).reshape(-1, 2)
    _replace(found.y, luma, picture.y, fetch(intra.y, y, x, displacement))
    first = displacement[: len(rows)]
    for plane in (1, 2):
        moved = fetch(intra[plane], rows, columns, first, steps_per_pixel=4)
        _replace(found[plane], chroma, picture[plane], moved)
    return found


def _replace(
    found: Int16[np.ndarray, "H W"],
    places: Int64[np.ndarray, " N"],
    picture: UInt8[np.ndarray, "H W"],
    moved: UInt8[np.ndarray, " N"],
) -> None:
    shown = np.ascontiguousarray(picture).reshape(-1).take(places)
    found.reshape(-1)[places] = np.subtract(shown, moved, dtype=np.int16)


def pool_motion(field: Int16[np.ndarray, "H W 2"]) -> Float16[np.ndarray, "2 H/4 W/4"]:
    """Half-pels of pixels to mean pixels of cells."""
    height, width = field.shape[:2]
    lines = field.reshape(-1, MOTION_CELL, 2 * width).astype(np.int32)
    # Adding four slices is several times faster than a sum over so short an axis.
    sums = lines[:, 0] + lines[:, 1] + (lines[:, 2] + lines[:, 3])
    half_pels = np.empty((2, height // MOTION_CELL, width // MOTION_CELL), np.float32)
    for axis in (0, 1):
        first, second, third, fourth = (
            sums[:, axis + 2 * pixel :: 2 * MOTION_CELL] for pixel in range(MOTION_CELL)
        )
        half_pels[axis] = first + second + (third + fourth)
    half_pels /= MOTION_CELL**2
    return (half_pels / 2).astype(np.float16)


def pool_residual(of: Difference) -> Float16[np.ndarray, "3 H/2 W/2"]:
    """Differences of planes to mean RGB differences of cells."""
    luma = _sum_2x2(of.y) / np.float32(RESIDUAL_CELL**2)
    planes = (plane[None].astype(np.float32) for plane in (luma, of.u, of.v))
    maps: Float16[np.ndarray, "3 H/2 W/2"] = difference_to_rgb(*planes)[0].astype(np.float16)
    return maps


def _sum_2x2(maps: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "H/2 W/2"]:
    rows = maps[0::2] + maps[1::2]
    cells: Int[np.ndarray, "H/2 W/2"] = rows[:, 0::2] + rows[:, 1::2]
    return cells
