"""Clips decoded while a network is trained on them, with a new view of each in every epoch.

Processes read ahead of the training, and nothing is written. A view is drawn from seed, epoch and
path of the clip, so that any number of processes and a resumed epoch give the same batches.

Rows stand for views as they do in `cmkd.data.decoded_cache`: row n * N + c is view n of the c-th
of N clips; view 0 is the plain one, then come those at test, then those of epoch 0, 1, ...
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cmkd.config.data import DatasetInfo, EncodingConfig, ReaderConfig
from cmkd.data.clip import MOTION_CELL, RESIDUAL_CELL, Clip, read_clip
from cmkd.data.dataset import Dataset
from cmkd.data.decoded_cache import check_content, check_fit
from cmkd.data.splits import ClipEntry
from cmkd.data.views import View, apply_view, draw_view, label_of, plain_view, vector_turn
from cmkd.data.views import views_at_test as all_views_at_test
from cmkd.errors import FileError, InfrastructureError

CHUNK_BYTES = 32 << 20
"""Clips that cross from one process to another at once; a larger clip crosses alone."""
AHEAD = 2
"""Chunks that each process reads ahead."""
SHARED_MEMORY = Path("/dev/shm")
SECONDS_PER_CHUNK = 300.0
"""Longest wait for a chunk, after which the process that reads it counts as hung."""

Rows = Int64[np.ndarray, " B"]


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


class Request(NamedTuple):
    """Work of one process at a time: (clip, label shown, view) of the clips of a chunk.

    Attributes:
        compressed, frames: as of `read_clip`.
        moved: the views are applied by whoever receives the chunk.
    """

    clips: tuple[tuple[ClipEntry, int, View], ...]
    compressed: bool
    frames: bool
    moved: bool


class ClipStream:
    """Views of a data set's clips, read in processes of their own.

    Args:
        seed: of the views in training.
        processes: that read ahead; 0 reads when asked, in this process.
        pinned: give chunks in memory that a GPU can copy from beside its work.

    Raises:
        DataError: `config` asks for crops at test that the data set cannot have.
        InfrastructureError: shared memory is too small for so many processes.
    """

    def __init__(
        self, dataset: Dataset, config: ReaderConfig, seed: int, *, processes: int, pinned: bool
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        info = dataset.info
        self._sides = info.encoding.height, info.encoding.width
        self._plain = plain_view(info.views, *self._sides)
        self._at_test = all_views_at_test(info.views, config.inputs, *self._sides)
        self._per_chunk = max(1, CHUNK_BYTES // clip_bytes(info.encoding, config))
        if processes:
            _require_shared_memory(processes, max(CHUNK_BYTES, clip_bytes(info.encoding, config)))
        self._requests = _Requests()
        self._loader: DataLoader[Chunk | FileError] = DataLoader(
            _Decoder(dataset.root, info, config),
            batch_size=None,
            sampler=self._requests,
            num_workers=processes,
            collate_fn=_unchanged,
            pin_memory=pinned,
            multiprocessing_context=_clean_processes() if processes else None,
            timeout=SECONDS_PER_CHUNK if processes else 0,
            worker_init_fn=_end_with_trainer,
            prefetch_factor=AHEAD if processes else None,
            persistent_workers=processes > 0,
            # Else each pass draws from the generator that dropout uses.
            generator=torch.Generator(),
        )

    def plain_rows(self, clips: Sequence[int]) -> Rows:
        """Rows of the unchanged clips."""
        return np.asarray(clips, np.int64)

    def test_rows(self, clips: Sequence[int]) -> Int64[np.ndarray, "B M"]:
        """Rows of the M views at test."""
        views = np.arange(1, 1 + len(self._at_test))
        return np.asarray(clips, np.int64)[:, None] + views * len(self.dataset.clips)

    def epoch_rows(self, clips: Sequence[int], epoch: int) -> Rows:
        """Rows of the views of an epoch, from 0."""
        view = 1 + len(self._at_test) + epoch
        return np.asarray(clips, np.int64) + view * len(self.dataset.clips)

    def labels(self, rows: Rows) -> Int64[np.ndarray, " B"]:
        """Classes that rows show."""
        return np.array([self._view(int(row))[1] for row in rows], np.int64)

    def read(
        self, batches: Iterable[Rows], *, compressed: bool, frames: bool
    ) -> Iterator[Iterator[Chunk]]:
        """The chunks of each batch, in order; one batch is to be used up before the next.

        Only one call may be under way at a time. All rows of a call are in training, or none.

        Args:
            compressed, frames: what is read of each clip, see `read_clip`.

        Raises:
            FileError: a clip cannot be read or differs from the manifest; raised by the chunks.
            InfrastructureError: a reading process died or hangs; raised by the chunks.
        """
        lengths: list[int] = []

        def requests() -> Iterator[Request]:
            for rows in batches:
                lengths.append(-(-len(rows) // self._per_chunk))
                for start in range(0, len(rows), self._per_chunk):
                    part = rows[start : start + self._per_chunk]
                    yield self._request(part, compressed, frames)

        self._requests.current = requests()
        chunks = self._chunks()
        done = 0
        for first in chunks:
            rest = islice(chunks, lengths[done] - 1)
            yield _joined(first, rest)
            for _ in rest:
                pass
            done += 1

    def _chunks(self) -> Iterator[Chunk]:
        chunks = iter(self._loader)
        while True:
            try:
                found = next(chunks, None)
            # The last two where it dies while it hands over a chunk.
            except (RuntimeError, EOFError, OSError) as error:
                cause = next(iter(str(error).splitlines()), type(error).__name__)
                raise InfrastructureError(
                    f"a process that decodes clips of {self.dataset.info.name} is gone or hangs "
                    f"({cause})",
                    "lower inputs.loaders if memory or /dev/shm ran out, else look for a bad clip "
                    f"with: cmkd data verify {self.dataset.info.name}",
                ) from error
            if found is None:
                return
            if isinstance(found, FileError):
                name = self.dataset.info.name
                remedy = f"{found.remedy}; all such clips are listed by: cmkd data verify {name}"
                raise FileError(found.path, found.reason, remedy)
            yield found

    def _request(self, rows: Rows, compressed: bool, frames: bool) -> Request:
        moved = int(rows[0]) // len(self.dataset.clips) > len(self._at_test)
        clips = []
        for row in rows:
            view, label = self._view(int(row))
            clips.append((self.dataset.clips[int(row) % len(self.dataset.clips)], label, view))
        return Request(tuple(clips), compressed, frames, moved)

    def _view(self, row: int) -> tuple[View, int]:
        number, clip = divmod(row, len(self.dataset.clips))
        entry, info = self.dataset.clips[clip], self.dataset.info
        if number == 0:
            return self._plain, entry.label
        if number <= len(self._at_test):
            return self._at_test[number - 1], entry.label
        key = f"{self.seed}\0{number - 1 - len(self._at_test)}\0{entry.path}"
        view = draw_view(info.views, key, *self._sides)
        return view, label_of(info, entry.label, view)


def _clean_processes() -> BaseContext:
    """Processes forked of one that has this module and no threads: a fork of a trainer may hang."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _end_with_trainer(_number: int) -> None:
    """End this process with the trainer; DataLoader watches the server that forks, which stays."""
    trainer = multiprocessing.parent_process()
    assert trainer is not None

    def wait() -> None:
        trainer.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _joined(first: Chunk, rest: Iterator[Chunk]) -> Iterator[Chunk]:
    yield first
    yield from rest


