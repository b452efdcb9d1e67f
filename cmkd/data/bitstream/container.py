"""A video file opened for reading, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
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
