"""MPEG-4 Part 2 reader: pictures, motion vectors and predictions of the GOPs that are asked for.

A first pass over the packets takes each picture's type from its header. A second one seeks to the
I-frames of the GOPs needed and gives every packet to up to two decoders: the usual one, and one
that leaves out the residual. FFmpeg's conventions, verified in ``tests/data/test_bitstream.py``:

- ``+export_mvs`` gives one vector per 16 x 16 macroblock or 8 x 8 block of a P-frame. ``dst`` is
  the block's *centre*, ``motion / motion_scale`` is source minus destination in pixels,
  ``motion_scale`` is 2 (half-pels). Skipped macroblocks have a vector of zero; a block without a
  vector is intra.
- ``skip_idct=nokey`` decodes P-frames without their coefficients: the I-frame warped by the
  decoder's own half-pel interpolation. Intra macroblocks keep their full content.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.motionvectors import MotionVectors
from av.sidedata.sidedata import SideDataContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.plane import VideoPlane
from av.video.stream import VideoStream
from jaxtyping import UInt8

from cmkd.data.codec.video import REENCODE, open_video
from cmkd.errors import DataError

_PICTURE = b"\x00\x00\x01\xb6"
"""Start code of a picture; the two bits after it are its type."""


class UnusableStream(Exception):
    """Reason why a file cannot be used, without its name."""


@dataclass(frozen=True)
class DecodePlan:
    """Frames to decode: those wanted and those they depend on.

    Attributes:
        opening: I-frame of each frame's GOP.
        runs: the frames of each GOP that is needed.
        last_residual, last_motion: last frame of a GOP with one, by the GOP's I-frame.
    """

    pictures: frozenset[int]
    residuals: frozenset[int]
    opening: Sequence[int]
    runs: Sequence[range]
    last_residual: Mapping[int, int]
    last_motion: Mapping[int, int]

    @classmethod
    def of(
        cls,
        kinds: Sequence[str],
        pictures: Collection[int],
        residuals: Collection[int] = (),
        motions: Collection[int] = (),
    ) -> DecodePlan:
        """Plan for planes of `pictures`, `residuals` of P-frames and vectors of `motions`."""
        opening: list[int] = []
        for index, kind in enumerate(kinds):
            opening.append(index if kind == "I" else opening[-1])

        def last(*wanted: int) -> Mapping[int, int]:
            return {opening[at]: at for at in sorted(wanted)}

        return cls(
            pictures=frozenset(pictures),
            residuals=frozenset(residuals),
            opening=opening,
            runs=[
                range(start, end + 1)
                for start, end in last(*pictures, *residuals, *motions).items()
            ],
            last_residual=last(*residuals),
            last_motion=last(*residuals, *motions),
        )

    def moves(self, index: int) -> bool:
        """True if the frame's vectors are wanted."""
        return index <= self.last_motion.get(self.opening[index], -1)


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
    """4:2:0 picture without colour conversion, as read-only views of the decoder's memory."""

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


class _PacketKey(NamedTuple):
    """Identity of a packet across seeks."""

    position: int | None
    time: int | None
    size: int


@contextmanager
def open_mpeg4(path: Path | str) -> Iterator[Mpeg4Reader]:
    """Open an MPEG-4 Part 2 file and read its picture types.

    Flipped bits that leave a valid bitstream and damage in GOPs that are not read stay unseen
    here; the manifest's SHA-256 and `cmkd data verify` find them.

    Raises:
        DataError: here and while reading frames: not MPEG-4 Part 2 with I- and P-frames in
            half-pel 4:2:0, unreadable, corrupt, or another number of frames than declared.
    """
    with open_video(path, REENCODE) as (container, stream):
        if stream.codec_context.name != "mpeg4":
            name = stream.codec_context.name
            raise DataError(f"{path}: codec is {name}, not MPEG-4 Part 2; {REENCODE}")
        try:
            yield Mpeg4Reader(container, stream)
        except UnusableStream as problem:
            raise DataError(f"{path}: {problem}; {REENCODE}") from None


