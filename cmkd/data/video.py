"""Videos of any codec in through PyAV (header, completeness, RGB frames), MPEG-4 Part 2 out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from cmkd.config.data import EncodingConfig
from cmkd.data.color import rgb_to_planes
from cmkd.errors import FileError
from cmkd.io import write_atomic

LARGEST_SIDE = 8192
"""Pixels; larger declared sizes are refused before any picture is allocated."""
FORMATS = "avi,matroska,mov,mpeg,mpegts,mpegvideo"
"""FFmpeg's readers of VIDEO_SUFFIXES. Playlists (ffconcat, HLS), which open other files, are not
among them."""

REENCODE = "re-encode it with: cmkd data prepare"
REPLACE = "replace the file by an intact copy or take it out of the data set"
CONVERT = "convert it to avi, mkv, mov, mp4, mpg or webm, or remove it"


@contextmanager
def open_video(path: Path | str, remedy: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream; errors of FFmpeg become `FileError`."""
    if not Path(path).is_file():
        raise FileError(path, "there is no such file", "check the path")
    # Metadata is not always UTF-8 (HMDB-51 has such files).
    options = {"format_whitelist": FORMATS}
    try:
        with av.open(str(path), metadata_errors="replace", options=options) as container:
            if not container.streams.video:
                raise FileError(path, "has no video stream", REPLACE)
            stream = container.streams.video[0]
            if stream.codec_context is None:  # the header is cut off
                raise FileError(path, "has a video stream of no known codec", REPLACE)
            if not 0 < max(stream.width, stream.height) <= LARGEST_SIDE:
                size = f"{stream.width}x{stream.height}"
                reason = f"size {size} is outside 1..{LARGEST_SIDE} pixels a side"
                raise FileError(path, reason, "scale it first")
            yield container, stream
    except av.ArgumentError as error:
        reason = f"cannot be decoded (not a video container: {error.strerror})"
        raise FileError(path, reason, CONVERT) from None
    except av.FFmpegError as error:
        raise FileError(path, f"cannot be decoded ({error.strerror})", remedy) from None


class StreamInfo(NamedTuple):
    """Header of a file's first video stream."""

    frames_declared: int
    """0 where the container does not count its frames. AVI counts dropped frames too."""
    fps: float
    """0 where the container does not say."""


def probe(path: Path | str) -> StreamInfo:
    """Header of a video of any codec.

    Raises:
        FileError: no such file, not a video, or its first frame cannot be decoded.
    """
    with open_video(path, REPLACE) as (container, stream):
        if next(container.decode(stream), None) is None:
            raise FileError(path, "no frame can be decoded", REPLACE)
        return StreamInfo(stream.frames, float(stream.average_rate or 0))


def container_fault(path: Path | str) -> str | None:
    """Damage of a video of any codec that its packets show, without decoding; None if intact.

    A file is whole if its reader has no complaint, every packet of its index is there, and the
    last packet ends where the stream is declared to end. The declared number of frames proves
    nothing: AVI counts dropped frames, edit lists hide some, Matroska has no count.

    Raises:
        FileError: no such file, or not a video.
    """
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # the file before may have had the same fault
    try:
        with av.logging.Capture() as messages, open_video(path, REPLACE) as (container, stream):
            reader = container.format.name
            indexed = sum(entry.size > 0 for entry in stream.index_entries)
            count, end, longest = 0, 0, 1
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    return "holds a packet that its container calls corrupt"
                if packet.size:
                    count += 1
                    time = packet.pts if packet.pts is not None else packet.dts or 0
                    longest = max(longest, packet.duration or 0)
                    end = max(end, time + (packet.duration or 0))
            if count < indexed:
                return f"its index lists {indexed} frames, {count} are there"
            # The index of an MP4 names every packet; that of an AVI may be gone with its end.
            whole = _riff_is_whole(path) if reader == "avi" else count == indexed
            fault = None if whole else _early_end(stream, reader, end, longest)
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
    complaints = [text.strip() for _, name, text in messages if name == reader]
    return f"its container is damaged ({complaints[0]})" if complaints else fault


def _early_end(stream: VideoStream, reader: str, end: int, longest: int) -> str | None:
    # One tick of an AVI's clock is one frame, dropped or not. Its duration is FFmpeg's guess from
    # the size of a file without index; the header keeps the number that was written.
    duration = (stream.frames if reader == "avi" else stream.duration) or 0
    declared = (stream.start_time or 0) + duration
    if end + longest >= declared or stream.time_base is None:
        return None
    return (
        f"ends at {float(end * stream.time_base):.2f} s of "
        f"{float(declared * stream.time_base):.2f} s declared"
    )


def _riff_is_whole(path: Path | str) -> bool:
    """True if an AVI file has all the bytes that its header declares, and declares any."""
    end = 0
    with open(path, "rb") as file:
        # Files above 1 GB have several RIFF chunks.
        while len(head := file.read(8)) == 8 and head[:4] == b"RIFF" and any(head[4:]):
            end += 8 + int.from_bytes(head[4:], "little")
            file.seek(end)
        return 0 < end <= file.seek(0, os.SEEK_END)


@dataclass(frozen=True)
class StreamScan:
    """Findings of a whole decode of a video of any codec, good or bad."""

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
    """The decoder's message where decoding broke off."""


def scan(path: Path | str) -> StreamScan:
    """Decode all of a file and collect every reason for which `open_mpeg4` would refuse it.

    Raises:
        FileError: no such file, or not a video.
    """
    with open_video(path, REPLACE) as (container, stream):
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
        return StreamScan(
            codec=codec.name,
            width=codec.width,
            height=codec.height,
            pixel_format=codec.pix_fmt or "unknown",
            frames_declared=stream.frames,
            kinds="".join(kinds),
            corrupt=tuple(corrupt),
            error=error,
        )


def decode_rgb(path: Path | str) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames of a video of any codec, in display order and upright (rotation applied).

    `container_fault` tells whether packets are missing; this checks what becomes of those there.

    Raises:
        FileError: not a video, a corrupt frame, a frame of another size, or packets that give no
            frame; in the last three cases after the intact frames before it.
    """
    with open_video(path, REPLACE) as (container, stream):
        stream.codec_context.thread_count = 1
        indexed = sum(entry.size > 0 for entry in stream.index_entries)
        packets, shown, count = 0, 0, 0
        size: tuple[int, int] | None = None
        # `VideoFrame.to_ndarray` sets one up per frame, which costs more than the conversion.
        reformatter = VideoReformatter()
        for packet in container.demux(stream):
            packets += packet.size > 0
            shown += packet.size > 0 and not packet.is_discard  # an edit list hides some
            for frame in packet.decode():
                size = size or (frame.width, frame.height)
                if frame.is_corrupt:
                    raise FileError(path, f"frame {count} is corrupt", REPLACE)
                if (frame.width, frame.height) != size:
                    reason = (
                        f"frame {count} changes the size from {size[0]}x{size[1]} to "
                        f"{frame.width}x{frame.height}"
                    )
                    raise FileError(path, reason, "scale it to one size or cut it there")
                count += 1
                rgb = reformatter.reformat(frame, format="rgb24").to_ndarray()
                yield np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))
        # An AVI with packed B-frames has one packet without a picture. Matroska, which declares
        # no frames, may have many (VP8's hidden frames).
        declared = shown + max(0, indexed - packets) if stream.frames else 1
        if count < max(1, declared - 1):
            raise FileError(path, f"holds {declared} frames, {count} can be decoded", REPLACE)


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
