"""Pictures, vectors and predictions of an MPEG-4 Part 2 file, of the GOPs that are asked for.

The first reading touches the packets alone and takes each picture's type from its own header. The
second seeks to the I-frames of the GOPs that are needed and gives every packet to up to two
decoders at once: the usual one, and one that leaves the residual out.
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

from cmkd.data.codec.probe import REENCODE, video
from cmkd.errors import DataError

_PICTURE = b"\x00\x00\x01\xb6"
"""Start code of a picture; the two bits after it are its type."""


class Unusable(Exception):
    """A file that cannot be used, without its name."""


@dataclass(frozen=True)
class Plan:
    """What is decoded of a file: the frames wanted, and those they are made of.

    Attributes:
        opening: I-frame of each frame's GOP.
        runs: the frames of each GOP that is needed.
        last_residual, last_motion: by the I-frame of a GOP.
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
    ) -> Plan:
        """For planes of `pictures`, `residuals` of P-frames and vectors of `motions`."""
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
        """Whether the frame's vectors are wanted."""
        return index <= self.last_motion.get(self.opening[index], -1)


def picture_kinds(packet: bytes) -> str:
    """Types of the pictures in a packet: one, in a file that can be used."""
    return "".join("IPBS"[part[0] >> 6] for part in packet.split(_PICTURE)[1:] if part)


def require_usable(kinds: Sequence[str], packets: int, declared: int) -> None:
    """Refuse what is not one I- or P-frame a packet, or not as many as declared."""
    for number, kind in enumerate(kinds):
        if kind not in "IP":
            raise Unusable(f"frame {number} is a {kind}-frame, only I- and P-frames can be used")
        if number == 0 and kind != "I":
            raise Unusable(f"the first frame is a {kind}-frame, not an I-frame")
    if not len(kinds) == packets == declared:
        raise Unusable(f"declares {declared} frames, {len(kinds)} can be decoded")


VECTORS = np.dtype(
    {
        "names": "source w h src_x src_y dst_x dst_y flags motion_x motion_y motion_scale".split(),
        "formats": "i4 u1 u1 i2 i2 i2 i2 u8 i4 i4 u2".split(),
    },
    align=True,
)
"""libavutil's AVMotionVector, as PyAV gives it."""


class Planes(NamedTuple):
    """A picture in 4:2:0, without colour conversion: read-only views of the decoder's memory."""

    y: UInt8[np.ndarray, "H W"]
    u: UInt8[np.ndarray, "H/2 W/2"]
    v: UInt8[np.ndarray, "H/2 W/2"]


@dataclass(frozen=True)
class Frame:
    """One frame of a GOP that is read."""

    index: int
    kind: str
    """``"I"`` or ``"P"``, the codec's own picture type."""
    picture: Planes | None
    """Decoded; None for P-frames that were not asked for."""
    warped: Planes | None
    """Decoded without residuals; None where no residual was asked for."""
    vectors: np.ndarray | None
    """The codec's vectors, dtype `VECTORS`; of P-frames up to the GOP's last one with motion or a
    residual, else None."""


class _Place(NamedTuple):
    """Where a packet is in its file; what makes it the same packet after a seek."""

    position: int | None
    time: int | None
    size: int


@contextmanager
def open_mpeg4(path: Path | str) -> Iterator[Mpeg4Clip]:
    """Open an MPEG-4 Part 2 file and read its picture types.

    A flipped bit that leaves a valid bitstream cannot be seen here, nor damage in GOPs that are
    not read; the manifest's SHA-256 and `cmkd data verify` see both.

    Raises:
        DataError: there and while reading frames: not MPEG-4 Part 2 of I- and P-frames in
            half-pel 4:2:0, unreadable, corrupt, or another number of frames than the container
            declares.
    """
    with video(path, REENCODE) as (container, stream):
        if stream.codec_context.name != "mpeg4":
            name = stream.codec_context.name
            raise DataError(f"{path}: codec is {name}, not MPEG-4 Part 2; {REENCODE}")
        try:
            yield Mpeg4Clip(container, stream)
        except Unusable as problem:
            raise DataError(f"{path}: {problem}; {REENCODE}") from None


