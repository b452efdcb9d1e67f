"""Motion and residual maps of MPEG-4 P-frames that point back to the I-frame.

Axes: H x W luma pixels; the last axis of a displacement is (x, y). Displacements are whole numbers
of half-pels and point from a pixel to the source of its content (source minus destination).
Between whole pixels the nearest is taken, halves towards zero, so that a mirrored video gives a
mirrored map. A frame's own motion is constant in blocks of 8 x 8 pixels and is handled by block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float16, Int, Int16, Int64, Shaped, UInt8

from cmkd.data.color import difference_to_rgb
from cmkd.data.mpeg4 import Planes

MOTION_CELL = 4
"""Pixels a side of a cell of the motion map."""
RESIDUAL_CELL = 2
"""Pixels a side of a cell of the residual map."""
BLOCK = 8
"""Pixels; also four cells of 2 x 2 pixels."""


class BlockMotion(NamedTuple):
    """Motion of a frame's 8 x 8 blocks; the last ones may stick out of the picture."""

    steps: Int16[np.ndarray, "h8 w8 2"]
    """Half-pels to the previous frame, 0 where there is no vector."""
    covered: Bool[np.ndarray, "h8 w8"]
    """Blocks with a vector (zero if skipped); the others are intra."""

    def field(self, height: int, width: int) -> Int16[np.ndarray, "H W 2"]:
        """`steps` of every pixel."""
        return _repeat(self.steps, height, width)

    def intra(self, height: int, width: int) -> Bool[np.ndarray, "H W"]:
        """Pixels of intra blocks."""
        return _repeat(~self.covered, height, width)


