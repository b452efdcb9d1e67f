"""What a trial trains: the contract of a learner, and the student distilled from its teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmkd.config.backbones import find_backbone
from cmkd.config.method import GraphIndex
from cmkd.config.trial import TrialConfig
from cmkd.data.splits import Split
from cmkd.method.attention_gate import entropy
from cmkd.method.losses import TeacherTargets, total_loss
from cmkd.tracking.store import EpochRecord
from cmkd.training.batches import (
    ClipReader,
    CompressedBatch,
    first_rows,
    in_order,
    num_batches,
    shuffled,
    view_rows,
)
from cmkd.training.checkpoint import write_tensors
from cmkd.training.diagnostics import Inside, graphs_of
from cmkd.training.distributed import ALONE, Peers
from cmkd.training.evaluate import Validation, clip_scores, validation
from cmkd.training.features import TeacherFeatures
from cmkd.training.loop import EpochLoop, StepResult, epoch_seed
from cmkd.training.networks import build_student
from cmkd.training.runtime import autocast, place

Rows = NDArray[np.int64]


class Learner(Protocol):
    """What a trial trains: the student network, or the reference on motion vectors."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    best: Validation
    notes: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""

    def train_epoch(self) -> EpochRecord:
        """Train, validate and checkpoint one epoch."""

    def predict(self, rows: Rows) -> tuple[Rows, Rows]:
        """Classes of clips, given by their rows (N, M), at the selected and at the last epoch."""

    def inside(self, rows: Rows) -> Inside | None:
        """Gate and graphs on single rows (B,) at the selected epoch; None where there are none."""

    def figures(self) -> Mapping[str, float]:
        """Further summary figures."""

    def save(self, folder: Path) -> None:
        """Keep the selected weights."""


@dataclass(frozen=True)
class Batch:
    """What a step of the student takes."""

    inputs: CompressedBatch
    labels: Tensor
    targets: TeacherTargets | None


class StudentLearner(EpochLoop[Batch]):
    """The student of one trial, distilled from a frozen teacher.

    Args:
        reader: of the data set's arrays.
        folder: of the trial, for checkpoints.
        cache: where imported weights are.
        features: what the teacher says of training clips; None without KD.
        edges: mean teacher edge of each graph, see `temporal_graph.edges`.
    """

    def __init__(
        self,
        config: TrialConfig,
        reader: ClipReader,
        split: Split,
        num_classes: int,
        folder: Path,
        cache: Path,
        *,
        features: TeacherFeatures | None,
        edges: Mapping[GraphIndex, float],
        peers: Peers = ALONE,
    ) -> None:
        self.method = config.setting.method
        self.reader = reader
        self.split = split
        self.features = features
        self.edges = edges
        self.eval_batch = find_backbone(config.setting.student.backbone).eval_batch
        self.num_classes = num_classes
        torch.manual_seed(epoch_seed(config.seed, -1))
        student = build_student(config.setting, reader.picture, num_classes, cache=cache)
        self.student = place(student, reader.device)
        super().__init__(
            self.student,
            config.setting.training,
            folder,
            seed=config.seed,
            steps_per_epoch=num_batches(len(split.train), config.setting.training.batch_size),
            batches=self._batches,
            load=self._load,
            step=self._step,
            validate=self._validate,
            peers=peers,
        )

    def _batches(self, epoch: int) -> Iterable[Rows]:
        rows = view_rows(self.reader.arrays, self.split.train, epoch)
        return shuffled(rows, self.config.batch_size, epoch_seed(self.seed, epoch))

    def _load(self, rows: Rows) -> Batch:
        targets = None
        if self.features is not None:
            targets = self.features.targets(rows, self.edges)
        return Batch(self.reader.compressed(rows), self.reader.labels(rows), targets)

    def _step(self, batch: Batch) -> StepResult:
        labels = batch.labels
        with autocast(self.config.precision, self.reader.device):
            output = self.student(*batch.inputs.inputs)
        losses = total_loss(output, labels, batch.targets, self.method)
        figures = {
            "train_acc": 100.0 * (output.logits.argmax(1) == labels).float().mean(),
            **{f"loss_{name.replace(':', '.')}": term for name, term in losses.terms.items()},
        }
        if self.student.gate is not None:
            figures["alpha_entropy"] = entropy(output.alpha.detach())
        return StepResult(losses.total, figures, len(labels))

    def _validate(self) -> Validation:
        rows = first_rows(self.reader.arrays, self.split.val)
        return validation(self._scores(rows), self.reader.arrays.labels[rows])

    def _scores(self, rows: Rows) -> Tensor:
        """Logits (R, K) of single rows; each process computes its share."""
        self.student.eval()
        scores = torch.zeros(len(rows), self.num_classes, device=self.device)
        own = np.array_split(np.arange(len(rows)), self.peers.size)[self.peers.rank]
        with torch.inference_mode(), autocast(self.config.precision, self.device):
            for part in in_order(own, self.eval_batch):
                output = self.student(*self.reader.compressed(rows[part]).inputs)
                scores[part] = output.logits.float()
        return self.peers.sum(scores).cpu()

    def predict(self, rows: Rows) -> tuple[Rows, Rows]:
        """Classes of clips, given by their rows (N, M), at the selected and at the last epoch."""
        last = clip_scores(self._scores, rows).argmax(1).numpy()
        with self._selected():
            selected = clip_scores(self._scores, rows).argmax(1).numpy()
        return selected, last

    def inside(self, rows: Rows) -> Inside | None:
        """Gate and graphs on single rows (B,) at the selected epoch; None without a decoder."""
        if self.student.decoder is None:
            return None
        self.student.eval()
        with self._selected(), torch.no_grad(), autocast(self.config.precision, self.device):
            output = self.student(*self.reader.compressed(rows).inputs)
        alpha = None if self.student.gate is None else output.alpha.float().cpu()
        return Inside(alpha, graphs_of(output.h_hat, self.method))

    @contextmanager
    def _selected(self) -> Iterator[None]:
        """The student as selected, while the block runs."""
        last = {name: value.clone() for name, value in self.student.state_dict().items()}
        self.student.load_state_dict(self.best_weights)
        yield
        self.student.load_state_dict(last)

    def figures(self) -> Mapping[str, float]:
        """Number of parameters."""
        return {"parameters": float(sum(p.numel() for p in self.student.parameters()))}

    def save(self, folder: Path) -> None:
        """Keep the selected weights, with the scales their inputs are divided by."""
        scales = {
            "motion_scale": repr(self.reader.motion_scale),
            "residual_scale": repr(self.reader.residual_scale),
        }
        write_tensors(folder / "student.safetensors", self.best_weights, scales)
