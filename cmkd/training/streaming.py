"""Batches of clips that are decoded while they train, and the choice between them and arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmkd.config.trial import TrialConfig
from cmkd.data.chunks import Chunk
from cmkd.data.clip import MOTION_CELL, RESIDUAL_CELL
from cmkd.data.dataset import Dataset
from cmkd.data.decoded_cache import open_arrays
from cmkd.data.splits import Split
from cmkd.data.stream import ClipStream
from cmkd.data.views import outside_of, resample
from cmkd.machine import usable_cpus
from cmkd.training.batches import (
    ClipReader,
    InputScales,
    Reader,
    Rows,
    ensure_scales,
    first_rows,
    measure_scales,
    to_tensor,
)
from cmkd.training.build import StudentInputs
from cmkd.training.frozen import Part, frozen_maps

MEASURED_CLIPS = 128
"""Training clips, evenly spread, that scales and the teacher's statistics are measured on."""
GPU_PROCESSES = 8
"""Processes that decode for a GPU, as in the scripts of TSM; fewer on a machine of fewer CPUs."""


def open_reader(
    config: TrialConfig,
    dataset: Dataset,
    cache: Path,
    split: Split,
    device: torch.device,
    *,
    seed: int,
) -> Reader:
    """Reader of the arrays of a data set, or of its clips where views are fresh in every epoch.

    Args:
        seed: of fresh views.

    Raises:
        DataError: the arrays were not built, or a clip cannot be read.
        InfrastructureError: the arrays are damaged, or shared memory is too small.
    """
    setting = config.setting
    if setting.inputs.views == "prepared":
        arrays = open_arrays(dataset, setting.reading, cache)
        scales = ensure_scales(
            config, cache, lambda: measure_scales(arrays, first_rows(arrays, split.train))
        )

        def maps_of(part: Part, norm: tuple[Tensor, Tensor]) -> NDArray[np.float16]:
            return frozen_maps(config, part, arrays, cache, norm)

        return ClipReader(arrays, scales, device, setting, maps_of)
    processes = setting.inputs.loaders
    if processes is None:
        processes = min(GPU_PROCESSES, usable_cpus()) if device.type == "cuda" else 1
    stream = ClipStream(
        dataset, setting.reading, seed, processes=processes, pinned=device.type == "cuda"
    )
    scales = ensure_scales(config, cache, lambda: _measure(stream, split.train))
    return StreamReader(stream, config, scales, device)


