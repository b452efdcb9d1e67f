"""Clips decoded by several processes for one that takes them, beside one that decodes them itself.

What takes them is a device that is made up: it is busy for a fixed time with each clip. Real
clips of 320 x 256, 8 frames of student and teacher each.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.reader import real_clips
from cmkd.config.data import (
    DatasetInfo,
    EncodingConfig,
    InputConfig,
    ReaderConfig,
    SplitConfig,
    ViewsConfig,
)
from cmkd.data.dataset import Dataset, read_folder, write_dataset
from cmkd.data.splits import ClipEntry
from cmkd.data.stream import ClipStream
from cmkd.io import file_sha256

LOADERS = (0, 1, 2)
ROUNDS = 5
"""In which all numbers of loaders take turns."""
REPEATS = 8
"""Of each clip in an epoch."""
BATCH = 8
TAKEN = (25, 100, 400)
"""Clips a second of the device."""
READING = ReaderConfig(inputs=InputConfig(num_frames=8, views="fresh"))


@dataclass(frozen=True)
class LoaderFigures:
    """Of `LOADERS`: clips a second, median over rounds; of 0 the rate of one reader.

    Attributes:
        ratios: rates over that of one reader in the same round, median over rounds.
        waiting: share of its time that a device of `TAKEN` waits for two loaders.
    """

    rates: Mapping[int, float]
    ratios: Mapping[int, float]
    waiting: Mapping[int, float]


def measure_loaders(folder: Path) -> LoaderFigures | str:
    """Figures; or why there are no real clips here."""
    (folder / "clips").mkdir(parents=True)
    found = real_clips(folder / "clips")
    if isinstance(found, str):
        return found
    dataset = _dataset(folder / "clips", [path for paths in found.values() for path in paths])
    torch.set_num_threads(1)
    streams = {
        count: ClipStream(dataset, READING, 0, processes=count, pinned=False) for count in LOADERS
    }
    rates: dict[int, list[float]] = {count: [] for count in LOADERS}
    for epoch in range(ROUNDS + 1):
        for count, stream in streams.items():
            clips, seconds, _ = _take(stream, epoch)
            rates[count].append(clips / seconds)
    # Processes start in the first round.
    rates = {count: own[1:] for count, own in rates.items()}
    waiting = {}
    for taken in TAKEN:
        _, seconds, waited = _take(streams[LOADERS[-1]], ROUNDS + taken, taken)
        waiting[taken] = waited / seconds
    return LoaderFigures(
        {count: statistics.median(own) for count, own in rates.items()},
        {
            count: statistics.median(rate / one for rate, one in zip(own, rates[0], strict=True))
            for count, own in rates.items()
        },
        waiting,
    )


def _dataset(root: Path, paths: Sequence[Path]) -> Dataset:
    clips = [
        ClipEntry(str(path.relative_to(root)), number % 2, "", "", file_sha256(path))
        for number, path in enumerate(paths)
    ]
    info = DatasetInfo(
        name="loaders",
        kind="folder",
        classes=("a", "b"),
        encoding=EncodingConfig(),
        views=ViewsConfig(flip="horizontal", phase=True, crop=224),
        split=SplitConfig(folds=2),
        digest="",
    )
    write_dataset(root, info, clips)
    return read_folder(root)


def _take(stream: ClipStream, epoch: int, taken: float = math.inf) -> tuple[int, float, float]:
    """Clips of an epoch, seconds that it took, and seconds in which the device waited."""
    clips = np.arange(len(stream.dataset.clips))
    rows = np.concatenate(
        [stream.epoch_rows(clips, epoch * REPEATS + part) for part in range(REPEATS)]
    )
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    waited, asked = 0.0, time.perf_counter()
    started = asked
    for chunks in stream.read(batches, compressed=True, frames=True):
        for chunk in chunks:
            waited += time.perf_counter() - asked
            time.sleep(len(chunk.labels) / taken)
            asked = time.perf_counter()
    return len(rows), time.perf_counter() - started, waited
