"""BT.601 limited-range colour, in integers, so that equal pictures give equal bytes everywhere.

Axes: pictures of H x W pixels, both even; 4:2:0 chroma has one sample per 2 x 2 pixels.
Coefficients are those of ITU-R BT.601 for 8 bits (luma 16..235, chroma 16..240 around 128).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int16, UInt8

from cmkd.data.native import compiled

_BITS = 16
_FROM_RGB = np.array(
    [[16829, 33039, 6416], [-9714, -19071, 28785], [28784, -24103, -4681]], dtype=np.int32
)
_Y, _RV, _GU, _GV, _BU = (
    round(c * 2**_BITS) for c in (1.164383, 1.596027, 0.391762, 0.812968, 2.017232)
)
_FLOAT_Y, _FLOAT_RV, _FLOAT_GU, _FLOAT_GV, _FLOAT_BU = (
    np.float32(c / 2**_BITS) for c in (_Y, _RV, -_GU, _GV, _BU)
)


def rgb_to_planes(
    frame: UInt8[np.ndarray, "H W 3"],
) -> tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H/2 W/2"], UInt8[np.ndarray, "H/2 W/2"]]:
    """Y, U and V planes of an RGB frame; chroma is the mean of 2 x 2 pixels."""
    height, width = frame.shape[:2]
    y = np.empty((height, width), np.uint8)
    u, v = np.empty((2, height // 2, width // 2), np.uint8)
    _fill_planes(frame, y, u, v)
    return y, u, v


@compiled
def _fill_planes(frame: np.ndarray, y: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
    half = 1 << (_BITS - 1)
    for row in range(u.shape[0]):
        for column in range(u.shape[1]):
            reds = greens = blues = 0
            for line in range(2 * row, 2 * row + 2):
                for at in range(2 * column, 2 * column + 2):
                    red, green, blue = frame[line, at, 0], frame[line, at, 1], frame[line, at, 2]
                    reds, greens, blues = reds + red, greens + green, blues + blue
                    luma = _FROM_RGB[0, 0] * red + _FROM_RGB[0, 1] * green + _FROM_RGB[0, 2] * blue
                    y[line, at] = (luma + (16 << _BITS) + half) >> _BITS
            chroma = _FROM_RGB[1, 0] * reds + _FROM_RGB[1, 1] * greens + _FROM_RGB[1, 2] * blues
            u[row, column] = (chroma + (128 << _BITS + 2) + (half << 2)) >> _BITS + 2
            chroma = _FROM_RGB[2, 0] * reds + _FROM_RGB[2, 1] * greens + _FROM_RGB[2, 2] * blues
            v[row, column] = (chroma + (128 << _BITS + 2) + (half << 2)) >> _BITS + 2


def planes_to_rgb(
    y: UInt8[np.ndarray, "H W"],
    u: UInt8[np.ndarray, "H/2 W/2"],
    v: UInt8[np.ndarray, "H/2 W/2"],
) -> UInt8[np.ndarray, "3 H W"]:
    """RGB of a planar picture; each chroma sample serves its four pixels unchanged."""
    rgb = np.empty((3, *y.shape), np.uint8)
    fill_rgb(y, u, v, rgb)
    return rgb


@compiled
def fill_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray, rgb: np.ndarray) -> None:
    """Write `planes_to_rgb` into a given array."""
    height, width = y.shape
    # Lines of 32-bit numbers, which processors take several of at once.
    luma, chroma = np.empty(width, np.int32), np.empty((3, width), np.int32)
    for row in range(height):
        for column in range(width):
            luma[column] = (y[row, column] - 16) * _Y + (1 << (_BITS - 1))
        for column in range(0, width if row % 2 == 0 else 0, 2):
            blue, red = u[row // 2, column // 2] - 128, v[row // 2, column // 2] - 128
            chroma[0, column] = chroma[0, column + 1] = _RV * red
            chroma[1, column] = chroma[1, column + 1] = -_GU * blue - _GV * red
            chroma[2, column] = chroma[2, column + 1] = _BU * blue
        for channel in range(3):
            for column in range(width):
                level = np.int32(luma[column] + chroma[channel, column]) >> _BITS
                rgb[channel, row, column] = min(max(level, 0), 255)


def difference_to_rgb(
    y: Int16[np.ndarray, "H W"],
    u: Int16[np.ndarray, "H/2 W/2"],
    v: Int16[np.ndarray, "H/2 W/2"],
) -> Float32[np.ndarray, "3 H/2 W/2"]:
    """RGB of a *difference* of two pictures, in grey levels: the linear part of `planes_to_rgb`.

    Luma is the mean of 2 x 2 pixels. Nothing is clipped, so a difference of two saturated colours
    can exceed 255 in size.
    """
    rgb = np.empty((3, *u.shape), np.float32)
    _fill_difference(y, u, v, rgb)
    return rgb


@compiled
def _fill_difference(y: np.ndarray, u: np.ndarray, v: np.ndarray, rgb: np.ndarray) -> None:
    for row in range(u.shape[0]):
        top, low = y[2 * row], y[2 * row + 1]
        for column in range(u.shape[1]):
            left, right = 2 * column, 2 * column + 1
            total = np.int32(top[left] + top[right] + low[left] + low[right])
            luma = np.float32(total) / np.float32(4) * _FLOAT_Y
            blue, red = np.float32(u[row, column]), np.float32(v[row, column])
            rgb[0, row, column] = luma + _FLOAT_RV * red
            rgb[1, row, column] = luma + (_FLOAT_GU * blue - _FLOAT_GV * red)
            rgb[2, row, column] = luma + _FLOAT_BU * blue


def to_bytes(levels: np.ndarray) -> UInt8[np.ndarray, ...]:
    """Grey levels rounded and cut to 0..255."""
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)
