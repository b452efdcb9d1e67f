"""Frozen teacher: its features of training clips, on disk or computed in every step.

Also measured once per teacher: mean and SD of its channels, and the size of its temporal graphs.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from cmkd.config.backbones import find_backbone
from cmkd.config.method import GraphIndex, MethodConfig
from cmkd.config.trial import TeacherConfig, TrialConfig
from cmkd.data.dataset import Dataset
from cmkd.io import create_array, load_array
from cmkd.method.networks import Teacher
from cmkd.method.temporal_graph import adjacency, describe, vertices
from cmkd.training.batches import ClipReader, Reader, Rows, all_rows, in_order, to_tensor
from cmkd.training.build import build_teacher
from cmkd.training.outcome import read_finished, read_record, write_finished, write_record
from cmkd.training.runtime import autocast, to_device

SUMMARY_FILE, WEIGHTS_FILE = "summary.json", "teacher.safetensors"
CHANNEL_STATS_FILE, GRAPH_STATS_FILE = "channel_stats.json", "graph_stats.json"
FEATURES_FOLDER, FEATURES_FILE = "features", "features.json"

FLOOR = 0.01
"""Least SD a channel is divided by, as a share of the median channel's."""
LARGEST = 100.0
"""Standardised features beyond this are cut, far inside what fp16 holds."""

GRAPHS: tuple[GraphIndex, ...] = (1, 2, 3)
MOST_ZEROS = 0.5
"""Share of a graph's vertices that may be exactly 0 before a warning."""
SMALLEST = 1e-6
"""Least mean edge before a warning; the student starts orders of magnitude above it."""
LARGEST_RAW = 1e2
"""Largest mean edge under `tg_edge: raw` before a warning; Eq. (6) squares it."""

Outputs = tuple[Float[Tensor, "B T C h w"], Float[Tensor, "B K"]]
"""(h, logits) of `Teacher.forward`."""


def teacher_folder(config: TrialConfig, cache: Path) -> Path:
    """Folder of the trial's teacher."""
    return cache / "teachers" / config.teacher_id


def load_teacher(config: TrialConfig, cache: Path, num_classes: int) -> Teacher:
    """Network of the trial's finished teacher, in evaluation mode.

    Raises:
        InfrastructureError: its files were damaged.
    """
    folder = teacher_folder(config, cache)
    read_finished(folder / SUMMARY_FILE, config.teacher_id)
    teacher = build_teacher(config.setting, num_classes)
    teacher.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return teacher.eval().requires_grad_(False)


class TeacherFeatures(Protocol):
    """Outputs of the teacher for batches of training rows."""

    @property
    def batch(self) -> int:
        """Best number of clips per call."""

    def outputs(self, rows: Rows) -> Outputs:
        """h_t, standardised per channel over the unchanged training clips, and logits, in fp32."""


@dataclass(frozen=True)
class ChannelStats:
    """Mean and SD of every channel of h_t, (C, 1, 1) in fp64."""

    mean: Float[Tensor, "C 1 1"]
    std: Float[Tensor, "C 1 1"]

    def to(self, device: torch.device) -> ChannelStats:
        """The same for features on `device`, in fp32."""
        return ChannelStats(self.mean.float().to(device), self.std.float().to(device))

    def apply(self, h: Float[Tensor, "B T C h w"]) -> Float[Tensor, "B T C h w"]:
        """Every channel with zero mean and unit SD, cut at +-LARGEST."""
        return ((h - self.mean) / self.std).clamp(-LARGEST, LARGEST)


