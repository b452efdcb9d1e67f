"""What the frozen teacher says of every training clip: computed once, read by all trials."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from cmkd.config.method import GraphIndex, MethodConfig
from cmkd.config.trial import TrialConfig
from cmkd.data.datasets import Dataset
from cmkd.data.files import require_space
from cmkd.method.losses import TeacherTargets
from cmkd.method.teacher import Teacher
from cmkd.method.temporal_graph import mean_square_edges
from cmkd.training.checkpoint import write_json
from cmkd.training.clips import ClipReader, all_rows, first_rows, in_order
from cmkd.training.teacher import EVAL_BATCH, load_teacher, teacher_folder

GRAPHS: tuple[GraphIndex, ...] = (1, 2, 3)
FLOOR = 0.01
"""Least spread a channel is divided by, as a share of the median channel's."""
LARGEST = 100.0
"""Standardised features beyond this are cut, far inside what fp16 holds."""


@dataclass(frozen=True)
class TeacherFeatures:
    """Memory-mapped targets of the training rows.

    Attributes:
        rows: ascending rows of the clip arrays that `h` and `logits` stand for.
        h: (rows, T, C, h, w) fp16, standardised per channel over the unchanged training clips.
        logits: (rows, K) fp32.
    """

    rows: NDArray[np.int64]
    h: NDArray[np.float16]
    logits: NDArray[np.float32]

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of h_t."""
        return int(self.h.shape[-2]), int(self.h.shape[-1])

    def targets(
        self,
        rows: NDArray[np.int64],
        mean_edges: Mapping[GraphIndex, float],
        device: torch.device,
    ) -> TeacherTargets:
        """The teacher's side of a batch of rows."""
        where = np.searchsorted(self.rows, rows)
        assert np.array_equal(self.rows[where], rows), "not rows of this teacher's training clips"
        h = torch.from_numpy(self.h[where]).to(device, non_blocking=True).float()
        logits = torch.from_numpy(self.logits[where]).to(device, non_blocking=True)
        return TeacherTargets(h=h, logits=logits, mean_edges=mean_edges)


def ensure_features(
    config: TrialConfig, cache: Path, dataset: Dataset, reader: ClipReader
) -> TeacherFeatures:
    """Open the features of the trial's teacher, computing them when they are not there."""
    folder = teacher_folder(config, cache) / "features"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _compute(config, cache, dataset, reader, folder)
    return TeacherFeatures(
        rows=np.load(folder / "rows.npy"),
        h=np.load(folder / "h.npy", mmap_mode="r"),
        logits=np.load(folder / "logits.npy", mmap_mode="r"),
    )


def _compute(
    config: TrialConfig, cache: Path, dataset: Dataset, reader: ClipReader, folder: Path
) -> None:
    teacher = load_teacher(config, folder.parent, len(dataset.info.classes)).to(reader.device)
    clips = dataset.split(config.fold).train
    rows = all_rows(reader.arrays, clips)
    mean, spread = _channel_statistics(teacher, reader, first_rows(reader.arrays, clips))
    temporary = folder.with_name(".features.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    np.save(temporary / "rows.npy", rows)
    maps: np.memmap[Any, Any] | None = None
    scores: np.memmap[Any, Any] | None = None
    for start, (h, logits) in _outputs(teacher, reader, rows):
        if maps is None or scores is None:
            maps = _new_file(temporary / "h.npy", np.float16, (len(rows), *h.shape[1:]))
            scores = _new_file(temporary / "logits.npy", np.float32, (len(rows), *logits.shape[1:]))
        standard = ((h.double() - mean) / spread).clamp(-LARGEST, LARGEST)
        maps[start : start + len(h)] = standard.numpy()
        scores[start : start + len(h)] = logits.numpy()
    assert maps is not None and scores is not None
    for values in (maps, scores):
        values.flush()
    temporary.rename(folder)


def _new_file(path: Path, kind: type[np.generic], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    size = np.dtype(kind).itemsize * math.prod(shape)
    require_space(path.parent, size, "teacher features")
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def _outputs(
    teacher: Teacher, reader: ClipReader, rows: NDArray[np.int64]
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    start = 0
    for part in in_order(rows, EVAL_BATCH):
        with torch.inference_mode():
            h, logits = teacher(reader.frames(part))
        yield start, (h.float().cpu(), logits.float().cpu())
        start += len(part)


def _channel_statistics(
    teacher: Teacher, reader: ClipReader, rows: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Mean and spread of every channel, (C, 1, 1) in fp64.

    A channel that hardly ever fires is not blown up to unit spread: a view in which it does fire
    would rule the loss.
    """
    total, square, count = torch.zeros(()).double(), torch.zeros(()).double(), 0
    for _, (h, _) in _outputs(teacher, reader, rows):
        h = h.double()
        total = total + h.sum((0, 1, 3, 4))
        square = square + h.square().sum((0, 1, 3, 4))
        count += h[:, :, 0].numel()
    mean = total / count
    spread = (square / count - mean.square()).clamp_min(0).sqrt()
    alive = spread[spread > 0]
    floor = FLOOR * float(alive.median()) if len(alive) else 1.0
    return mean[:, None, None], spread.clamp_min(floor)[:, None, None]


def mean_edges(
    features: TeacherFeatures, plain_rows: NDArray[np.int64], config: MethodConfig, cache_file: Path
) -> Mapping[GraphIndex, float]:
    """Mean teacher edge of each graph over the unchanged training clips (A11), kept in a file."""
    key = f"{config.tg_features}/{config.tg_kernel}"
    with FileLock(f"{cache_file}.lock"):
        known: dict[str, Any] = json.loads(cache_file.read_text()) if cache_file.is_file() else {}
        if key not in known:
            known[key] = _measure_edges(features, plain_rows, config)
            write_json(cache_file, known)
    return {graph: float(known[key][str(graph)]) for graph in GRAPHS}


def _measure_edges(
    features: TeacherFeatures, plain_rows: NDArray[np.int64], config: MethodConfig
) -> dict[str, float]:
    sums = dict.fromkeys(GRAPHS, 0.0)
    for part in in_order(np.searchsorted(features.rows, plain_rows), EVAL_BATCH):
        h = torch.from_numpy(features.h[part]).float()
        for graph in GRAPHS:
            per_clip = mean_square_edges(h, graph, config).mean((1, 2))
            sums[graph] += float(per_clip.sum())
    return {str(graph): sums[graph] / len(plain_rows) for graph in GRAPHS}
