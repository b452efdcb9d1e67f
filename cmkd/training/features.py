"""What the frozen teacher says of training clips: from disk, or computed in every step."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cmkd.config.backbones import find_backbone
from cmkd.config.method import GraphIndex
from cmkd.config.trial import TrialConfig
from cmkd.data.dataset import Dataset
from cmkd.io import load_array, require_space
from cmkd.method.losses import TeacherTargets
from cmkd.training.batches import ClipReader, all_rows, first_rows, in_order
from cmkd.training.checkpoint import read_tensors, write_tensors
from cmkd.training.frozen import FrozenTeacher, open_frozen, teacher_folder

FLOOR = 0.01
"""Least spread a channel is divided by, as a share of the median channel's."""
LARGEST = 100.0
"""Standardised features beyond this are cut, far inside what fp16 holds."""

Rows = NDArray[np.int64]


class TeacherFeatures(Protocol):
    """The teacher's side of batches of training rows."""

    @property
    def batch(self) -> int:
        """Clips that are best looked at together."""

    def targets(self, rows: Rows, mean_edges: Mapping[GraphIndex, float]) -> TeacherTargets:
        """h_t, standardised per channel over the unchanged training clips, and logits."""


@dataclass(frozen=True)
class CachedFeatures:
    """Memory-mapped targets of the training rows.

    Attributes:
        rows: ascending rows of the clip arrays that `h` and `logits` stand for.
        h: (rows, T, C, h, w) fp16, standardised.
        logits: (rows, K) fp32.
    """

    rows: Rows
    h: NDArray[np.float16]
    logits: NDArray[np.float32]
    batch: int
    device: torch.device

    def targets(self, rows: Rows, mean_edges: Mapping[GraphIndex, float]) -> TeacherTargets:
        """What is stored of these rows."""
        where = np.searchsorted(self.rows, rows)
        assert np.array_equal(self.rows[where], rows), "not rows of this teacher's training clips"
        h, logits = (self._tensor(values[where]) for values in (self.h, self.logits))
        return TeacherTargets(h=h.float(), logits=logits, mean_edges=mean_edges)

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor


@dataclass(frozen=True)
class Standard:
    """Mean and spread of every channel of h_t, (C, 1, 1); fp64 where measured."""

    mean: Float[Tensor, "C 1 1"]
    spread: Float[Tensor, "C 1 1"]

    def on(self, device: torch.device) -> Standard:
        """For features on `device`, in fp32."""
        return Standard(self.mean.float().to(device), self.spread.float().to(device))

    def apply(self, h: Float[Tensor, "B T C h w"]) -> Float[Tensor, "B T C h w"]:
        """Every channel with zero mean and unit spread, cut at +-LARGEST."""
        return ((h - self.mean) / self.spread).clamp(-LARGEST, LARGEST)


@dataclass(frozen=True)
class OnlineFeatures:
    """Targets by a forward pass of the teacher; what `CachedFeatures` rounds to fp16."""

    teacher: FrozenTeacher
    reader: ClipReader
    standard: Standard

    @property
    def batch(self) -> int:
        """Clips that are best looked at together."""
        return self.teacher.batch

    def targets(self, rows: Rows, mean_edges: Mapping[GraphIndex, float]) -> TeacherTargets:
        """What the teacher says of these rows."""
        h, logits = self.teacher(self.reader.frames(rows))
        return TeacherTargets(self.standard.apply(h), logits, mean_edges)


def ensure_features(
    config: TrialConfig, cache: Path, dataset: Dataset, reader: ClipReader
) -> TeacherFeatures:
    """The features of the trial's teacher as `teacher.features` says, made when not there yet."""
    folder = teacher_folder(config, cache)
    num_classes = len(dataset.info.classes)
    clips = dataset.split(config.fold).train
    if config.setting.teacher.features == "online":
        return online_features(config, cache, dataset, reader)
    with FileLock(folder / "features.lock"):
        if not (folder / "features").is_dir():
            teacher = open_frozen(config, folder, num_classes, reader.device)
            standard = _standard(teacher, reader, first_rows(reader.arrays, clips), folder)
            _compute(teacher, reader, all_rows(reader.arrays, clips), standard, folder)
    folder = folder / "features"
    return CachedFeatures(
        rows=load_array(folder / "rows.npy"),
        h=load_array(folder / "h.npy", mapped=True),
        logits=load_array(folder / "logits.npy", mapped=True),
        batch=find_backbone(config.setting.teacher.backbone).eval_batch,
        device=reader.device,
    )


def online_features(
    config: TrialConfig, cache: Path, dataset: Dataset, reader: ClipReader
) -> OnlineFeatures:
    """The trial's teacher itself, for any rows of the arrays."""
    folder = teacher_folder(config, cache)
    teacher = open_frozen(config, folder, len(dataset.info.classes), reader.device)
    plain = first_rows(reader.arrays, dataset.split(config.fold).train)
    with FileLock(folder / "features.lock"):
        standard = _standard(teacher, reader, plain, folder)
    return OnlineFeatures(teacher, reader, standard.on(reader.device))


def _compute(
    teacher: FrozenTeacher, reader: ClipReader, rows: Rows, standard: Standard, folder: Path
) -> None:
    temporary = folder / ".features.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    np.save(temporary / "rows.npy", rows)
    maps: np.memmap[Any, Any] | None = None
    scores: np.memmap[Any, Any] | None = None
    for start, (h, logits) in _outputs(teacher, reader, rows):
        if maps is None or scores is None:
            maps = _new_file(temporary / "h.npy", np.float16, (len(rows), *h.shape[1:]))
            scores = _new_file(temporary / "logits.npy", np.float32, (len(rows), *logits.shape[1:]))
        maps[start : start + len(h)] = standard.apply(h).numpy()
        scores[start : start + len(h)] = logits.numpy()
    assert maps is not None and scores is not None
    for values in (maps, scores):
        values.flush()
    temporary.rename(folder / "features")


def _new_file(path: Path, kind: type[np.generic], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    size = np.dtype(kind).itemsize * math.prod(shape)
    require_space(path.parent, size, "teacher features; set teacher.features: online instead")
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def _outputs(
    teacher: FrozenTeacher, reader: ClipReader, rows: Rows
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    start = 0
    for part in in_order(rows, teacher.batch):
        h, logits = teacher(reader.frames(part))
        yield start, (h.cpu(), logits.cpu())
        start += len(part)


def _standard(teacher: FrozenTeacher, reader: ClipReader, rows: Rows, folder: Path) -> Standard:
    path = folder / "standard.safetensors"
    if not path.is_file():
        measured = measure_standard(teacher, reader, rows)
        write_tensors(path, {"mean": measured.mean, "spread": measured.spread}, {})
    return Standard(**read_tensors(path, remedy=str(path)))


def measure_standard(teacher: FrozenTeacher, reader: ClipReader, rows: Rows) -> Standard:
    """Mean and spread of every channel over these rows.

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
    return Standard(mean[:, None, None], spread.clamp_min(floor)[:, None, None])