class Mpeg4Reader:
    """An open MPEG-4 Part 2 file.

    Attributes:
        kinds: ``"I"`` or ``"P"`` of every frame in decoding order; the first is ``"I"``.
        height, width: of the luma plane in pixels.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self._packet_keys: list[_PacketKey] = []
        kinds: list[str] = []
        for packet in container.demux(stream):
            if packet.size:
                kinds += picture_kinds(bytes(packet))
                self._packet_keys.append(_PacketKey(packet.pos, packet.dts, packet.size))
        require_usable(kinds, len(self._packet_keys), stream.frames)
        self.kinds: Sequence[str] = kinds
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
        plan = DecodePlan.of(self.kinds, pictures, residuals, motions)
        full = self._decoder({"flags2": "+export_mvs"} if plan.last_motion else {})
        bare = self._decoder({"skip_idct": "nokey"}) if residuals else None
        waiting: deque[tuple[int, bool]] = deque()
        decoded: deque[VideoFrame] = deque()
        warped: deque[VideoFrame] = deque()
        for index, packet in self._packets(plan):
            moves = index <= plan.last_residual.get(plan.opening[index], -1)
            waiting.append((index, moves))
            decoded.extend(full.decode(packet))
            if moves and bare is not None:
                warped.extend(bare.decode(packet))
            yield from self._finished(plan, waiting, decoded, warped)
        decoded.extend(full.decode(None))
        if bare is not None:
            warped.extend(bare.decode(None))
        yield from self._finished(plan, waiting, decoded, warped)
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

    def _packets(self, plan: DecodePlan) -> Iterator[tuple[int, Packet[VideoStream]]]:
        following = -1
        packets: Iterator[Packet[VideoStream]] = iter(())
        for run in plan.runs:
            if run.start != following:
                start = self._packet_keys[run.start]
                self._container.seek(start.time or 0, stream=self._stream)
                packets = self._from(run.start)
            for index in run:
                packet = next(packets, None)
                if packet is None:
                    raise UnusableStream(f"frame {index} cannot be found again")
                yield index, packet
            following = run.stop

    def _from(self, index: int) -> Iterator[Packet[VideoStream]]:
        """Packets from a frame's own on; a seek may land before it."""
        packets = (packet for packet in self._container.demux(self._stream) if packet.size)
        for packet in packets:
            if _PacketKey(packet.pos, packet.dts, packet.size) == self._packet_keys[index]:
                yield packet
                break
        yield from packets

    def _finished(
        self,
        plan: DecodePlan,
        waiting: deque[tuple[int, bool]],
        decoded: deque[VideoFrame],
        warped: deque[VideoFrame],
    ) -> Iterator[Frame]:
        while waiting and decoded and (warped or not waiting[0][1]):
            index, moves = waiting.popleft()
            frame, bare = decoded.popleft(), warped.popleft() if moves else None
            self._check(frame, index)
            is_p = self.kinds[index] == "P"
            wanted = not is_p or index in plan.pictures or index in plan.residuals
            yield Frame(
                index,
                self.kinds[index],
                _planes(frame) if wanted else None,
                _planes(bare) if bare is not None and index in plan.residuals else None,
                _vectors(frame, index) if is_p and plan.moves(index) else None,
            )

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
    # The array holds on to the plane, and the plane to its frame.
    samples: UInt8[np.ndarray, "H W"] = np.ndarray(
        (plane.height, plane.width), np.uint8, memoryview(plane), strides=(plane.line_size, 1)
    )
    samples.flags.writeable = False
    return samples


def _vectors(frame: VideoFrame, index: int) -> np.ndarray:
    # `frame.side_data` would form a reference cycle, which keeps hundreds of MiB of frames until
    # the garbage collector runs.
    side = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]
    # Copied as bytes, so that the frame can be freed.
    whole = bytes(side) if isinstance(side, MotionVectors) else b""
    vectors = np.frombuffer(whole, VECTORS)
    if not ((vectors["motion_scale"] == 2).all() and (vectors["w"] == vectors["h"]).all()):
        raise UnusableStream(f"frame {index} uses quarter-pel or interlaced motion")
    return vectors
