"""What a video of any codec is: its header, and what a whole decode finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import av.logging
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from cmkd.errors import DataError

LARGEST_SIDE = 8192
"""Pixels; a header that declares more is refused before anything of that size is allocated."""

REENCODE = "re-encode it with: cmkd data prepare"
REPLACE = "replace the file by an intact copy or take it out of the data set"


@contextmanager
def video(path: Path | str, remedy: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream; errors of FFmpeg become `DataError`."""
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file; check the path")
    try:
        # Text in the files of the wild is not always UTF-8.
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise DataError(f"{path}: has no video stream; {REPLACE}")
            stream = container.streams.video[0]
            if not 0 < max(stream.width, stream.height) <= LARGEST_SIDE:
                raise DataError(
                    f"{path}: size {stream.width}x{stream.height} is outside 1..{LARGEST_SIDE} "
                    "pixels a side; scale it first"
                )
            yield container, stream
    except av.FFmpegError as error:
        raise DataError(f"{path}: cannot be decoded ({error.strerror}); {remedy}") from None


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
    with video(path, REPLACE) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise DataError(f"{path}: no frame can be decoded; {REPLACE}")
        return StreamInfo(
            codec=stream.codec_context.name,
            width=stream.width,
            height=stream.height,
            frames_declared=stream.frames,
            fps=float(stream.average_rate or 0),
            rotation=first.rotation,
        )


def container_fault(path: Path | str) -> str | None:
    """What the container's reader complains of in a video of any codec, without decoding it.

    Matroska and WebM do not count their frames, so that nothing else tells of a file cut off.

    Raises:
        DataError: no such file, or not a video.
    """
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # the file before may have had the same fault
    try:
        with av.logging.Capture() as messages, video(path, REPLACE) as (container, stream):
            reader = container.format.name
            if any(packet.is_corrupt for packet in container.demux(stream)):
                return "holds a packet that its container calls corrupt"
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
    complaints = [text.strip() for _, name, text in messages if name == reader]
    return f"its container is damaged ({complaints[0]})" if complaints else None


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
    """Decode all of a file and collect what `open_mpeg4` would refuse it for.

    Raises:
        DataError: no such file, or not a video.
    """
    with video(path, REPLACE) as (container, stream):
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