class FrozenTeacher:
    """Trained teacher on the device of `reader`, for rows of its arrays."""

    def __init__(self, network: Teacher, recipe: TeacherConfig, reader: Reader) -> None:
        self.network = to_device(network, reader.device)
        self.precision = recipe.training.precision
        self.batch = find_backbone(recipe.backbone).eval_batch
        self.reader = reader

    def outputs(self, rows: Rows) -> Outputs:
        """Features as they are, and logits, in fp32."""
        with torch.no_grad(), autocast(self.precision, self.reader.device):
            h, logits = self.network(self.reader.frames(rows))
        return h.float(), logits.float()

    def all_outputs(self, rows: Rows) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(number of the first row, h, logits) of batches in order, on the CPU."""
        start = 0
        batches = list(in_order(rows, self.batch))
        for part in self.reader.ahead(batches, compressed=False, frames=True):
            h, logits = self.outputs(part)
            yield start, h.cpu(), logits.cpu()
            start += len(part)

    def measure_stats(self, rows: Rows) -> ChannelStats:
        """Mean and SD of every channel over these rows.

        A channel that hardly ever fires is not blown up to unit SD: a view in which it does fire
        would rule the loss.
        """
        total, square, count = torch.zeros(()).double(), torch.zeros(()).double(), 0
        for _, h, _ in self.all_outputs(rows):
            h = h.double()
            total = total + h.sum((0, 1, 3, 4))
            square = square + h.square().sum((0, 1, 3, 4))
            count += h[:, :, 0].numel()
        mean = total / count
        std = (square / count - mean.square()).clamp_min(0).sqrt()
        alive = std[std > 0]
        floor = FLOOR * float(alive.median()) if len(alive) else 1.0
        return ChannelStats(mean[:, None, None], std.clamp_min(floor)[:, None, None])


@dataclass(frozen=True)
class OnlineFeatures:
    """Outputs for any rows by a forward pass; `CachedFeatures` rounds the same to fp16."""

    teacher: FrozenTeacher
    stats: ChannelStats

    @property
    def batch(self) -> int:
        """Best number of clips per call."""
        return self.teacher.batch

    def outputs(self, rows: Rows) -> Outputs:
        """Standardised features and logits."""
        h, logits = self.teacher.outputs(rows)
        return self.stats.apply(h), logits


def online_features(
    config: TrialConfig, cache: Path, dataset: Dataset, reader: Reader
) -> OnlineFeatures:
    """Outputs of the trial's finished teacher; errors as of `ensure_features`."""
    teacher, stats = _open_teacher(config, cache, dataset, reader)
    return OnlineFeatures(teacher, stats.to(reader.device))


def _open_teacher(
    config: TrialConfig, cache: Path, dataset: Dataset, reader: Reader
) -> tuple[FrozenTeacher, ChannelStats]:
    network = load_teacher(config, cache, len(dataset.info.classes))
    teacher = FrozenTeacher(network, config.setting.teacher, reader)
    path = teacher_folder(config, cache) / CHANNEL_STATS_FILE
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            plain = reader.measured_rows(dataset.split(config.fold).train)
            stats = teacher.measure_stats(plain)
            values = {"mean": stats.mean.flatten().tolist(), "std": stats.std.flatten().tolist()}
            write_record(path, config.teacher_id, values)
        stored = read_record(path, config.teacher_id)
    mean, std = (torch.tensor(stored[name], dtype=torch.float64) for name in ("mean", "std"))
    return teacher, ChannelStats(mean[:, None, None], std[:, None, None])


@dataclass(frozen=True)
class CachedFeatures:
    """Memory-mapped outputs for the training rows.

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

    def outputs(self, rows: Rows) -> Outputs:
        """Stored features and logits."""
        where = np.searchsorted(self.rows, rows)
        assert np.array_equal(self.rows[where], rows), "not rows of this teacher's training clips"
        h, logits = (to_tensor(values[where], self.device) for values in (self.h, self.logits))
        return h.float(), logits


def ensure_features(
    config: TrialConfig, cache: Path, dataset: Dataset, reader: Reader
) -> TeacherFeatures:
    """Features of the trial's teacher as `teacher.features` says, made if they are not there.

    Raises:
        InfrastructureError: files of the teacher were damaged.
    """
    if config.setting.teacher.features == "online":
        return online_features(config, cache, dataset, reader)
    folder = teacher_folder(config, cache) / FEATURES_FOLDER
    record = folder / FEATURES_FILE
    with FileLock(folder.with_name("features.lock")):
        if not record.is_file():
            teacher, stats = _open_teacher(config, cache, dataset, reader)
            assert isinstance(reader, ClipReader), "`Setting` refuses this of fresh views"
            rows = all_rows(reader.arrays, dataset.split(config.fold).train)
            _compute(teacher, stats, rows, folder)
            files = ("rows.npy", "h.npy", "logits.npy")
            write_finished(record, config.teacher_id, files, {})
    read_finished(record, config.teacher_id)
    return CachedFeatures(
        rows=load_array(folder / "rows.npy"),
        h=load_array(folder / "h.npy", mapped=True),
        logits=load_array(folder / "logits.npy", mapped=True),
        batch=find_backbone(config.setting.teacher.backbone).eval_batch,
        device=reader.device,
    )


def _compute(teacher: FrozenTeacher, stats: ChannelStats, rows: Rows, folder: Path) -> None:
    """Write the arrays of `CachedFeatures`; they count from the moment their record is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    np.save(folder / "rows.npy", rows)
    first_h, first_logits = teacher.outputs(rows[:1])
    purpose = "teacher features; set teacher.features: online instead"
    shape, classes = (len(rows), *first_h.shape[1:]), first_logits.shape[1:]
    maps = create_array(folder / "h.npy", np.float16, shape, purpose)
    scores = create_array(folder / "logits.npy", np.float32, (len(rows), *classes), purpose)
    for start, h, logits in teacher.all_outputs(rows):
        maps[start : start + len(h)] = stats.apply(h).numpy()
        scores[start : start + len(h)] = logits.numpy()
    maps.flush()
    scores.flush()


