"""Batches of decoded clips as tensors; `ClipReader` takes them from memory-mapped arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmkd.config.backbones import find_backbone
from cmkd.config.base import content_id
from cmkd.config.trial import Setting, TrialConfig
from cmkd.data.decoded_cache import READER, ClipArrays
from cmkd.method.networks import Side
from cmkd.training.build import StudentInputs, sees_all_i_frames
from cmkd.training.outcome import read_record, write_record

Rows = NDArray[np.int64]

VIEW_SEED = 0
"""Draw of the view that each clip starts from: one for all trials, so that arms stay paired."""

SCALE_VALUES = 2**26
"""Most values that a scale is measured on; of large data sets a part is taken."""


@dataclass(frozen=True)
class InputScales:
    """SD of motion vectors and residuals over the unchanged training clips."""

    motion: float
    residual: float


def measure_scales(arrays: ClipArrays, rows: Rows) -> InputScales:
    """Scales over these rows of the arrays."""
    return InputScales(_std(arrays.motion, rows), _std(arrays.residual, rows))


def ensure_scales(
    config: TrialConfig, cache: Path, measure: Callable[[], InputScales]
) -> InputScales:
    """Scales of the trial's training clips, measured once per data set, inputs and fold.

    Raises:
        InfrastructureError: the file that keeps them was damaged.
    """
    key = content_id("scales", READER, config.data_id, config.setting.reading, config.fold)
    path = cache / "scales" / f"{key}.json"
    if path.is_file():
        return InputScales(**read_record(path, key))
    scales = measure()
    write_record(path, key, vars(scales))
    return scales


def _std(values: NDArray[Any], rows: Rows) -> float:
    most = max(1, SCALE_VALUES // int(np.prod(values.shape[1:])))
    chosen = rows[:: -(-len(rows) // most)]
    std = float(values[chosen].std(dtype=np.float64))
    return std if std > 0 else 1.0


class Reader(ABC):
    """Views of clips, named by rows, as normalised tensors on `device`.

    Pictures are normalised as the networks of `setting` expect, motion and residual are divided
    by their scale.

    Attributes:
        picture: (height, width) of I-frames and decoded frames.
    """

    picture: Side

    def __init__(self, scales: InputScales, device: torch.device, setting: Setting) -> None:
        self.scales = scales
        self.device = device
        self._all_i_frames = sees_all_i_frames(setting)
        self._student_norm = _normalisation(setting.student.backbone, device)
        self._teacher_norm = _normalisation(setting.teacher.backbone, device)

    @abstractmethod
    def plain_rows(self, clips: Sequence[int]) -> Rows:
        """Rows of the unchanged clips."""

    @abstractmethod
    def epoch_rows(self, clips: Sequence[int], epoch: int) -> Rows:
        """Rows of one view per clip, those of an epoch from 0."""

    @abstractmethod
    def test_rows(self, clips: Sequence[int]) -> Rows:
        """Rows (B, M) of the M views at test."""

    @abstractmethod
    def measured_rows(self, clips: Sequence[int]) -> Rows:
        """Rows of the unchanged clips that statistics are measured on."""

    @abstractmethod
    def classes(self, rows: Rows) -> Rows:
        """Class indices that these rows show."""

    @abstractmethod
    def motion(self, rows: Rows) -> NDArray[np.float16]:
        """(B, T, 2 S, h, w) vectors in pixels."""

    @abstractmethod
    def compressed(self, rows: Rows) -> StudentInputs:
        """Inputs of the student: the arguments of `Student.forward`, in order."""

    @abstractmethod
    def frames(self, rows: Rows) -> Tensor:
        """Inputs of the teacher: (B, T, 3 S, H, W) for segments of S frames."""

    @abstractmethod
    def labels(self, rows: Rows) -> Tensor:
        """Class indices of these rows, on the device."""

    def ahead(self, batches: Sequence[Rows], *, compressed: bool, frames: bool) -> Iterator[Rows]:
        """The batches, each of which is to be read by the methods above before the next.

        Args:
            compressed, frames: which of them will be called.
        """
        yield from batches

    def _pictures(self, values: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        mean, std = norm
        frames: Tensor = values.float().unflatten(2, (-1, 3))
        return ((frames - mean) / std).flatten(2, 3)


MapsOf = Callable[[Literal["student", "teacher"], tuple[Tensor, Tensor]], NDArray[np.float16]]
"""Maps of frozen stages, in place of the pictures of a network; see `frozen_maps`."""


class ClipReader(Reader):
    """Reads rows of `ClipArrays`.

    Args:
        maps_of: called once for each network with frozen stages whose pictures are asked for.
    """

    def __init__(
        self,
        arrays: ClipArrays,
        scales: InputScales,
        device: torch.device,
        setting: Setting,
        maps_of: MapsOf | None = None,
    ) -> None:
        super().__init__(scales, device, setting)
        self.arrays = arrays
        self._maps_of = maps_of
        self._frozen = setting.student.frozen > 0, setting.teacher.frozen > 0
        self.picture = int(arrays.iframes.shape[-2]), int(arrays.iframes.shape[-1])

    def plain_rows(self, clips: Sequence[int]) -> Rows:
        """`first_rows` of the arrays."""
        return first_rows(self.arrays, clips)

    def epoch_rows(self, clips: Sequence[int], epoch: int) -> Rows:
        """`view_rows` of the arrays."""
        return view_rows(self.arrays, clips, epoch)

    def test_rows(self, clips: Sequence[int]) -> Rows:
        """Rows (B, M) of the views at test."""
        return np.asarray(self.arrays.test_index[list(clips)])

    def measured_rows(self, clips: Sequence[int]) -> Rows:
        """All of the unchanged clips."""
        return self.plain_rows(clips)

    def classes(self, rows: Rows) -> Rows:
        """Class indices that these rows show."""
        return np.asarray(self.arrays.labels[rows])

    def motion(self, rows: Rows) -> NDArray[np.float16]:
        """(B, T, 2 S, h, w) vectors in pixels."""
        return np.asarray(self.arrays.motion[rows])

    def compressed(self, rows: Rows) -> StudentInputs:
        """Inputs of the student: the arguments of `Student.forward`, in order."""
        pictures = self.arrays.iframes if self._i_maps is None else self._i_maps
        i_frames, own = select_i_frames(
            pictures[rows], self.arrays.gop[rows], together=self._all_i_frames
        )
        found = self._tensor(i_frames)
        return (
            self._pictures(found, self._student_norm) if self._i_maps is None else found.float(),
            self._tensor(own),
            self._tensor(self.arrays.motion[rows]).float() / self.scales.motion,
            self._tensor(self.arrays.residual[rows]).float() / self.scales.residual,
        )

    def frames(self, rows: Rows) -> Tensor:
        """Inputs of the teacher: (B, T, 3 S, H, W) for segments of S frames, or frozen maps."""
        if self._teacher_maps is not None:
            return self._tensor(self._teacher_maps[rows]).float()
        return self._pictures(self._tensor(self.arrays.frames[rows]), self._teacher_norm)

    @cached_property
    def _i_maps(self) -> NDArray[np.float16] | None:
        if self._maps_of is None or not self._frozen[0]:
            return None
        return self._maps_of("student", self._student_norm)

    @cached_property
    def _teacher_maps(self) -> NDArray[np.float16] | None:
        if self._maps_of is None or not self._frozen[1]:
            return None
        return self._maps_of("teacher", self._teacher_norm)

    def labels(self, rows: Rows) -> Tensor:
        """Class indices of these rows."""
        return self._tensor(self.arrays.labels[rows])

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return to_tensor(values, self.device)


def to_tensor(values: NDArray[Any], device: torch.device) -> Tensor:
    """`values` on `device`; on CUDA copied from pinned memory without waiting."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def select_i_frames(
    i_frames: NDArray[Any], gop: NDArray[np.int8], *, together: bool
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """I-frames (N, G', 3, H, W) that the student sees, and the index (B, T) of each P-frame's own.

    Here and not in the network, whose shapes then depend on no values.

    Args:
        i_frames: (B, G, 3, H, W), or their frozen maps.
        gop: (B, T) I-frame of each P-frame (A4).
        together: True for an I-branch that looks from one I-frame to another: it gets all G of a
            clip, in order. Else each I-frame that a P-frame names is a clip of its own.
    """
    slots = gop + i_frames.shape[1] * np.arange(len(gop))[:, None]
    if together:
        return i_frames, slots
    used, own = np.unique(slots, return_inverse=True)
    return i_frames.reshape(-1, 1, *i_frames.shape[2:])[used], own.reshape(slots.shape)