class Mpeg4Clip:
    """An open file.

    Attributes:
        kinds: ``"I"`` or ``"P"`` of every frame in decoding order; the first is ``"I"``.
        height, width: of the luma plane in pixels.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self._places: list[_Place] = []
        kinds: list[str] = []
        for packet in container.demux(stream):
            if packet.size:
                kinds += picture_kinds(bytes(packet))
                self._places.append(_Place(packet.pos, packet.dts, packet.size))
        require_usable(kinds, len(self._places), stream.frames)
        self.kinds: Sequence[str] = kinds
        self.height, self.width = stream.height, stream.width

    def frames(
        self,
        pictures: Collection[int],
        residuals: Collection[int] = (),
        motions: Collection[int] = (),
    ) -> Iterator[Frame]:
        """All frames of the GOPs needed, each from its I-frame to the last one asked for.

        Args:
            pictures: frames whose planes are wanted.
            residuals: P-frames that are wanted both with and without their residual; their GOP's
                vectors come with them.
            motions: P-frames whose vectors are wanted.
        """
        plan = Plan.of(self.kinds, pictures, residuals, motions)
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
            raise Unusable(f"frame {waiting[0][0]} and others cannot be decoded")

    def decoded(self, wanted: Collection[int]) -> tuple[int, int]:
        """How many frames, and of how many compressed bytes, are decoded for those `wanted`."""
        runs = Plan.of(self.kinds, wanted).runs
        sizes = [self._places[index].size for run in runs for index in run]
        return len(sizes), sum(sizes)

    def _decoder(self, options: dict[str, str]) -> VideoCodecContext:
        """One of several decoders of the stream, so not the stream's own."""
        own = self._stream.codec_context
        codec = VideoCodecContext.create("mpeg4", "r")
        assert isinstance(codec, VideoCodecContext)
        codec.extradata, codec.codec_tag = own.extradata, own.codec_tag
        codec.width, codec.height = own.width, own.height
        codec.thread_count = 1
        codec.options = options
        return codec

    def _packets(self, plan: Plan) -> Iterator[tuple[int, Packet[VideoStream]]]:
        following = -1
        packets: Iterator[Packet[VideoStream]] = iter(())
        for run in plan.runs:
            if run.start != following:
                start = self._places[run.start]
                self._container.seek(start.time or 0, stream=self._stream)
                packets = self._from(run.start)
            for index in run:
                packet = next(packets, None)
                if packet is None:
                    raise Unusable(f"frame {index} cannot be found again")
                yield index, packet
            following = run.stop

    def _from(self, index: int) -> Iterator[Packet[VideoStream]]:
        """Packets from that of a frame on; a seek may end before it."""
        packets = (packet for packet in self._container.demux(self._stream) if packet.size)
        for packet in packets:
            if _Place(packet.pos, packet.dts, packet.size) == self._places[index]:
                yield packet
                break
        yield from packets

    def _finished(
        self,
        plan: Plan,
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
            raise Unusable(f"frame {index} is corrupt")
        kind = PictureType(frame.pict_type).name
        if kind != self.kinds[index]:
            raise Unusable(f"frame {index} is a {kind}-frame, its header says {self.kinds[index]}")
        if frame.format.name != "yuv420p":
            raise Unusable(f"pixel format is {frame.format.name}, not yuv420p")
        if (frame.width, frame.height) != (self.width, self.height):
            raise Unusable(f"frame {index} changes the size to {frame.width}x{frame.height}")


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
    # The container that the frame itself would keep refers back to it, so that frames would wait
    # for the garbage collector, and hundreds of MiB with them.
    side = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]
    # What PyAV gives is a view into the frame; a copy lets the frame go. One of bytes takes no
    # longer for the many fields of a vector.
    whole = bytes(side) if isinstance(side, MotionVectors) else b""
    vectors = np.frombuffer(whole, VECTORS)
    if not ((vectors["motion_scale"] == 2).all() and (vectors["w"] == vectors["h"]).all()):
        raise Unusable(f"frame {index} uses quarter-pel or interlaced motion")
    return vectors
