"""The only door to PyAV (FFmpeg): MPEG-4 Part 2 in and out, any codec in for re-encoding.

What FFmpeg gives for an MPEG-4 Part 2 file, verified in ``tests/data/test_bitstream.py``:

- Vectors (``+export_mvs``): one per 16 x 16 macroblock or 8 x 8 block of a P-frame; ``dst`` is the
  block's *centre*, ``motion / motion_scale`` is source minus destination in pixels and
  ``motion_scale`` is 2 (half-pels). A skipped macroblock has a vector of zero; only an intra
  macroblock has none, so a block without a vector is intra.
- ``skip_idct=nokey`` decodes P-frames without adding their coefficients: the I-frame warped by
  the decoder's own half-pel interpolation. Intra macroblocks keep their full content.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.motionvectors import MotionVectors
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.plane import VideoPlane
from av.video.stream import VideoStream
from jaxtyping import UInt8

from cmkd.config.data import EncodingConfig
from cmkd.data.colour import rgb_to_planes
from cmkd.errors import DataError, InfrastructureError

LARGEST_SIDE = 8192
"""Pixels; a header that declares more is refused before anything of that size is allocated."""

VECTORS = np.dtype(
    {
        "names": "source w h src_x src_y dst_x dst_y flags motion_x motion_y motion_scale".split(),
        "formats": "i4 u1 u1 i2 i2 i2 i2 u8 i4 i4 u2".split(),
    },
    align=True,
)
"""libavutil's AVMotionVector, as PyAV gives it."""

_QP2LAMBDA = 118
_REENCODE = "re-encode it with: cmkd data prepare"
_REPLACE = "replace the file by an intact copy or take it out of the data set"


@dataclass(frozen=True)
class Picture:
    """One decoded frame as 4:2:0 planes, without colour conversion."""

    kind: str
    """``"I"`` or ``"P"``, the codec's own picture type."""
    y: UInt8[np.ndarray, "H W"]
    u: UInt8[np.ndarray, "H/2 W/2"]
    v: UInt8[np.ndarray, "H/2 W/2"]
    vectors: np.ndarray
    """The codec's vectors, dtype `VECTORS`; empty for I-frames or when not asked for."""


@dataclass(frozen=True)
class StreamInfo:
    """What a file's header says of its first video stream, and the first frame's rotation."""

    codec: str
    width: int
    height: int
    frames_declared: int
    """0 where the container does not count its frames."""
    fps: float
    """0 where the container does not say."""
    rotation: int
    """Degrees, counterclockwise, by which a frame is to be turned for display."""


def probe(path: Path | str) -> StreamInfo:
    """Header of a video of any codec. Width and height are those before rotation.

    Raises:
        DataError: no such file, not a video, or its first frame cannot be decoded.
    """
    with _video(path, _REPLACE) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise DataError(f"{path}: no frame can be decoded; {_REPLACE}")
        return StreamInfo(
            codec=stream.codec_context.name,
            width=stream.width,
            height=stream.height,
            frames_declared=stream.frames,
            fps=float(stream.average_rate or 0),
            rotation=first.rotation,
        )


@dataclass(frozen=True)
class Survey:
    """What a whole decode finds in a video of any codec, good or bad."""

    codec: str
    width: int
    height: int
    pixel_format: str
    frames_declared: int
    """0 where the container does not count its frames."""
    kinds: str
    """Picture type of each decoded frame: ``I``, ``P``, ``B`` ..."""
    corrupt: tuple[int, ...]
    """Numbers of the frames that the decoder calls corrupt."""
    error: str | None
    """Where decoding broke off, in the decoder's words."""


def survey(path: Path | str) -> Survey:
    """Decode all of a file and collect what `decode_mpeg4` would refuse it for.

    Raises:
        DataError: no such file, or not a video.
    """
    with _video(path, _REPLACE) as (container, stream):
        codec = stream.codec_context
        codec.thread_count = 1
        kinds, corrupt, error = [], [], None
        try:
            for number, frame in enumerate(container.decode(stream)):
                kinds.append(PictureType(frame.pict_type).name)
                if frame.is_corrupt:
                    corrupt.append(number)
        except av.FFmpegError as reason:
            error = reason.strerror
        return Survey(
            codec=codec.name,
            width=codec.width,
            height=codec.height,
            pixel_format=codec.pix_fmt or "unknown",
            frames_declared=stream.frames,
            kinds="".join(kinds),
            corrupt=tuple(corrupt),
            error=error,
        )