def _normalisation(backbone: str, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = find_backbone(backbone).normalisation
    return (
        torch.tensor(mean, device=device)[:, None, None],
        torch.tensor(std, device=device)[:, None, None],
    )


def view_rows(arrays: ClipArrays, clips: Sequence[int], epoch: int) -> Rows:
    """Rows of one view per clip; each clip cycles through its views from a start of its own."""
    index = arrays.index[np.asarray(clips)]
    views = (index >= 0).sum(1)
    # Drawn, not counted: clips in label order and views in flip order would otherwise pair up,
    # and an epoch would hold only the mirror images of a class.
    starts = np.random.default_rng(VIEW_SEED).integers(0, 2**31, len(arrays.index))
    turn = (starts[np.asarray(clips)] + epoch) % views
    return np.asarray(index[np.arange(len(index)), turn], dtype=np.int64)


def all_rows(arrays: ClipArrays, clips: Sequence[int]) -> Rows:
    """Rows of every view of these clips, in ascending order."""
    index = arrays.index[np.asarray(clips)]
    return np.sort(index[index >= 0]).astype(np.int64)


def first_rows(arrays: ClipArrays, clips: Sequence[int]) -> Rows:
    """Rows of the unchanged clips (view 0)."""
    return np.asarray(arrays.index[np.asarray(clips), 0], dtype=np.int64)


def shuffled(rows: Rows, size: int, seed: int) -> Iterator[Rows]:
    """Batches of about `size` rows in a seeded order, every row once."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows), generator=generator).numpy()
    yield from np.array_split(rows[order], num_batches(len(rows), size))


def num_batches(count: int, size: int) -> int:
    """Number of batches that `shuffled` makes."""
    return max(1, round(count / size))


def in_order(rows: Rows, size: int) -> Iterator[Rows]:
    """Batches of `size` consecutive rows."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
