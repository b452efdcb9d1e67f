"""Motion of MPEG-4 P-frames: from the codec's vectors to a map that points back to the I-frame.

Axes: H x W luma pixels; the last axis of a displacement is (x, y). Displacements are whole numbers
of half-pels and point from a pixel to where its content comes from (source minus destination).
Between whole pixels the nearest is taken, a half going towards zero, so that a mirrored video
gives a mirrored map.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, Int16, Shaped


def motion_field(
    vectors: np.ndarray, height: int, width: int
) -> tuple[Int16[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    """Spread block vectors over their pixels.

    Args:
        vectors: one frame's structured array (`cmkd.data.bitstream.VECTORS`), half-pel units,
            square blocks of 16 or 8 pixels.

    Returns:
        The displacement to the previous frame, 0 where there is none, and the pixels that have
        one. A pixel without a vector is in an intra block; skipped blocks have a vector of zero.
    """
    # Macroblocks may stick out of the picture: the maps have whole ones.
    rows, columns = -(-height // 16) * 16, -(-width // 16) * 16
    field = np.zeros((rows, columns, 2), np.int16)
    covered = np.zeros((rows, columns), np.bool_)
    for size in (16, 8):
        blocks = vectors[vectors["w"] == size]
        row = (blocks["dst_y"] - size // 2) // size
        column = (blocks["dst_x"] - size // 2) // size
        motion = np.stack([blocks["motion_x"], blocks["motion_y"]], axis=-1)
        tiles = (rows // size, size, columns // size, size)
        field.reshape(*tiles, 2)[row, :, column] = motion[:, None, None]
        covered.reshape(tiles)[row, :, column] = True
    return field[:height, :width], covered[:height, :width]


def accumulate(
    field: Int16[np.ndarray, "H W 2"],
    covered: Bool[np.ndarray, "H W"],
    previous: Int16[np.ndarray, "H W 2"],
) -> Int16[np.ndarray, "H W 2"]:
    """Chain a frame's motion with its reference's: D_t(x) = m_t(x) + D_{t-1}(x + m_t(x)).

    Sums are exact in half-pels; only the place where D_{t-1} is read is rounded to a pixel. Intra
    blocks, which have no source, restart at 0. After an I-frame `previous` is 0.
    """
    total: Int16[np.ndarray, "H W 2"] = field + warp(previous, field)
    total[~covered] = 0
    return total


def taint(
    field: Int16[np.ndarray, "H W 2"],
    covered: Bool[np.ndarray, "H W"],
    previous: Bool[np.ndarray, "H/2 W/2"],
) -> Bool[np.ndarray, "H/2 W/2"]:
    """Cells of 2 x 2 pixels whose motion chain meets an intra block after the I-frame.

    A cell is tainted as soon as any sample that luma or chroma interpolation may read is, so an
    untainted cell is made of the I-frame alone. (Chroma of a macroblock with four vectors moves
    by their mean, which this does not follow; `encode` writes none.) After an I-frame `previous`
    is False.
    """
    intra = ~covered[::2, ::2]
    if not previous.any():
        return intra
    steps = field[::2, ::2].astype(np.int32)
    low, high = steps >> 2, -(-steps >> 2)
    reached = intra
    for x in (low[..., 0], high[..., 0]):
        for y in (low[..., 1], high[..., 1]):
            reached = reached | _gather(previous, y, x)
    return reached


def warp(
    picture: Shaped[np.ndarray, "H W *C"],
    displacement: Int16[np.ndarray, "H W 2"],
    *,
    steps_per_pixel: int = 2,
) -> Shaped[np.ndarray, "H W *C"]:
    """Fetch each pixel from where its displacement points: out(x) = picture(x + d(x)).

    Args:
        displacement: in steps; beyond the picture's edge the edge pixel is taken.
        steps_per_pixel: 2 for luma in half-pels, 4 for a chroma plane moved by luma half-pels.
    """
    half, bits = steps_per_pixel // 2, steps_per_pixel.bit_length() - 1
    whole = (displacement + (half - 1) + (displacement < 0)) >> bits
    return _gather(picture, whole[..., 1], whole[..., 0])


def _gather(
    picture: Shaped[np.ndarray, "H W *C"],
    down: Int[np.ndarray, "H W"],
    right: Int[np.ndarray, "H W"],
) -> Shaped[np.ndarray, "H W *C"]:
    height, width = picture.shape[:2]
    rows = _clamped(np.arange(height)[:, None] + down, height)
    rows *= width
    rows += _clamped(np.arange(width) + right, width)
    return picture.reshape(height * width, *picture.shape[2:]).take(rows, axis=0)


def _clamped(index: Int[np.ndarray, "H W"], size: int) -> Int[np.ndarray, "H W"]:
    # np.clip spends more on checking its bounds than on a small picture.
    np.maximum(index, 0, out=index)
    np.minimum(index, size - 1, out=index)
    return index