def encode(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    path: Path | str,
    encoding: EncodingConfig,
    fps: float = 25.0,
) -> int:
    """Write RGB frames as MPEG-4 Part 2 in an .mp4: an I-frame every `encoding.gop`, no B-frames.

    Equal frames give equal bytes: one thread, integer colour conversion and DCT, no dates. The
    file appears under its name only when it is complete.

    Args:
        frames: at least one, of exactly the configured size.
        fps: frames per second, up to 240.

    Returns:
        The number of frames written.

    Raises:
        InfrastructureError: the file cannot be written.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        count = _write(frames, partial, encoding, fps)
        os.replace(partial, target)
    except OSError as error:
        raise InfrastructureError(
            f"{target}: cannot be written ({error.strerror}); free or choose another disk"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
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
        # The C versions: those for a certain CPU round differently.
        "dct": "int",
        "idct": "simple",
    }


def decode_mpeg4(
    path: Path | str, *, skip_residual: bool = False, motion: bool = False
) -> list[Picture]:
    """Decode a whole MPEG-4 Part 2 file in one pass, on one thread.

    A flipped bit that leaves a valid bitstream cannot be seen here; the manifest's SHA-256 can.

    Args:
        skip_residual: leave the residual out of P-frames (see the top of this file).
        motion: give each P-frame's vectors.

    Raises:
        DataError: not MPEG-4 Part 2 of I- and P-frames in half-pel 4:2:0, unreadable, corrupt, or
            another number of frames than the container declares.
    """
    with _video(path, _REENCODE) as (container, stream):
        codec = stream.codec_context
        if codec.name != "mpeg4":
            raise DataError(f"{path}: codec is {codec.name}, not MPEG-4 Part 2; {_REENCODE}")
        codec.thread_count = 1
        codec.options = {
            **({"flags2": "+export_mvs"} if motion else {}),
            **({"skip_idct": "nokey"} if skip_residual else {}),
        }
        pictures = []
        for number, frame in enumerate(container.decode(stream)):
            problem = _problem(frame, number, stream)
            if problem:
                raise DataError(f"{path}: {problem}; {_REENCODE}")
            pictures.append(_picture(frame, motion))
        if len(pictures) != stream.frames:
            raise DataError(
                f"{path}: declares {stream.frames} frames, {len(pictures)} can be decoded; "
                f"{_REENCODE}"
            )
    unusual = [n for n, p in enumerate(pictures) if not _half_pel_squares(p.vectors)]
    if unusual:
        raise DataError(
            f"{path}: frame {unusual[0]} uses quarter-pel or interlaced motion; {_REENCODE}"
        )
    return pictures


def _problem(frame: VideoFrame, number: int, stream: VideoStream) -> str | None:
    kind = PictureType(frame.pict_type).name
    if frame.is_corrupt:
        return f"frame {number} is corrupt"
    if kind not in ("I", "P"):
        return f"frame {number} is a {kind}-frame, only I- and P-frames can be used"
    if number == 0 and kind != "I":
        return f"the first frame is a {kind}-frame, not an I-frame"
    if frame.format.name != "yuv420p":
        return f"pixel format is {frame.format.name}, not yuv420p"
    if (frame.width, frame.height) != (stream.width, stream.height):
        return f"frame {number} changes the size to {frame.width}x{frame.height}"
    return None


def _picture(frame: VideoFrame, motion: bool) -> Picture:
    y, u, v = (_samples(plane) for plane in frame.planes)
    side = frame.side_data.get("MOTION_VECTORS") if motion else None
    # The array PyAV gives is a view into the frame; a copy lets the frame go.
    vectors = side.to_ndarray().copy() if isinstance(side, MotionVectors) else np.empty(0, VECTORS)
    return Picture(PictureType(frame.pict_type).name, y, u, v, vectors)


def _samples(plane: VideoPlane) -> UInt8[np.ndarray, "H W"]:
    rows = np.asarray(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width].copy()


def _half_pel_squares(vectors: np.ndarray) -> bool:
    return bool((vectors["motion_scale"] == 2).all() and (vectors["w"] == vectors["h"]).all())


def decode_rgb(path: Path | str) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames of a video of any codec, in display order and upright (rotation applied).

    Raises:
        DataError: not a video, a corrupt frame, or frames missing at the end; in the last two
            cases after the intact frames before it.
    """
    with _video(path, _REPLACE) as (container, stream):
        stream.codec_context.thread_count = 1
        count = 0
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise DataError(f"{path}: frame {count} is corrupt; {_REPLACE}")
            count += 1
            yield np.ascontiguousarray(
                np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            )
        # An AVI with packed B-frames counts one placeholder that holds no picture.
        if count < max(1, stream.frames - 1):
            raise DataError(
                f"{path}: declares {stream.frames} frames, {count} can be decoded; {_REPLACE}"
            )


@contextmanager
def _video(path: Path | str, remedy: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file; check the path")
    try:
        # Text in the files of the wild is not always UTF-8.
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise DataError(f"{path}: has no video stream; {_REPLACE}")
            stream = container.streams.video[0]
            if not 0 < max(stream.width, stream.height) <= LARGEST_SIDE:
                raise DataError(
                    f"{path}: size {stream.width}x{stream.height} is outside 1..{LARGEST_SIDE} "
                    "pixels a side; scale it first"
                )
            yield container, stream
    except av.FFmpegError as error:
        raise DataError(f"{path}: cannot be decoded ({error.strerror}); {remedy}") from None
