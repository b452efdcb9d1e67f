"""What the frozen teacher says of every training clip: computed once, read by all trials."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
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
from cmkd.method.losses import TeacherTargets
from cmkd.method.temporal_graph import mean_square_edges
from cmkd.training.checkpoint import write_json
from cmkd.training.clips import ClipReader, all_rows, first_rows, in_order
from cmkd.training.teacher import EVAL_BATCH, load_teacher, teacher_folder

GRAPHS: tuple[GraphIndex, ...] = (1, 2, 3)


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
    h, logits = teacher_outputs(teacher, reader, rows)
    plain = h[np.searchsorted(rows, first_rows(reader.arrays, clips))]
    mean = plain.mean(axis=(0, 1, 3, 4), keepdims=True, dtype=np.float64)
    spread = plain.std(axis=(0, 1, 3, 4), keepdims=True, dtype=np.float64)
    temporary = folder.with_name(".features.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    standard = ((h - mean) / np.maximum(spread, 1e-6)).astype(np.float16)
    for name, values in (("rows", rows), ("h", standard), ("logits", logits)):
        np.save(temporary / f"{name}.npy", values)
    temporary.rename(folder)


def teacher_outputs(
    teacher: torch.nn.Module, reader: ClipReader, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(h, logits) of these rows, in fp32."""
    maps: list[Tensor] = []
    logits: list[Tensor] = []
    with torch.inference_mode():
        for part in in_order(rows, EVAL_BATCH):
            h, scores = teacher(reader.frames(part))
            maps.append(h.float().cpu())
            logits.append(scores.float().cpu())
    return torch.cat(maps).numpy(), torch.cat(logits).numpy()


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