def _unchanged(chunk: Any) -> Any:
    return chunk


class _Requests:
    """Sampler of torch's DataLoader whose items are given anew for each pass."""

    current: Iterator[Request] = iter(())

    def __iter__(self) -> Iterator[Request]:
        return self.current


class _Decoder(TorchDataset[Chunk | FileError]):
    """Reads requests. It crosses processes, so it holds nothing that grows with the clips."""

    def __init__(self, root: Path, info: DatasetInfo, config: ReaderConfig) -> None:
        self._root, self._info, self._config = root, info, config

    def __getitem__(self, request: Request) -> Chunk | FileError:
        try:
            return self._read(request)
        except FileError as error:
            # DataLoader would make a RuntimeError of it.
            return error

    def _read(self, request: Request) -> Chunk:
        clips = [self._clip(entry, view, request) for entry, _, view in request.clips]
        counts = [len(clip.iframes) for clip in clips]
        starts = np.cumsum([0, *counts[:-1]])
        matrices = turns = None
        if request.moved:
            views = [view for _, _, view in request.clips]
            sides = self._info.encoding.height, self._info.encoding.width
            matrices = torch.tensor([view.matrix for view in views])
            turns = torch.from_numpy(np.stack([vector_turn(view, *sides) for view in views]))
        return Chunk(
            labels=torch.tensor([label for _, label, _ in request.clips]),
            iframes=torch.from_numpy(np.concatenate([clip.iframes for clip in clips])),
            clip_of=torch.from_numpy(np.repeat(np.arange(len(clips)), counts)),
            own=_stacked([clip.gop + start for clip, start in zip(clips, starts, strict=True)]),
            motion=_stacked([clip.motion for clip in clips]),
            residual=_stacked([clip.residual for clip in clips]),
            frames=_stacked([clip.frames for clip in clips]),
            matrices=matrices,
            turns=None if turns is None else turns.float(),
        )

    def _clip(self, entry: ClipEntry, view: View, request: Request) -> Clip:
        path = self._root / entry.path
        check_content(path, entry.sha256, self._root, self._info)
        clip = read_clip(
            path,
            self._config,
            phase=view.phase,
            compressed=request.compressed,
            frames=request.frames,
        )
        check_fit(path, clip, self._info.encoding)
        return clip if request.moved else apply_view(clip, view)


def _stacked(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def clip_bytes(encoding: EncodingConfig, config: ReaderConfig) -> int:
    """Largest size of a clip in a `Chunk`, in bytes."""
    frames, pixels = config.inputs.num_frames, encoding.width * encoding.height
    iframes = 3 * pixels * (config.inputs.num_gops or frames)
    motion = 2 * 2 * config.compressed_segment * pixels // MOTION_CELL**2
    residual = 2 * 3 * config.compressed_segment * pixels // RESIDUAL_CELL**2
    return iframes + frames * (motion + residual + 3 * config.raw_segment * pixels)


def _require_shared_memory(processes: int, chunk: int) -> None:
    if not SHARED_MEMORY.is_dir():
        return
    need, free = (processes * AHEAD + 1) * chunk, shutil.disk_usage(SHARED_MEMORY).free
    if need > free:
        raise InfrastructureError(
            f"{SHARED_MEMORY}: has {free / 2**30:.2f} GiB free, {processes} processes that decode "
            f"clips need up to {need / 2**30:.2f} GiB",
            "enlarge it (docker run --shm-size, mount -o remount,size=), or lower inputs.loaders; "
            "0 needs none of it",
        )
