"""MPEG-4 Part 2 reader: pictures, motion vectors and predictions of the GOPs that are asked for.

All packets of a file are held, and each picture's type is taken from its header. Those of the GOPs
needed go to up to two decoders: the usual one, and one that leaves out the residual. FFmpeg's
conventions, verified in ``tests/data/test_bitstream.py``:

- ``+export_mvs`` gives one vector per 16 x 16 macroblock or 8 x 8 block of a P-frame. ``dst`` is
  the block's *centre*, ``motion / motion_scale`` is source minus destination in pixels,
  ``motion_scale`` is 2 (half-pels). Skipped macroblocks have a vector of zero; a block without a
  vector is intra.
- ``skip_idct=nokey`` decodes P-frames without their coefficients: the I-frame warped by the
  decoder's own half-pel interpolation. Intra macroblocks keep their full content.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.sidedata.motionvectors import MotionVectors
from av.sidedata.sidedata import SideDataContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.plane import VideoPlane
from av.video.stream import VideoStream
from jaxtyping import UInt8

from cmkd.data.native import compiled
from cmkd.data.sampling import intra_of
from cmkd.data.video import REENCODE, open_video
from cmkd.errors import FileError

_PICTURE = b"\x00\x00\x01\xb6"
"""Start code of a picture; the two bits after it are its type."""


class UnusableStream(Exception):
    """Reason why a file cannot be used, without its name."""


class GopRun(NamedTuple):
    """Frames of a GOP to decode: from its I-frame to the last one that is wanted."""

    frames: range
    last_residual: int
    """Last frame that is also decoded without its residual; -1 if there is none."""
    last_motion: int
    """Last frame with vectors; -1 if there is none."""


def decode_plan(
    kinds: Sequence[str],
    pictures: Collection[int],
    residuals: Collection[int] = (),
    motions: Collection[int] = (),
) -> list[GopRun]:
    """GOPs that hold planes of `pictures`, `residuals` of P-frames or vectors of `motions`."""
    opening = intra_of(kinds)

    def last(*wanted: int) -> dict[int, int]:
        return {opening[index]: index for index in sorted(wanted)}

    with_residual, moving = last(*residuals), last(*residuals, *motions)
    return [
        GopRun(range(start, end + 1), with_residual.get(start, -1), moving.get(start, -1))
        for start, end in last(*pictures, *residuals, *motions).items()
    ]


def picture_kinds(packet: bytes) -> str:
    """Types of the pictures in a packet; a usable file has one per packet."""
    return "".join("IPBS"[part[0] >> 6] for part in packet.split(_PICTURE)[1:] if part)


def require_usable(kinds: Sequence[str], packets: int, declared: int) -> None:
    """Refuse anything but one I- or P-frame per packet, as many as declared."""
    for number, kind in enumerate(kinds):
        if kind not in "IP":
            raise UnusableStream(
                f"frame {number} is a {kind}-frame, only I- and P-frames can be used"
            )
        if number == 0 and kind != "I":
            raise UnusableStream(f"the first frame is a {kind}-frame, not an I-frame")
    if not len(kinds) == packets == declared:
        raise UnusableStream(f"declares {declared} frames, {len(kinds)} can be decoded")


VECTORS = np.dtype(
    {
        "names": "source w h src_x src_y dst_x dst_y flags motion_x motion_y motion_scale".split(),
        "formats": "i4 u1 u1 i2 i2 i2 i2 u8 i4 i4 u2".split(),
    },
    align=True,
)
"""libavutil's AVMotionVector as PyAV exports it."""


class Planes(NamedTuple):
    """4:2:0 picture without colour conversion."""

    y: UInt8[np.ndarray, "H W"]
    u: UInt8[np.ndarray, "H/2 W/2"]
    v: UInt8[np.ndarray, "H/2 W/2"]


@dataclass(frozen=True)
class Frame:
    """One frame of a GOP that is read."""

    index: int
    kind: str
    """Picture type, ``"I"`` or ``"P"``, from the codec."""
    picture: Planes | None
    """Decoded planes; None for P-frames that were not asked for."""
    warped: Planes | None
    """Planes decoded without residuals; None where no residual was asked for."""
    vectors: np.ndarray | None
    """Vectors of dtype `VECTORS` for P-frames up to the GOP's last one with motion or a residual,
    else None."""


@contextmanager
def open_mpeg4(path: Path | str) -> Iterator[Mpeg4Reader]:
    """Open an MPEG-4 Part 2 file and read its picture types.

    Flipped bits that leave a valid bitstream and damage in GOPs that are not read stay unseen
    here; the manifest's SHA-256 and `cmkd data verify` find them.

    Raises:
        FileError: here and while reading frames: not MPEG-4 Part 2 with I- and P-frames in
            half-pel 4:2:0, unreadable, corrupt, or another number of frames than declared.
    """
    with open_video(path, REENCODE) as (container, stream):
        if stream.codec_context.name != "mpeg4":
            codec = stream.codec_context.name
            raise FileError(path, f"codec is {codec}, not MPEG-4 Part 2", REENCODE)
        try:
            yield Mpeg4Reader(container, stream)
        except UnusableStream as problem:
            raise FileError(path, str(problem), REENCODE) from None