def block_motion(vectors: np.ndarray, height: int, width: int) -> BlockMotion:
    """Map of a frame's block vectors.

    Args:
        vectors: one frame's structured array (`cmkd.data.mpeg4.VECTORS`), half-pel units,
            square blocks of 16 or 8 pixels.
    """
    # Macroblocks may stick out of the picture: the maps have whole ones.
    rows, columns = -(-height // 16), -(-width // 16)
    steps = np.zeros((2 * rows, 2 * columns, 2), np.int16)
    covered = np.zeros((2 * rows, 2 * columns), np.bool_)
    sizes = vectors["w"]
    for size in (16, 8):
        blocks = vectors[sizes == size]
        if not len(blocks):
            continue
        per_block = size // BLOCK
        # Centres are odd multiples of half a block.
        row, column = blocks["dst_y"] // size, blocks["dst_x"] // size
        motion = np.stack([blocks["motion_x"], blocks["motion_y"]], axis=-1)
        tiles = (len(steps) // per_block, per_block, steps.shape[1] // per_block, per_block)
        steps.reshape(*tiles, 2)[row, :, column] = motion[:, None, None]
        covered.reshape(tiles)[row, :, column] = True
    shown = np.s_[: -(-height // BLOCK), : -(-width // BLOCK)]
    return BlockMotion(steps[shown], covered[shown])


def accumulate(
    motion: BlockMotion, previous: Int16[np.ndarray, "H W 2"]
) -> Int16[np.ndarray, "H W 2"]:
    """Accumulated motion: D_t(x) = m_t(x) + D_{t-1}(x + m_t(x)).

    Sums are exact in half-pels; the position at which D_{t-1} is read is rounded to a pixel.
    Intra blocks have no source and restart at 0. After an I-frame `previous` is 0.
    """
    height, width = previous.shape[:2]
    # Both coordinates as one 32-bit word; intra blocks read the line of zeros below the picture.
    pairs = _padded(np.ascontiguousarray(previous).view(np.int32)[None, ..., 0], BLOCK, below=1)
    top, left = _starts(_whole_pixels(motion.steps, steps_per_pixel=2), height, width, BLOCK)
    top = np.where(motion.covered[:, None], top, height)
    fetched = _windows(pairs, BLOCK)[0, top, left]
    total = fetched.view(np.int16).reshape(len(top), BLOCK, -1, 2)
    total += motion.steps.repeat(BLOCK, axis=1)[:, None]
    cut: Int16[np.ndarray, "H W 2"] = total.reshape(-1, *total.shape[2:])[:height, :width]
    return cut


def propagate_intra(
    motion: BlockMotion, previous: Bool[np.ndarray, "H/2 W/2"]
) -> Bool[np.ndarray, "H/2 W/2"]:
    """Mask of the 2 x 2 cells whose motion chain meets an intra block after the I-frame.

    A cell is marked if any sample is that luma or chroma interpolation may read, so unmarked cells
    come from the I-frame alone. (Chroma of a macroblock with four vectors moves by their mean,
    which is not followed; `encode` writes none.) After an I-frame `previous` is False.
    """
    height, width = previous.shape
    intra = _repeat(~motion.covered, height, width, BLOCK // 2)
    if not previous.any():
        return intra
    # A step by part of a cell reads two cells. Four maps: the cell itself, with its right
    # neighbour, with the one below, with all three. One more line at the top and left.
    maps = np.empty((4, height + 1, width + 1), np.bool_)
    alone, right, below, both = maps
    alone[1:, 1:] = previous
    alone[0, 1:], alone[:, 0] = previous[0], alone[:, 1]
    right[...] = alone
    right[:, :-1] |= alone[:, 1:]
    for source, target in ((alone, below), (right, both)):
        target[...] = source
        target[:-1] |= source[1:]
    across, down = (motion.steps & 3 != 0).transpose(2, 0, 1)
    cells = BLOCK // 2
    top, left = _starts((motion.steps.astype(np.int64) >> 2) + 1, height + 1, width + 1, cells)
    reached = _windows(_padded(maps, cells), cells)[(across + 2 * down)[:, None], top, left]
    lines = reached.view(np.bool_).reshape(-1, cells * across.shape[1])
    mask: Bool[np.ndarray, "H/2 W/2"] = lines[:height, :width] | intra
    return mask


def fetch(
    plane: Shaped[np.ndarray, "H W"],
    rows: Int64[np.ndarray, " N"],
    columns: Int64[np.ndarray, " N"],
    displacement: Int16[np.ndarray, "N 2"],
    *,
    steps_per_pixel: int = 2,
) -> Shaped[np.ndarray, " N"]:
    """Pixels at the sources of the given ones; beyond an edge, the pixel at the edge.

    Args:
        displacement: in steps.
        steps_per_pixel: 2 for luma in half-pels, 4 for a chroma plane moved by luma half-pels.
    """
    height, width = plane.shape
    whole = _whole_pixels(displacement, steps_per_pixel)
    flat = _clamped(rows + whole[:, 1], height) * width
    flat += _clamped(columns + whole[:, 0], width)
    fetched: Shaped[np.ndarray, " N"] = np.ascontiguousarray(plane).reshape(-1).take(flat)
    return fetched


def _whole_pixels(
    steps: Int16[np.ndarray, "*N 2"], steps_per_pixel: int
) -> Int64[np.ndarray, "*N 2"]:
    half, bits = steps_per_pixel // 2, steps_per_pixel.bit_length() - 1
    return (steps.astype(np.int64) + (half - 1) + (steps < 0)) >> bits


def _starts(
    whole: Int64[np.ndarray, "h8 w8 2"], height: int, width: int, block: int
) -> tuple[Int64[np.ndarray, "h8 block w8"], Int64[np.ndarray, "h8 1 w8"]]:
    """Row and column in `_windows` of the source of each line of each block.

    Samples at an edge repeat beyond it, so starts are clamped at `block` samples outside.
    """
    rows, columns = len(whole), whole.shape[1]
    top = whole[:, None, :, 1] + np.arange(rows * block).reshape(rows, block, 1)
    left = whole[..., 0] + np.arange(block, (columns + 1) * block, block)
    return _clamped(top, height), _clamped(left, width + block + 1)[:, None]


def _padded(
    maps: Shaped[np.ndarray, "N H W"], margin: int, below: int = 0
) -> Shaped[np.ndarray, "N H+below W+2*margin"]:
    """Maps with the left and right edges repeated, and lines of zeros below."""
    count, height, width = maps.shape
    padded = np.empty((count, height + below, width + 2 * margin), maps.dtype)
    padded[:, :height, margin : margin + width] = maps
    padded[:, :height, :margin] = maps[:, :, :1]
    padded[:, :height, margin + width :] = maps[:, :, -1:]
    padded[:, height:] = 0
    return padded


def _windows(maps: Shaped[np.ndarray, "N H W"], length: int) -> np.ndarray:
    """View of the `length` samples from each position on as one item, copied in one go."""
    count, height, width = maps.shape
    item = np.dtype((np.void, length * maps.itemsize))
    return np.ndarray((count, height, width - length + 1), item, maps, 0, maps.strides)


def _clamped(index: Int[np.ndarray, "*N"], size: int) -> Int[np.ndarray, "*N"]:
    # np.clip spends more on checking its bounds than on a small picture.
    np.maximum(index, 0, out=index)
    np.minimum(index, size - 1, out=index)
    return index


def _repeat(
    blocks: Shaped[np.ndarray, "h8 w8 *C"], height: int, width: int, size: int = BLOCK
) -> Shaped[np.ndarray, "H W *C"]:
    return blocks.repeat(size, axis=1)[:, :width].repeat(size, axis=0)[:height]


_CORNERS = np.array([[0, 0, 1, 1], [0, 1, 0, 1]]).reshape(2, 4, 1)
"""Rows and columns of a cell's four pixels; the first is at its chroma sample."""


class MotionTrace(NamedTuple):
    """Motion of one P-frame, traced back to its I-frame."""

    motion: BlockMotion
    """Towards the previous frame."""
    displacement: Int16[np.ndarray, "H W 2"]
    """Half-pels to the I-frame, accumulated."""
    intra_mask: Bool[np.ndarray, "H/2 W/2"]
    """Cells with content of an intra block, which does not come from the I-frame."""


def step(vectors: np.ndarray, height: int, width: int, previous: MotionTrace | None) -> MotionTrace:
    """Trace of the next P-frame of a GOP; `previous` is None after the I-frame."""
    motion = block_motion(vectors, height, width)
    if previous is None:
        clean = np.zeros((height // 2, width // 2), np.bool_)
        return MotionTrace(motion, motion.field(height, width), propagate_intra(motion, clean))
    return MotionTrace(
        motion,
        accumulate(motion, previous.displacement),
        propagate_intra(motion, previous.intra_mask),
    )


class Difference(NamedTuple):
    """A frame minus its prediction, as planes."""

    y: Int16[np.ndarray, "H W"]
    u: Int16[np.ndarray, "H/2 W/2"]
    v: Int16[np.ndarray, "H/2 W/2"]


def residual(picture: Planes, warped: Planes, intra: Planes, trace: MotionTrace) -> Difference:
    """R_t: `picture` minus its prediction from the I-frame by motion alone.

    Args:
        warped: the same frame decoded without residuals.
        intra: the I-frame of its GOP.
    """
    found = Difference(
        *(np.subtract(a, b, dtype=np.int16) for a, b in zip(picture, warped, strict=True))
    )
    rows, columns = np.nonzero(trace.intra_mask)
    if not len(rows):
        return found
    height, width = picture.y.shape
    # Flat indices; both coordinates of a vector as one 32-bit word.
    vectors = np.ascontiguousarray(trace.displacement).view(np.int32).reshape(-1)
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
    indices: Int64[np.ndarray, " N"],
    picture: UInt8[np.ndarray, "H W"],
    moved: UInt8[np.ndarray, " N"],
) -> None:
    shown = np.ascontiguousarray(picture).reshape(-1).take(indices)
    found.reshape(-1)[indices] = np.subtract(shown, moved, dtype=np.int16)


def pool_motion(field: Int16[np.ndarray, "H W 2"]) -> Float16[np.ndarray, "2 H/4 W/4"]:
    """Mean motion of each cell in pixels."""
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


def pool_residual(difference: Difference) -> Float16[np.ndarray, "3 H/2 W/2"]:
    """Mean RGB difference of each cell."""
    luma = _sum_2x2(difference.y) / np.float32(RESIDUAL_CELL**2)
    planes = (plane[None].astype(np.float32) for plane in (luma, difference.u, difference.v))
    maps: Float16[np.ndarray, "3 H/2 W/2"] = difference_to_rgb(*planes)[0].astype(np.float16)
    return maps


def _sum_2x2(maps: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "H/2 W/2"]:
    rows = maps[0::2] + maps[1::2]
    cells: Int[np.ndarray, "H/2 W/2"] = rows[:, 0::2] + rows[:, 1::2]
    return cells
