"""MPEG-4 Part 2 encoder for RGB frames."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from cmkd.config.data import EncodingConfig
from cmkd.data.color import rgb_to_planes
from cmkd.io import write_atomic

_QP2LAMBDA = 118


def encode(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    path: Path | str,
    encoding: EncodingConfig,
    fps: float = 25.0,
) -> int:
    """Write RGB frames as MPEG-4 Part 2 in an .mp4: an I-frame every `encoding.gop`, no B-frames.

    Equal frames give equal bytes: one thread, integer colour conversion and DCT, no dates. The
    file appears under its name when it is complete.

    Args:
        frames: at least one, of the configured size.
        fps: frames per second, up to 240.

    Returns:
        The number of frames written.

    Raises:
        InfrastructureError: the file cannot be written.
    """
    count = 0

    def write(draft: Path) -> None:
        nonlocal count
        count = _write(frames, draft, encoding, fps)

    # Files are made again from their source; a sync for each would dominate small clips.
    write_atomic(Path(path), write, durable=False)
    return count


def _write(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    path: Path,
    encoding: EncodingConfig,
    fps: float,
) -> int:
    # MPEG-4 Part 2 stores the numerator of the frame rate in 16 bits.
    rate = Fraction(fps).limit_denominator(min(1001, int(65535 / fps)))
    count = 0
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=rate)
        assert isinstance(stream, VideoStream)
        _configure(stream.codec_context, encoding)
        for rgb in frames:
            assert rgb.shape == (encoding.height, encoding.width, 3), rgb.shape
            planes = [plane.reshape(-1, encoding.width) for plane in rgb_to_planes(rgb)]
            frame = VideoFrame.from_ndarray(np.concatenate(planes), format="yuv420p")
            frame.pts, frame.time_base = count, 1 / rate
            container.mux(stream.encode(frame))
            count += 1
        assert count, "a clip has at least one frame"
        container.mux(stream.encode(None))
    return count


def _configure(codec: VideoCodecContext, encoding: EncodingConfig) -> None:
    codec.width, codec.height = encoding.width, encoding.height
    codec.pix_fmt = "yuv420p"
    codec.gop_size = encoding.gop
    codec.max_b_frames = 0
    codec.thread_count = 1
    codec.qmin = codec.qmax = encoding.qscale
    codec.global_quality = encoding.qscale * _QP2LAMBDA
    codec.options = {
        "flags": "+qscale+bitexact",
        # A scene cut is coded as intra macroblocks, never as an I-frame of its own.
        "sc_threshold": "1000000000",
        # The C versions; those for a certain CPU round differently.
        "dct": "int",
        "idct": "simple",
    }
