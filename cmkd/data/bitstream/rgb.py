"""Frames of a video of any codec as RGB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cmkd.data.bitstream.container import REPLACE, video
from cmkd.errors import DataError


def decode_rgb(path: Path | str) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames of a video of any codec, in display order and upright (rotation applied).

    Raises:
        DataError: not a video, a corrupt frame, or frames missing at the end; in the last two
            cases after the intact frames before it.
    """
    with video(path, REPLACE) as (container, stream):
        stream.codec_context.thread_count = 1
        count = 0
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise DataError(f"{path}: frame {count} is corrupt; {REPLACE}")
            count += 1
            yield np.ascontiguousarray(
                np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            )
        # An AVI with packed B-frames counts one placeholder that holds no picture.
        if count < max(1, stream.frames - 1):
            raise DataError(
                f"{path}: declares {stream.frames} frames, {count} can be decoded; {REPLACE}"
            )


def decode_positions(
    path: Path | str, positions: Sequence[int], *, lowres: int = 0
) -> UInt8[np.ndarray, "T h w 3"]:
    """The usual way to some frames: decode from the start to the last of them, convert those.

    Args:
        positions: ascending, in display order.
        lowres: 1 or 2 decodes at a half or a quarter of the sides, with a smaller inverse DCT.

    Raises:
        DataError: not a video, or fewer frames.
    """
    wanted, found = set(positions), []
    with video(path, REPLACE) as (container, stream):
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"lowres": str(lowres)} if lowres else {}
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found.append(frame.to_ndarray(format="rgb24"))
            if number == positions[-1]:
                return np.stack(found)
    raise DataError(f"{path}: has no frame {positions[-1]}; {REPLACE}")
