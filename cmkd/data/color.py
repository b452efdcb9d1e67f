"""BT.601 limited-range colour, in integers, so that equal pictures give equal bytes everywhere.

Axes: T pictures of H x W pixels; 4:2:0 chroma has one sample per 2 x 2 pixels. Coefficients are
those of ITU-R BT.601 for 8 bits (luma 16..235, chroma 16..240 around 128).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32, UInt8

_BITS = 16
_STRIP = 128
"""Rows converted at a time: few enough for what lies between to stay in the processor's cache, and
so many that the calls cost little beside the numbers."""
_FROM_RGB = np.array(
    [[16829, 33039, 6416], [-9714, -19071, 28785], [28784, -24103, -4681]], dtype=np.int32
)
_Y, _RV, _GU, _GV, _BU = (
    round(c * 2**_BITS) for c in (1.164383, 1.596027, 0.391762, 0.812968, 2.017232)
)


def rgb_to_planes(
    frame: UInt8[np.ndarray, "H W 3"],
) -> tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H/2 W/2"], UInt8[np.ndarray, "H/2 W/2"]]:
    """Y, U and V planes of an RGB frame with even sides; chroma is the mean of 2 x 2 pixels."""
    strips = [
        _strip_to_planes(frame[top : top + _STRIP]) for top in range(0, frame.shape[0], _STRIP)
    ]
    y, u, v = (np.concatenate(parts) for parts in zip(*strips, strict=True))
    return y, u, v


def _strip_to_planes(
    frame: UInt8[np.ndarray, "H W 3"],
) -> tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H/2 W/2"], UInt8[np.ndarray, "H/2 W/2"]]:
    # A plane at a time: numpy is several times faster on numbers that lie side by side.
    planes = [frame[..., channel].astype(np.int32) for channel in range(3)]
    rows = [plane[0::2] + plane[1::2] for plane in planes]
    cells = [row[:, 0::2] + row[:, 1::2] for row in rows]
    y = _weigh(planes, _FROM_RGB[0], _BITS, 16)
    u = _weigh(cells, _FROM_RGB[1], _BITS + 2, 128)
    v = _weigh(cells, _FROM_RGB[2], _BITS + 2, 128)
    return y, u, v


def _weigh(
    rgb: Sequence[Int32[np.ndarray, "H W"]],
    weights: Int32[np.ndarray, " 3"],
    bits: int,
    offset: int,
) -> UInt8[np.ndarray, "H W"]:
    red, green, blue = rgb
    total = red * weights[0]
    total += green * weights[1]
    total += blue * weights[2]
    total += (offset << bits) + (1 << (bits - 1))
    total >>= bits
    samples: UInt8[np.ndarray, "H W"] = total.astype(np.uint8)
    return samples


def planes_to_rgb(
    y: UInt8[np.ndarray, "T H W"],
    u: UInt8[np.ndarray, "T H/2 W/2"],
    v: UInt8[np.ndarray, "T H/2 W/2"],
) -> UInt8[np.ndarray, "T 3 H W"]:
    """RGB of planar pictures; each chroma sample serves its four pixels unchanged."""
    luma = (y.astype(np.int32) - 16) * _Y + (1 << (_BITS - 1))
    blue, red = u.astype(np.int32) - 128, v.astype(np.int32) - 128
    rgb = np.empty((y.shape[0], 3, *y.shape[1:]), dtype=np.uint8)
    for channel, chroma in enumerate((_RV * red, -_GU * blue - _GV * red, _BU * blue)):
        total = luma + chroma.repeat(2, axis=1).repeat(2, axis=2)
        np.clip(total >> _BITS, 0, 255, out=rgb[:, channel], casting="unsafe")
    return rgb


def difference_to_rgb(
    y: Float32[np.ndarray, "T h w"],
    u: Float32[np.ndarray, "T h w"],
    v: Float32[np.ndarray, "T h w"],
) -> Float32[np.ndarray, "T 3 h w"]:
    """RGB of a *difference* of two pictures, in grey levels: the linear part of `planes_to_rgb`.

    Nothing is clipped, so a difference of two saturated colours can exceed 255 in size.
    """
    luma = y * np.float32(_Y / 2**_BITS)
    red = np.float32(_RV / 2**_BITS) * v
    green = np.float32(-_GU / 2**_BITS) * u - np.float32(_GV / 2**_BITS) * v
    blue = np.float32(_BU / 2**_BITS) * u
    return np.stack([luma + red, luma + green, luma + blue], axis=1)


def to_bytes(levels: np.ndarray) -> UInt8[np.ndarray, ...]:
    """Grey levels rounded and cut to 0..255."""
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)