def drop_features(folder: Path) -> None:
    """Remove everything that was measured of the teacher in `folder`."""
    shutil.rmtree(folder / FEATURES_FOLDER, ignore_errors=True)
    for name in (CHANNEL_STATS_FILE, GRAPH_STATS_FILE):
        (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class GraphStats:
    """Size of one temporal graph of the teacher over the unchanged training clips.

    Attributes:
        mean: mean edge per dimension of a vertex, the scale of `tg_edge: sqrt` (A11).
        raw: mean edge of Eq. (3) as written.
        zeros: share of the entries of vertices that are exactly 0.
    """

    mean: float
    raw: float
    zeros: float


def ensure_mean_edges(
    config: TrialConfig, cache: Path, features: TeacherFeatures, plain_rows: Rows
) -> Mapping[GraphIndex, float]:
    """`GraphStats.mean` of each graph, measured once per teacher, `tg_features` and `tg_kernel`.

    Warns (UserWarning, with the figures) where the interpretation of Eqs. (3) and (5) that the
    trial chooses leaves temporal KD without effect, or makes it dominate (A9, A11).

    Raises:
        InfrastructureError: the file that keeps them was damaged.
    """
    method, owner = config.setting.method, config.teacher_id
    path = teacher_folder(config, cache) / GRAPH_STATS_FILE
    key = f"{method.tg_features}/{method.tg_kernel}"
    with FileLock(f"{path}.lock"):
        known: dict[str, Any] = read_record(path, owner) if path.is_file() else {}
        if key not in known:
            measured = measure_graph_stats(features, plain_rows, method)
            known[key] = {str(graph): asdict(measured[graph]) for graph in GRAPHS}
            write_record(path, owner, known)
    stats = {graph: GraphStats(**known[key][str(graph)]) for graph in GRAPHS}
    for graph in method.tg if method.lambda_2 else ():
        if problem := find_problem(graph, stats[graph], method):
            warnings.warn(problem, stacklevel=2)
    return {graph: stats[graph].mean for graph in GRAPHS}


def find_problem(graph: GraphIndex, stats: GraphStats, config: MethodConfig) -> str | None:
    """Reason why the size of a teacher's graph defeats temporal KD."""
    if stats.zeros > MOST_ZEROS or stats.raw < SMALLEST:
        return (
            f"method.tg_kernel {config.tg_kernel}: TG_{graph} of the teacher vanishes; "
            f"{100 * stats.zeros:.1f} % of its vertices are exactly 0 and its mean edge is "
            f"{stats.raw:.3g}, so it cannot be taught; elementwise keeps it"
        )
    if config.tg_edge == "raw" and stats.raw > LARGEST_RAW:
        return (
            f"method.tg_edge raw: the mean edge of TG_{graph} of the teacher is {stats.raw:.3g}, "
            f"so its term of Eq. (6) is of the order {stats.raw**2:.3g} beside a cross-entropy "
            "of about 1; use sqrt or max, or a smaller lambda_2"
        )
    return None


def measure_graph_stats(
    features: TeacherFeatures, plain_rows: Rows, config: MethodConfig
) -> Mapping[GraphIndex, GraphStats]:
    """Stats of each graph, averaged over these rows."""
    sums = {graph: np.zeros(3) for graph in GRAPHS}
    for part in in_order(plain_rows, features.batch):
        h = describe(features.outputs(part)[0], config)
        for graph in GRAPHS:
            v = vertices(h, graph, config)
            raw = adjacency(v)
            mean = (raw / v.shape[-1]).mean((1, 2)).sum()
            zeros = (v == 0).float().mean((1, 2)).sum()
            sums[graph] += [float(mean), float(raw.mean((1, 2)).sum()), float(zeros)]
    return {graph: GraphStats(*(sums[graph] / len(plain_rows)).tolist()) for graph in GRAPHS}
