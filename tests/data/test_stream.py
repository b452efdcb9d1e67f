"""Clips read ahead by processes: the arrays' values, new views every epoch, and what breaks."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cmkd.config.data import (
    DatasetInfo,
    EncodingConfig,
    InputConfig,
    ReaderConfig,
    SplitConfig,
    ViewsConfig,
)
from cmkd.data import chunks as chunks_module
from cmkd.data import stream as stream_module
from cmkd.data.chunks import Chunk
from cmkd.data.clip import read_clip
from cmkd.data.dataset import Dataset, read_folder, write_dataset
from cmkd.data.splits import ClipEntry
from cmkd.data.stream import ClipStream
from cmkd.data.video import encode
from cmkd.data.views import apply_view, plain_view, views_at_test
from cmkd.errors import FileError, InfrastructureError
from cmkd.io import file_sha256

CLIPS = 10
READING = ReaderConfig(inputs=InputConfig(num_frames=4, num_gops=2, test_clips=2, views="fresh"))
Open = Callable[..., ClipStream]


@pytest.fixture(scope="module")
def made(panning: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips of 64 x 64, each starting elsewhere, of which views are cut to 48 x 48."""
    root = tmp_path_factory.mktemp("streamed")
    encoding = EncodingConfig(width=64, height=64, gop=6)
    clips = []
    for number in range(CLIPS):
        path = root / f"{number}.mp4"
        encode(np.roll(panning, 5 * number, axis=1)[number % 3 :], path, encoding)
        clips.append(ClipEntry(path.name, number % 2, "", "", file_sha256(path)))
    info = DatasetInfo(
        name="streamed",
        kind="folder",
        classes=("left", "right"),
        encoding=encoding,
        views=ViewsConfig(count=2, flip="horizontal", phase=True, crop=48),
        split=SplitConfig(folds=2),
        flip_labels={"horizontal": {"left": "right", "right": "left"}},
        digest="",
    )
    write_dataset(root, info, clips)
    return root


@pytest.fixture
def dataset(made: Path) -> Dataset:
    return read_folder(made)


@pytest.fixture
def open_stream(dataset: Dataset) -> Iterator[Open]:
    opened = []

    def make(processes: int = 0, seed: int = 0, of: Dataset = dataset) -> ClipStream:
        opened.append(ClipStream(of, READING, seed, processes=processes, pinned=False))
        return opened[-1]

    yield make
    del opened[:]


def read(stream: ClipStream, *batches: np.ndarray, compressed: bool = True) -> list[list[Chunk]]:
    found = stream.read(batches, compressed=compressed, frames=True)
    return [list(chunks) for chunks in found]


def test_plain_and_test_views_are_those_of_decoded_arrays(
    dataset: Dataset, open_stream: Open
) -> None:
    stream, clips, views = open_stream(), [6, 1, 3], dataset.info.views
    at_test = views_at_test(views, READING.inputs, 64, 64)
    rows = stream.test_rows(clips)
    assert rows.shape == (3, len(at_test)) == (3, 2)
    shown = {plain_view(views, 64, 64): stream.plain_rows(clips)}
    shown |= dict(zip(at_test, rows.T, strict=True))
    for view, own_rows in shown.items():
        ((chunk,),) = read(stream, own_rows)
        assert chunk.matrices is None
        assert chunk.labels.tolist() == stream.labels(own_rows).tolist() == [0, 1, 1]
        for place, number in enumerate(clips):
            path = dataset.root / dataset.clips[number].path
            kept = apply_view(read_clip(path, READING, phase=view.phase), view)
            for name in ("motion", "residual", "frames"):
                assert np.array_equal(getattr(chunk, name)[place], getattr(kept, name)), name
            assert np.array_equal(chunk.iframes[chunk.own[place].long()], kept.iframes[kept.gop])


