"""Batches of decoded clips as tensors, from the memory-mapped arrays of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmkd.config.backbones import find_backbone
from cmkd.config.trial import Setting
from cmkd.data.decoded_cache import ClipArrays

VIEW_SEED = 0
"""Of the views that clips start from: the same for all trials, so that arms stay paired."""

SCALE_VALUES = 2**26
"""Values that a scale is measured on, at most: large data sets are measured on a part."""


@dataclass(frozen=True)
class CompressedBatch:
    """Inputs of the student, normalised: the arguments of `Student.forward`, in order."""

    i_frames: Tensor
    gop: Tensor
    motion: Tensor
    residual: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Positional arguments of the student."""
        return self.i_frames, self.gop, self.motion, self.residual


class ClipReader:
    """Reads rows of `ClipArrays`; motion and residual are divided by their training-set SD.

    Pictures are normalised as the networks of `setting` expect.

    Args:
        scale_rows: rows that the two scales are measured on (unchanged training clips).
    """

    def __init__(
        self,
        arrays: ClipArrays,
        scale_rows: NDArray[np.int64],
        device: torch.device,
        setting: Setting,
    ) -> None:
        self.arrays = arrays
        self.device = device
        self.motion_scale = _spread(arrays.motion, scale_rows)
        self.residual_scale = _spread(arrays.residual, scale_rows)
        self._of_student = _normalisation(setting.student.backbone, device)
        self._of_teacher = _normalisation(setting.teacher.backbone, device)

    @property
    def picture(self) -> tuple[int, int]:
        """(height, width) of I-frames and decoded frames."""
        return int(self.arrays.iframes.shape[-2]), int(self.arrays.iframes.shape[-1])

    def compressed(self, rows: NDArray[np.int64]) -> CompressedBatch:
        """What the student sees of these rows."""
        motion = self._tensor(self.arrays.motion[rows]).float() / self.motion_scale
        residual = self._tensor(self.arrays.residual[rows]).float() / self.residual_scale
        return CompressedBatch(
            i_frames=self._pictures(self.arrays.iframes[rows], self._of_student),
            gop=self._tensor(self.arrays.gop[rows]).long(),
            motion=motion,
            residual=residual,
        )

    def frames(self, rows: NDArray[np.int64]) -> Tensor:
        """What the teacher sees of these rows: (B, T, 3 S, H, W) for segments of S frames."""
        return self._pictures(self.arrays.frames[rows], self._of_teacher)

    def labels(self, rows: NDArray[np.int64]) -> Tensor:
        """Class indices of these rows."""
        return self._tensor(self.arrays.labels[rows])

    def _pictures(self, values: NDArray[Any], like: tuple[Tensor, Tensor]) -> Tensor:
        mean, spread = like
        frames: Tensor = self._tensor(values).float().unflatten(2, (-1, 3))
        return ((frames - mean) / spread).flatten(2, 3)

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor


def _normalisation(backbone: str, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = find_backbone(backbone).normalisation
    return (
        torch.tensor(mean, device=device)[:, None, None],
        torch.tensor(std, device=device)[:, None, None],
    )


def _spread(values: NDArray[Any], rows: NDArray[np.int64]) -> float:
    most = max(1, SCALE_VALUES // int(np.prod(values.shape[1:])))
    chosen = rows[:: -(-len(rows) // most)]
    spread = float(values[chosen].std(dtype=np.float64))
    return spread if spread > 0 else 1.0


def view_rows(arrays: ClipArrays, clips: Sequence[int], epoch: int) -> NDArray[np.int64]:
    """Rows of one view per clip; each clip cycles through its views from a start of its own."""
    index = arrays.index[np.asarray(clips)]
    views = (index >= 0).sum(1)
    # Drawn, not counted: clips in label order and views in flip order would otherwise pair up,
    # and an epoch would hold only the mirror images of a class.
    starts = np.random.default_rng(VIEW_SEED).integers(0, 2**31, len(arrays.index))
    turn = (starts[np.asarray(clips)] + epoch) % views
    return np.asarray(index[np.arange(len(index)), turn], dtype=np.int64)


def all_rows(arrays: ClipArrays, clips: Sequence[int]) -> NDArray[np.int64]:
    """Rows of every view of these clips, in ascending order."""
    index = arrays.index[np.asarray(clips)]
    return np.sort(index[index >= 0]).astype(np.int64)


def first_rows(arrays: ClipArrays, clips: Sequence[int]) -> NDArray[np.int64]:
    """Rows of the unchanged clips (view 0)."""
    return np.asarray(arrays.index[np.asarray(clips), 0], dtype=np.int64)


def shuffled(rows: NDArray[np.int64], size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Batches of about `size` rows in a seeded order, every row once."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows), generator=generator).numpy()
    yield from np.array_split(rows[order], num_batches(len(rows), size))


def num_batches(count: int, size: int) -> int:
    """How many batches `shuffled` makes."""
    return max(1, round(count / size))


def in_order(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Batches of `size` rows as they stand."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