def _spread(clips: Sequence[int]) -> Sequence[int]:
    return clips[:: -(-len(clips) // MEASURED_CLIPS)]


def _measure(stream: ClipStream, clips: Sequence[int]) -> InputScales:
    """Scales over a part of the unchanged clips."""
    totals = torch.zeros(2, 3, dtype=torch.float64)
    rows = stream.plain_rows(_spread(clips))
    for chunks in stream.read([rows], compressed=True, frames=False):
        for chunk in chunks:
            for total, values in zip(totals, (chunk.motion, chunk.residual), strict=True):
                exact = values.double()
                total += torch.stack(
                    [exact.new_tensor(exact.numel()), exact.sum(), exact.square().sum()]
                )
    counts, sums, squares = totals.unbind(1)
    motion, residual = (squares / counts - (sums / counts).square()).clamp_min(0).sqrt().tolist()
    return InputScales(motion or 1.0, residual or 1.0)


class StreamReader(Reader):
    """Reads rows of a `ClipStream`; the views are applied on the device.

    Rows that `ahead` has not announced are decoded when they are asked for.
    """

    def __init__(
        self, stream: ClipStream, config: TrialConfig, scales: InputScales, device: torch.device
    ) -> None:
        super().__init__(scales, device, config.setting)
        info = stream.dataset.info
        self.stream = stream
        self._crop = info.views.crop
        self.picture = (
            self._crop or info.encoding.height,
            self._crop or info.encoding.width,
        )
        self._batch: _Batch | None = None

    def plain_rows(self, clips: Sequence[int]) -> Rows:
        """Rows of the unchanged clips."""
        return self.stream.plain_rows(clips)

    def epoch_rows(self, clips: Sequence[int], epoch: int) -> Rows:
        """Rows of a view per clip that no other epoch has."""
        return self.stream.epoch_rows(clips, epoch)

    def test_rows(self, clips: Sequence[int]) -> Rows:
        """Rows (B, M) of the views at test."""
        return self.stream.test_rows(clips)

    def measured_rows(self, clips: Sequence[int]) -> Rows:
        """`MEASURED_CLIPS` of the unchanged clips."""
        return self.plain_rows(_spread(clips))

    def classes(self, rows: Rows) -> Rows:
        """Class indices that these rows show."""
        return self.stream.labels(rows)

    def motion(self, rows: Rows) -> NDArray[np.float16]:
        """(B, T, 2 S, h, w) vectors in pixels."""
        scaled = self.compressed(rows)[2].cpu() * self.scales.motion
        return np.asarray(scaled.numpy(), np.float16)

    def compressed(self, rows: Rows) -> StudentInputs:
        """Inputs of the student."""
        found = self._read(rows, compressed=True, frames=False).student
        assert found is not None, "announced without compressed=True"
        return found

    def frames(self, rows: Rows) -> Tensor:
        """Inputs of the teacher."""
        found = self._read(rows, compressed=False, frames=True).teacher
        assert found is not None, "announced without frames=True"
        return found

    def labels(self, rows: Rows) -> Tensor:
        """Class indices of these rows, on the device."""
        return to_tensor(self.classes(rows), self.device)

    def ahead(self, batches: Sequence[Rows], *, compressed: bool, frames: bool) -> Iterator[Rows]:
        """The batches, decoded beside what is done with the ones before."""
        read = self.stream.read(batches, compressed=compressed, frames=frames)
        for rows, chunks in zip(batches, read, strict=True):
            self._batch = _Batch(rows, chunks)
            yield rows
        self._batch = None

    def _read(self, rows: Rows, *, compressed: bool, frames: bool) -> _Tensors:
        batch = self._batch
        if batch is None or not np.array_equal(batch.rows, rows):
            for chunks in self.stream.read([rows], compressed=compressed, frames=frames):
                return self._tensors(chunks)
        assert batch is not None
        if batch.tensors is None:
            batch.tensors = self._tensors(batch.chunks)
        return batch.tensors

    def _tensors(self, chunks: Iterator[Chunk]) -> _Tensors:
        parts: list[_Tensors] = []
        before = 0
        for chunk in chunks:
            part, before = self._moved(chunk, before)
            parts.append(part)
        student = [part.student for part in parts if part.student is not None]
        teacher = [part.teacher for part in parts if part.teacher is not None]
        return _Tensors(
            cast(StudentInputs, tuple(map(torch.cat, zip(*student, strict=True)))) or None,
            torch.cat(teacher) if teacher else None,
        )

    def _moved(self, chunk: Chunk, before: int) -> tuple[_Tensors, int]:
        """A chunk on the device with its views applied; I-frames up to its end."""
        chunk = Chunk._make(
            None if part is None else part.to(self.device, non_blocking=True) for part in chunk
        )
        student = teacher = None
        if chunk.motion.numel():
            iframes = self._view(chunk.iframes[:, None], chunk, 1)
            if self._all_i_frames:
                iframes = iframes.reshape(len(chunk.own), -1, *iframes.shape[2:])
            motion, outside = chunk.motion.float(), outside_of(self._crop)
            if chunk.turns is not None:
                vectors = motion.unflatten(2, (-1, 2))
                motion = torch.einsum("bij,btsjhw->btsihw", chunk.turns, vectors).flatten(2, 3)
            residual = chunk.residual.float()
            student = (
                self._pictures(iframes, self._student_norm),
                chunk.own + before,
                self._view(motion, chunk, MOTION_CELL, outside) / self.scales.motion,
                self._view(residual, chunk, RESIDUAL_CELL, outside) / self.scales.residual,
            )
        if chunk.frames.numel():
            teacher = self._pictures(self._view(chunk.frames, chunk, 1), self._teacher_norm)
        return _Tensors(student, teacher), before + len(chunk.iframes)

    def _view(
        self, maps: Tensor, chunk: Chunk, cell: int, outside: Literal["border", "zeros"] = "border"
    ) -> Tensor:
        matrices = chunk.matrices
        if matrices is None:
            return maps
        if len(maps) != len(matrices):
            matrices = matrices[chunk.clip_of]
        return resample(maps.float(), matrices, self._crop, cell, outside)


@dataclass(frozen=True)
class _Tensors:
    """A batch on the device; None for what was not read."""

    student: StudentInputs | None
    teacher: Tensor | None


@dataclass
class _Batch:
    """A batch that `StreamReader.ahead` announced, and its tensors once they were asked for."""

    rows: Rows
    chunks: Iterator[Chunk]
    tensors: _Tensors | None = None