class Mpeg4Reader:
    """An open MPEG-4 Part 2 file.

    Attributes:
        kinds: ``"I"`` or ``"P"`` of every frame in decoding order; the first is ``"I"``.
        height, width: of the luma plane in pixels.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._stream = stream
        self._packets = [packet for packet in container.demux(stream) if packet.size]
        self.kinds: Sequence[str] = [
            kind for packet in self._packets for kind in picture_kinds(bytes(packet))
        ]
        require_usable(self.kinds, len(self._packets), stream.frames)
        self.height, self.width = stream.height, stream.width

    def frames(
        self,
        pictures: Collection[int],
        residuals: Collection[int] = (),
        motions: Collection[int] = (),
    ) -> Iterator[Frame]:
        """Frames of the GOPs needed, each GOP from its I-frame to the last frame asked for.

        Args:
            pictures: frames to give planes of.
            residuals: P-frames to give with and without their residual, along with their GOP's
                vectors.
            motions: P-frames to give vectors of.
        """
        plan = decode_plan(self.kinds, pictures, residuals, motions)
        wanted, changed = {*pictures, *residuals}, set(residuals)
        moves = any(run.last_motion >= 0 for run in plan)
        full = self._decoder({"flags2": "+export_mvs"} if moves else {})
        bare = self._decoder({"skip_idct": "nokey"})
        waiting: deque[tuple[int, GopRun]] = deque()
        decoded: deque[VideoFrame] = deque()
        warped: deque[VideoFrame] = deque()

        def finished() -> Iterator[Frame]:
            while waiting and decoded and (warped or waiting[0][0] > waiting[0][1].last_residual):
                index, run = waiting.popleft()
                frame = decoded.popleft()
                moved = warped.popleft() if index <= run.last_residual else None
                self._check(frame, index)
                is_p = self.kinds[index] == "P"
                yield Frame(
                    index,
                    self.kinds[index],
                    _planes(frame) if not is_p or index in wanted else None,
                    _planes(moved) if moved is not None and index in changed else None,
                    _vectors(frame, index) if is_p and index <= run.last_motion else None,
                )

        for run in plan:
            for index in run.frames:
                waiting.append((index, run))
                decoded.extend(full.decode(self._packets[index]))
                if index <= run.last_residual:
                    warped.extend(bare.decode(self._packets[index]))
                yield from finished()
        decoded.extend(full.decode(None))
        if residuals:
            warped.extend(bare.decode(None))
        yield from finished()
        if waiting:
            raise UnusableStream(f"frame {waiting[0][0]} and others cannot be decoded")

    def _decoder(self, options: dict[str, str]) -> VideoCodecContext:
        """A decoder of its own: the stream has one, two may be needed at once."""
        own = self._stream.codec_context
        codec = VideoCodecContext.create("mpeg4", "r")
        assert isinstance(codec, VideoCodecContext)
        codec.extradata, codec.codec_tag = own.extradata, own.codec_tag
        codec.width, codec.height = own.width, own.height
        codec.thread_count = 1
        codec.options = options
        return codec

    def _check(self, frame: VideoFrame, index: int) -> None:
        if frame.is_corrupt:
            raise UnusableStream(f"frame {index} is corrupt")
        kind = PictureType(frame.pict_type).name
        if kind != self.kinds[index]:
            raise UnusableStream(
                f"frame {index} is a {kind}-frame, its header says {self.kinds[index]}"
            )
        if frame.format.name != "yuv420p":
            raise UnusableStream(f"pixel format is {frame.format.name}, not yuv420p")
        if (frame.width, frame.height) != (self.width, self.height):
            raise UnusableStream(f"frame {index} changes the size to {frame.width}x{frame.height}")


def _planes(frame: VideoFrame) -> Planes:
    return Planes(*(_samples(plane) for plane in frame.planes))


def _samples(plane: VideoPlane) -> UInt8[np.ndarray, "H W"]:
    # Copied without the padding of its lines, so that the frame can be freed.
    sides, strides = (plane.height, plane.width), (plane.line_size, 1)
    return np.ndarray(sides, np.uint8, memoryview(plane), strides=strides).copy()


def _vectors(frame: VideoFrame, index: int) -> np.ndarray:
    # `frame.side_data` would form a reference cycle, which keeps hundreds of MiB of frames until
    # the garbage collector runs.
    side = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]
    # Copied as bytes, so that the frame can be freed.
    whole = bytearray(side) if isinstance(side, MotionVectors) else bytearray()
    vectors = np.frombuffer(whole, VECTORS)
    if not _are_half_pel(vectors):
        raise UnusableStream(f"frame {index} uses quarter-pel or interlaced motion")
    return vectors


@compiled
def _are_half_pel(vectors: np.ndarray) -> bool:
    for number in range(len(vectors)):
        one = vectors[number]
        if one.motion_scale != 2 or one.w != one.h:
            return False
    return True
