"""Motion and residual maps of MPEG-4 P-frames that point back to the I-frame.

Axes: H x W luma pixels; the last axis of a displacement is (x, y). Displacements are whole numbers
of half-pels and point from a pixel to the source of its content (source minus destination).
Between whole pixels the nearest is taken, halves towards zero, so that a mirrored video gives a
mirrored map. A frame's own motion is constant in blocks of 8 x 8 pixels and is handled by block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float16, Int16, Shaped

from cmkd.data.color import difference_to_rgb
from cmkd.data.mpeg4 import Planes
from cmkd.data.native import compiled, to_half

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
    blocks = -(-height // BLOCK), -(-width // BLOCK)
    motion = BlockMotion(np.zeros((*blocks, 2), np.int16), np.zeros(blocks, np.bool_))
    _place(vectors, *motion)
    return motion


@compiled
def _place(vectors: np.ndarray, steps: np.ndarray, covered: np.ndarray) -> None:
    rows, columns = covered.shape
    for number in range(len(vectors)):
        one = vectors[number]
        side = one.w // BLOCK
        # Centres are odd multiples of half a block. Macroblocks may stick out of the picture.
        top, left = one.dst_y // one.w * side, one.dst_x // one.w * side
        for row in range(top, min(top + side, rows)):
            for column in range(left, min(left + side, columns)):
                covered[row, column] = True
                steps[row, column, 0], steps[row, column, 1] = one.motion_x, one.motion_y


def accumulate(
    motion: BlockMotion, previous: Int16[np.ndarray, "H W 2"]
) -> Int16[np.ndarray, "H W 2"]:
    """Accumulated motion: D_t(x) = m_t(x) + D_{t-1}(x + m_t(x)).

    Sums are exact in half-pels; the position at which D_{t-1} is read is rounded to a pixel.
    Intra blocks have no source and restart at 0. After an I-frame `previous` is 0.
    """
    total = previous.copy()
    _accumulate(*motion, previous, total)
    return total


@compiled
def _accumulate(
    steps: np.ndarray, covered: np.ndarray, previous: np.ndarray, total: np.ndarray
) -> None:
    height, width = total.shape[:2]
    for row in range(0, height, BLOCK):
        for column in range(0, width, BLOCK):
            block = row // BLOCK, column // BLOCK
            moves, x, y = covered[block], steps[block][0], steps[block][1]
            if moves and x == y == 0:
                continue
            # Whole pixels; halves go towards zero.
            left, down = column + ((x + (x < 0)) >> 1), (y + (y < 0)) >> 1
            inside = 0 <= left <= width - BLOCK and column <= width - BLOCK
            for line in range(row, min(row + BLOCK, height)):
                source = min(max(line + down, 0), height - 1)
                if moves and inside:
                    for at in range(BLOCK):
                        total[line, column + at, 0] = x + previous[source, left + at, 0]
                        total[line, column + at, 1] = y + previous[source, left + at, 1]
                else:
                    for at in range(min(BLOCK, width - column)):
                        there = min(max(left + at, 0), width - 1)
                        total[line, column + at, 0] = x + previous[source, there, 0] if moves else 0
                        total[line, column + at, 1] = y + previous[source, there, 1] if moves else 0


def propagate_intra(
    motion: BlockMotion, previous: Bool[np.ndarray, "H/2 W/2"]
) -> Bool[np.ndarray, "H/2 W/2"]:
    """Mask of the 2 x 2 cells whose motion chain meets an intra block after the I-frame.

    A cell is marked if any sample is that luma or chroma interpolation may read, so unmarked cells
    come from the I-frame alone. (Chroma of a macroblock with four vectors moves by their mean,
    which is not followed; `encode` writes none.) After an I-frame `previous` is False.
    """
    mask = previous.copy()
    _propagate(*motion, previous, mask)
    return mask


@compiled
def _propagate(
    steps: np.ndarray, covered: np.ndarray, previous: np.ndarray, mask: np.ndarray
) -> None:
    height, width = mask.shape
    cells = BLOCK // 2
    for top in range(0, height, cells):
        for first in range(0, width, cells):
            block = top // cells, first // cells
            starts, x, y = not covered[block], steps[block][0], steps[block][1]
            if not starts and x == y == 0:
                continue
            for row in range(top, min(top + cells, height)):
                # A step by part of a cell reads two cells.
                above = min(max(row + (y >> 2), 0), height - 1)
                below = min(max(row + (y + 3 >> 2), 0), height - 1)
                for column in range(first, min(first + cells, width)):
                    left = min(max(column + (x >> 2), 0), width - 1)
                    right = min(max(column + (x + 3 >> 2), 0), width - 1)
                    upper = previous[above, left] | previous[above, right]
                    lower = previous[below, left] | previous[below, right]
                    mask[row, column] = starts | upper | lower


def _repeat(
    blocks: Shaped[np.ndarray, "h8 w8 *C"], height: int, width: int, size: int = BLOCK
) -> Shaped[np.ndarray, "H W *C"]:
    return blocks.repeat(size, axis=1)[:, :width].repeat(size, axis=0)[:height]


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
    found = Difference(*(np.empty(plane.shape, np.int16) for plane in picture))
    _subtract(picture, warped, intra, trace.displacement, trace.intra_mask, found)
    return found


@compiled
def _subtract(
    picture: Planes,
    warped: Planes,
    intra: Planes,
    displacement: np.ndarray,
    mask: np.ndarray,
    found: Difference,
) -> None:
    for plane in range(3):
        for row in range(found[plane].shape[0]):
            for column in range(found[plane].shape[1]):
                found[plane][row, column] = picture[plane][row, column] - warped[plane][row, column]
    height, width = mask.shape
    for row in range(height):
        for column in range(width):
            if not mask[row, column]:
                continue
            for line in range(2 * row, 2 * row + 2):
                for at in range(2 * column, 2 * column + 2):
                    x, y = displacement[line, at, 0], displacement[line, at, 1]
                    there = min(max(line + ((y + (y < 0)) >> 1), 0), 2 * height - 1)
                    where = min(max(at + ((x + (x < 0)) >> 1), 0), 2 * width - 1)
                    found.y[line, at] = picture.y[line, at] - intra.y[there, where]
            x, y = displacement[2 * row, 2 * column, 0], displacement[2 * row, 2 * column, 1]
            there = min(max(row + ((y + 1 + (y < 0)) >> 2), 0), height - 1)
            where = min(max(column + ((x + 1 + (x < 0)) >> 2), 0), width - 1)
            found.u[row, column] = picture.u[row, column] - intra.u[there, where]
            found.v[row, column] = picture.v[row, column] - intra.v[there, where]


def pool_motion(field: Int16[np.ndarray, "H W 2"]) -> Float16[np.ndarray, "2 H/4 W/4"]:
    """Mean motion of each cell in pixels."""
    height, width = field.shape[:2]
    pixels = np.empty((2, height // MOTION_CELL, width // MOTION_CELL), np.float32)
    _pool(field, pixels)
    return to_half(pixels)


@compiled
def _pool(field: np.ndarray, pixels: np.ndarray) -> None:
    for row in range(pixels.shape[1]):
        for column in range(pixels.shape[2]):
            x = y = 0
            for line in range(MOTION_CELL * row, MOTION_CELL * (row + 1)):
                for at in range(MOTION_CELL * column, MOTION_CELL * (column + 1)):
                    x, y = x + field[line, at, 0], y + field[line, at, 1]
            pixels[0, row, column] = x / np.float32(2 * MOTION_CELL**2)
            pixels[1, row, column] = y / np.float32(2 * MOTION_CELL**2)


def pool_residual(difference: Difference) -> Float16[np.ndarray, "3 H/2 W/2"]:
    """Mean RGB difference of each cell."""
    return to_half(difference_to_rgb(*difference))