def test_any_number_of_processes_gives_the_same_batches(
    open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks_module, "CHUNK_BYTES", 3 << 17)
    alone, two = open_stream(0), open_stream(2)
    rows = [alone.epoch_rows([7, 1, 4, 2, 9], 3), alone.epoch_rows([0, 8], 3)]
    for _ in range(2):
        first, second = read(alone, *rows), read(two, *rows)
        assert [len(chunks) for chunks in first] == [2, 1]
        for one, other in zip(sum(first, []), sum(second, []), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_processes_write_to_the_same_memory_again(open_stream: Open) -> None:
    alone, two = open_stream(0), open_stream(2)
    rows = [alone.epoch_rows([clip], epoch) for epoch in range(3) for clip in range(CLIPS)]
    passes = []
    for _ in range(2):
        used = []
        own = [chunk for (chunk,) in read(alone, *rows)]
        found = two.read(rows, compressed=True, frames=True)
        for one, (other,) in zip(own, found, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
            used.append(other.labels.untyped_storage().data_ptr())
        passes.append(used)
    count = 2 * (chunks_module.AHEAD + 1)
    assert len(set(passes[0])) == len(set(passes[0][:count])) == count
    assert passes[0] == passes[1]


def test_a_chunk_in_bytes_is_that_of_its_buffer(dataset: Dataset, open_stream: Open) -> None:
    """As it crosses to a GPU, whose DataLoader copies the bytes to pinned memory."""
    stream = open_stream()
    ((chunk,),) = read(stream, stream.epoch_rows([3, 5], 0))
    size = sum(part.nbytes + 64 for part in chunk if part is not None)
    buffer = torch.zeros(size, dtype=torch.uint8)
    clips = [read_clip(dataset.root / f"{number}.mp4", READING) for number in (3, 5)]
    views = [plain_view(dataset.info.views, 64, 64)] * 2
    made = chunks_module.make_chunk(clips, [1, 0], views, dataset.info.encoding, buffer)
    packed = chunks_module.pack(made, buffer)
    other = packed._replace(buffer=packed.buffer.clone())
    buffer.zero_()
    plain = chunks_module.make_chunk(clips, [1, 0], views, dataset.info.encoding)
    for one, two in zip(other.unpack([]), plain, strict=True):
        assert torch.equal(one, two) and one.dtype == two.dtype


def test_views_differ_by_epoch_and_seed_and_follow_from_both(open_stream: Open) -> None:
    clips = range(CLIPS)

    def views(seed: int, epoch: int) -> torch.Tensor:
        stream = open_stream(seed=seed)
        ((chunk,),) = read(stream, stream.epoch_rows(clips, epoch))
        assert np.array_equal(chunk.labels, stream.labels(stream.epoch_rows(clips, epoch)))
        assert chunk.matrices is not None
        return chunk.matrices

    assert torch.equal(views(0, 1), views(0, 1))
    assert len({tuple(views(*key).flatten().tolist()) for key in ((0, 0), (0, 1), (1, 0))}) == 3


def test_flips_swap_classes_and_half_of_the_views_are_flipped(open_stream: Open) -> None:
    stream = open_stream()
    rows = np.concatenate([stream.epoch_rows(range(CLIPS), epoch) for epoch in range(40)])
    labels = stream.labels(rows)
    flipped = labels != np.tile(np.arange(CLIPS) % 2, 40)
    assert 0.4 < flipped.mean() < 0.6


def test_only_what_is_asked_for_is_read(open_stream: Open) -> None:
    stream = open_stream()
    rows = stream.epoch_rows([3], 0)
    ((whole,),) = read(stream, rows)
    ((taught,),) = read(stream, rows, compressed=False)
    assert (taught.motion.numel(), taught.iframes.numel()) == (0, 0)
    assert torch.equal(taught.frames, whole.frames)
    ((chunk,),) = (list(chunks) for chunks in stream.read([rows], compressed=True, frames=False))
    assert chunk.frames.numel() == 0
    assert torch.equal(chunk.residual, whole.residual)


@pytest.mark.parametrize("processes", [0, 1])
def test_a_clip_that_breaks_is_named_with_the_command_that_finds_others(
    dataset: Dataset, tmp_path: Path, open_stream: Open, processes: int
) -> None:
    for path in dataset.root.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    os.truncate(tmp_path / "4.mp4", 3000)
    stream = open_stream(processes, of=replace(dataset, root=tmp_path))
    with pytest.raises(
        FileError, match=r"4\.mp4: differs from manifest.*cmkd data verify"
    ) as raised:
        read(stream, *(stream.epoch_rows([clip], 0) for clip in range(8)))
    assert raised.value.path == str(tmp_path / "4.mp4")
    # Others are read as before.
    assert len(read(stream, stream.epoch_rows([5, 6], 0))) == 1


def test_a_reading_process_that_is_killed_ends_in_a_clear_error(
    open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "SECONDS_PER_LOOK", 0.5)
    before = {process.pid for process in multiprocessing.active_children()}
    stream = open_stream(1)
    batches = [stream.epoch_rows([clip], epoch) for epoch in range(200) for clip in range(CLIPS)]
    reading = stream.read(batches, compressed=True, frames=True)
    next(reading)
    (process,) = [one for one in multiprocessing.active_children() if one.pid not in before]
    process.kill()
    with pytest.raises(InfrastructureError, match=r"clips of streamed is gone.*inputs\.loaders"):
        list(map(list, reading))


def test_a_reading_process_that_hangs_is_given_up(
    dataset: Dataset, tmp_path: Path, open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in dataset.root.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "4.mp4").unlink()
    # Whoever opens it waits for ever for somebody who writes.
    os.mkfifo(tmp_path / "4.mp4")
    monkeypatch.setattr(stream_module, "SECONDS_PER_CHUNK", 3.0)
    monkeypatch.setattr(stream_module, "SECONDS_PER_LOOK", 0.5)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    before = {process.pid for process in multiprocessing.active_children()}
    stream = open_stream(1, of=replace(dataset, root=tmp_path))
    with pytest.raises(InfrastructureError, match=r"hangs .*no clip for 3 s.*cmkd data verify"):
        read(stream, *(stream.epoch_rows([clip], 0) for clip in range(8)))
    del stream._loader
    assert {process.pid for process in multiprocessing.active_children()} <= before


def test_shared_memory_that_is_too_small_is_said_before_the_first_clip(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = type("Usage", (), {"free": 64 << 20})
    monkeypatch.setattr(chunks_module.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(chunks_module, "SHARED_MEMORY", tmp_path)
    with pytest.raises(InfrastructureError, match=r"0\.06 GiB free, 8 processes.*--shm-size"):
        ClipStream(dataset, READING, 0, processes=8, pinned=False)
    ClipStream(dataset, READING, 0, processes=0, pinned=False)
