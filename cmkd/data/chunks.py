"""Clips on their way from the process that decodes them to the one that trains on them.

A chunk is written once, into memory that both share and that is used again for later chunks: fresh
memory for each would cost a page fault for every 4 KiB on both sides, and a further copy.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16, Int64, UInt8
from torch import Tensor

from cmkd.config.data import EncodingConfig, ReaderConfig
from cmkd.data.clip import MOTION_CELL, RESIDUAL_CELL, Clip
from cmkd.data.views import View, vector_turn
from cmkd.errors import InfrastructureError

CHUNK_BYTES = 32 << 20
"""Clips that cross from one process to another at once; a larger clip crosses alone."""
AHEAD = 2
"""Chunks that each process reads ahead."""
SHARED_MEMORY = Path("/dev/shm")
_ALIGNMENT = 64
"""Bytes; the length of a cache line."""

Buffer = UInt8[Tensor, " bytes"]


class Chunk(NamedTuple):
    """Some clips of a batch as they were read; B clips with N I-frames in all.

    Those of clips that are not to be moved are cut already, and `matrices` is None.
    """

    labels: Int64[Tensor, " B"]
    """Class that each view shows."""
    iframes: UInt8[Tensor, "N 3 H W"]
    clip_of: Int64[Tensor, " N"]
    """Clip of each I-frame."""
    own: Int64[Tensor, "B T"]
    """Index into `iframes` of each P-frame's own (A4)."""
    motion: Float16[Tensor, "B T 2*S h w"]
    residual: Float16[Tensor, "B T 3*S h2 w2"]
    frames: UInt8[Tensor, "B T 3*S H W"]
    matrices: Float[Tensor, "B 2 3"] | None
    """`View.matrix` of each clip."""
    turns: Float[Tensor, "B 2 2"] | None
    """`vector_turn` of each clip."""


def clips_per_chunk(encoding: EncodingConfig, config: ReaderConfig) -> int:
    """Clips of at most `CHUNK_BYTES`, at least one."""
    return max(1, CHUNK_BYTES // clip_bytes(encoding, config))


def clip_bytes(encoding: EncodingConfig, config: ReaderConfig) -> int:
    """Largest size of a clip in a `Chunk`, in bytes."""
    frames, pixels = config.inputs.num_frames, encoding.width * encoding.height
    iframes = 3 * pixels * (config.inputs.num_gops or frames)
    motion = 2 * 2 * config.compressed_segment * pixels // MOTION_CELL**2
    residual = 2 * 3 * config.compressed_segment * pixels // RESIDUAL_CELL**2
    numbers = 8 * (1 + 2 * frames + 6 + 4)
    return iframes + frames * (motion + residual + 3 * config.raw_segment * pixels) + numbers


def shared_buffers(
    processes: int, encoding: EncodingConfig, config: ReaderConfig
) -> Sequence[Buffer]:
    """Room for the chunks that so many processes read ahead and the one that is in use.

    Request k of a pass is for buffer k modulo their number: torch's DataLoader gives requests to
    its processes in turn, so that each writes to buffers of its own.

    Raises:
        InfrastructureError: shared memory is too small.
    """
    clips = clips_per_chunk(encoding, config) * clip_bytes(encoding, config)
    size = clips + _ALIGNMENT * len(Chunk._fields)
    count = processes * (AHEAD + 1)
    if SHARED_MEMORY.is_dir() and count * size > (free := shutil.disk_usage(SHARED_MEMORY).free):
        raise InfrastructureError(
            f"{SHARED_MEMORY}: has {free / 2**30:.2f} GiB free, {processes} processes that decode "
            f"clips need up to {count * size / 2**30:.2f} GiB",
            "enlarge it (docker run --shm-size, mount -o remount,size=), or lower inputs.loaders; "
            "0 needs none of it",
        )
    return [torch.empty(size, dtype=torch.uint8).share_memory_() for _ in range(count)]


def make_chunk(
    clips: Sequence[Clip],
    labels: Sequence[int],
    views: Sequence[View] | None,
    encoding: EncodingConfig,
    buffer: Buffer | None = None,
) -> Chunk:
    """Chunk of some clips.

    Args:
        views: that are still to be applied; None where they are.
        buffer: memory for the chunk; default: memory of its own.
    """
    room = _Room(buffer)
    counts = [len(clip.iframes) for clip in clips]
    starts = np.cumsum([0, *counts[:-1]])
    matrices = turns = None
    if views is not None:
        matrices = room.stacked([np.array(view.matrix, np.float32) for view in views])
        sides = encoding.height, encoding.width
        turns = room.stacked([vector_turn(view, *sides).astype(np.float32) for view in views])
    return Chunk(
        labels=room.joined([np.array(labels, np.int64)]),
        iframes=room.joined([clip.iframes for clip in clips]),
        clip_of=room.joined([np.repeat(np.arange(len(clips)), counts)]),
        own=room.stacked([clip.gop + start for clip, start in zip(clips, starts, strict=True)]),
        motion=room.stacked([clip.motion for clip in clips]),
        residual=room.stacked([clip.residual for clip in clips]),
        frames=room.stacked([clip.frames for clip in clips]),
        matrices=matrices,
        turns=turns,
    )


class _Room:
    """Memory for tensors one after the other in a buffer, or of their own without one."""

    def __init__(self, buffer: Buffer | None) -> None:
        self._left = buffer

    def stacked(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return self.joined([array[None] for array in arrays])

    def joined(self, arrays: Sequence[np.ndarray]) -> Tensor:
        if self._left is None:
            return torch.from_numpy(np.concatenate(arrays))
        dtype = torch.from_numpy(arrays[0][:0]).dtype
        shape = sum(len(array) for array in arrays), *arrays[0].shape[1:]
        size = sum(array.nbytes for array in arrays)
        found = self._left[:size].view(dtype).view(shape)
        np.concatenate(arrays, out=found.numpy())
        self._left = self._left[-(-size // _ALIGNMENT) * _ALIGNMENT :]
        return found


class _Place(NamedTuple):
    """Part of a buffer: offset in bytes, type and shape."""

    start: int
    dtype: torch.dtype
    shape: torch.Size

    @property
    def end(self) -> int:
        return self.start + self.dtype.itemsize * self.shape.numel()


class PackedChunk(NamedTuple):
    """A `Chunk` in a shared buffer, as it crosses from process to process.

    Attributes:
        buffer: its bytes, or the number of the buffer. Bytes can be pinned by DataLoader's own
            thread, but the process that decodes has to hand over their file, which delays both.
    """

    buffer: Buffer | int
    places: Sequence[_Place | None]

    def pin_memory(self) -> PackedChunk:
        """The same in memory that a GPU can copy from beside its work; called by DataLoader."""
        assert isinstance(self.buffer, Tensor)
        return self._replace(buffer=self.buffer.pin_memory())

    def unpack(self, buffers: Sequence[Buffer]) -> Chunk:
        """The chunk; its tensors are views of its buffer."""
        buffer = buffers[self.buffer] if isinstance(self.buffer, int) else self.buffer
        return Chunk._make(
            place and buffer[place.start : place.end].view(place.dtype).view(place.shape)
            for place in self.places
        )


def pack(chunk: Chunk, buffer: Buffer) -> PackedChunk:
    """`chunk`, which `make_chunk` wrote to `buffer`."""
    places = [
        None
        if part is None
        else _Place(int(part.storage_offset()) * part.itemsize, part.dtype, part.shape)
        for part in chunk
    ]
    return PackedChunk(buffer[: max(place.end for place in places if place)], places)
