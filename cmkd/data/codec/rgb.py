"""Frames of a video of any codec as RGB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from cmkd.data.codec.probe import REPLACE, video
from cmkd.errors import DataError


def decode_rgb(path: Path | str) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames of a video of any codec, in display order and upright (rotation applied).

    Raises:
        DataError: not a video, a corrupt frame, or frames missing at the end; in the last two
            cases after the intact frames before it.
    """
    with video(path, REPLACE) as (container, stream):
        stream.codec_context.thread_count = 1
        convert, count = _Converter(), 0
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise DataError(f"{path}: frame {count} is corrupt; {REPLACE}")
            count += 1
            yield np.ascontiguousarray(np.rot90(convert(frame), round(frame.rotation / 90)))
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
        convert = _Converter()
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found.append(convert(frame))
            if number == positions[-1]:
                return np.stack(found)
    raise DataError(f"{path}: has no frame {positions[-1]}; {REPLACE}")


class _Converter:
    """Pictures as RGB. Setting a conversion up takes several times as long as converting one
    picture, so that it is kept for the next; `VideoFrame.to_ndarray` sets one up for every frame.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        rgb: UInt8[np.ndarray, "H W 3"] = self._reformatter.reformat(
            frame, format="rgb24"
        ).to_ndarray()
        return rgb
