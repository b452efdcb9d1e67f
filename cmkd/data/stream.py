"""Clips decoded while a network is trained on them, with a new view of each in every epoch.

Processes read ahead of the training, and nothing is written. A view is drawn from seed, epoch and
path of the clip, so that any number of processes and a resumed epoch give the same batches.

Rows stand for views as they do in `cmkd.data.decoded_cache`: row n * N + c is view n of the c-th
of N clips; view 0 is the plain one, then come those at test, then those of epoch 0, 1, ...
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cmkd.config.data import DatasetInfo, ReaderConfig
from cmkd.data.chunks import (
    AHEAD,
    Buffer,
    Chunk,
    PackedChunk,
    clips_per_chunk,
    make_chunk,
    pack,
    shared_buffers,
)
from cmkd.data.clip import Clip, read_clip
from cmkd.data.dataset import Dataset
from cmkd.data.decoded_cache import check_content, check_fit
from cmkd.data.splits import ClipEntry
from cmkd.data.views import View, apply_view, draw_view, label_of, plain_view
from cmkd.data.views import views_at_test as all_views_at_test
from cmkd.errors import FileError, InfrastructureError

SECONDS_PER_CHUNK = 300.0
"""Longest wait for a chunk, after which the process that reads it counts as hung."""
SECONDS_PER_LOOK = 5.0
"""Interval at which a wait checks that the processes live."""

Rows = Int64[np.ndarray, " B"]
_Reply = Chunk | PackedChunk | FileError


class Request(NamedTuple):
    """Work of one process at a time: (clip, label shown, view) of the clips of a chunk.

    Attributes:
        compressed, frames: as of `read_clip`.
        moved: the views are applied by whoever receives the chunk.
        buffer: number of the shared buffer that the chunk is for.
    """

    clips: tuple[tuple[ClipEntry, int, View], ...]
    compressed: bool
    frames: bool
    moved: bool
    buffer: int


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
        self._per_chunk = clips_per_chunk(info.encoding, config)
        self._buffers = shared_buffers(processes, info.encoding, config)
        self._requests = _Requests()
        self._loader: DataLoader[_Reply] = DataLoader(
            _Decoder(dataset.root, info, config, self._buffers, pinned),
            batch_size=None,
            sampler=self._requests,
            num_workers=processes,
            collate_fn=_unchanged,
            pin_memory=pinned,
            multiprocessing_context=_clean_processes() if processes else None,
            timeout=SECONDS_PER_LOOK if processes else 0,
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

        A chunk may be overwritten once the next is asked for. Only one call may be under way at a
        time. All rows of a call are in training, or none.

        Args:
            compressed, frames: what is read of each clip, see `read_clip`.

        Raises:
            FileError: a clip cannot be read or differs from the manifest; raised by the chunks.
            InfrastructureError: a reading process died or hangs; raised by the chunks.
        """
        lengths: list[int] = []
        numbers = count()

        def requests() -> Iterator[Request]:
            for rows in batches:
                lengths.append(-(-len(rows) // self._per_chunk))
                # Of one size: DataLoader gives them to its processes in turn.
                for part in np.array_split(rows, lengths[-1]):
                    yield self._request(part, compressed, frames, next(numbers))

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
        since = time.monotonic()
        while True:
            try:
                found = next(chunks, None)
            # The last two where it dies while it hands over a chunk.
            except (RuntimeError, EOFError, OSError) as error:
                cause = next(iter(str(error).splitlines()), type(error).__name__)
                is_late = cause.startswith("DataLoader timed out")
                if is_late and time.monotonic() - since < SECONDS_PER_CHUNK:
                    continue
                raise InfrastructureError(
                    f"a process that decodes clips of {self.dataset.info.name} is gone or hangs "
                    f"({f'no clip for {SECONDS_PER_CHUNK:.0f} s' if is_late else cause})",
                    "lower inputs.loaders if memory or /dev/shm ran out, else look for a bad clip "
                    f"with: cmkd data verify {self.dataset.info.name}",
                ) from error
            if found is None:
                return
            if isinstance(found, FileError):
                name = self.dataset.info.name
                remedy = f"{found.remedy}; all such clips are listed by: cmkd data verify {name}"
                raise FileError(found.path, found.reason, remedy)
            yield found.unpack(self._buffers) if isinstance(found, PackedChunk) else found
            since = time.monotonic()

    def _request(self, rows: Rows, compressed: bool, frames: bool, number: int) -> Request:
        moved = int(rows[0]) // len(self.dataset.clips) > len(self._at_test)
        clips = []
        for row in rows:
            view, label = self._view(int(row))
            clips.append((self.dataset.clips[int(row) % len(self.dataset.clips)], label, view))
        buffer = number % len(self._buffers) if self._buffers else 0
        return Request(tuple(clips), compressed, frames, moved, buffer)

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


class _Decoder(TorchDataset[_Reply]):
    """Reads requests. It crosses processes, so it holds nothing that grows with the clips."""

    def __init__(
        self,
        root: Path,
        info: DatasetInfo,
        config: ReaderConfig,
        buffers: Sequence[Buffer],
        pinned: bool,
    ) -> None:
        self._root, self._info, self._config = root, info, config
        self._buffers, self._pinned = buffers, pinned

    def __getitem__(self, request: Request) -> _Reply:
        buffer = self._buffers[request.buffer] if self._buffers else None
        try:
            chunk = self._read(request, buffer)
        except FileError as error:
            # DataLoader would make a RuntimeError of it.
            return error
        if buffer is None:
            return chunk
        packed = pack(chunk, buffer)
        return packed if self._pinned else packed._replace(buffer=request.buffer)

    def _read(self, request: Request, buffer: Buffer | None) -> Chunk:
        clips = [self._clip(entry, view, request) for entry, _, view in request.clips]
        labels = [label for _, label, _ in request.clips]
        views = [view for _, _, view in request.clips] if request.moved else None
        return make_chunk(clips, labels, views, self._info.encoding, buffer)

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
