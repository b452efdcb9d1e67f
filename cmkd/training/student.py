"""The student of a trial: one step of its training, its validation and its predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmkd.config.backbones import find_backbone
from cmkd.config.method import GraphIndex
from cmkd.config.trial import TrialConfig
from cmkd.data.splits import Split
from cmkd.method.attention_gate import entropy
from cmkd.method.losses import TeacherTargets, gradient_ratios, total_loss
from cmkd.training.batches import ClipReader, first_rows, in_order, num_batches, shuffled, view_rows
from cmkd.training.checkpoint import write_tensors
from cmkd.training.diagnostics import ClipDiagnostics, graphs_of
from cmkd.training.distributed import SINGLE_PROCESS, ProcessGroup
from cmkd.training.evaluate import Validation, clip_scores, validation
from cmkd.training.features import TeacherFeatures
from cmkd.training.loop import EpochLoop, StepResult, epoch_seed
from cmkd.training.networks import StudentInputs, build_student
from cmkd.training.runtime import autocast, to_device

Rows = NDArray[np.int64]

STUDENT_FILE = "student.safetensors"


@dataclass(frozen=True)
class Batch:
    """Argument of a step of the student."""

    inputs: StudentInputs
    labels: Tensor
    targets: TeacherTargets | None


class StudentLearner(EpochLoop[Batch]):
    """The student of one trial, distilled from a frozen teacher.

    Args:
        reader: of the data set's arrays.
        folder: of the trial, for checkpoints.
        cache: holds the imported weights.
        features: targets of the teacher; None without KD.
        mean_edges: mean teacher edge of each graph, see `temporal_graph.edges`.
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
        mean_edges: Mapping[GraphIndex, float],
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.method = config.setting.method
        self.reader = reader
        self.split = split
        self.features = features
        self.mean_edges = mean_edges
        self.eval_batch = find_backbone(config.setting.student.backbone).eval_batch
        self.num_classes = num_classes
        self._measured_epochs = 0
        torch.manual_seed(epoch_seed(config.seed, -1))
        student = build_student(config.setting, reader.picture, num_classes, cache=cache)
        self.student = to_device(student, reader.device)
        super().__init__(
            self.student,
            config.setting.training,
            folder,
            owner=config.id,
            seed=config.seed,
            steps_per_epoch=num_batches(len(split.train), config.setting.training.batch_size),
            batches=self._batches,
            load=self._load,
            step=self._step,
            validate=self._validate,
            group=group,
        )

    def _batches(self, epoch: int) -> Iterable[Rows]:
        rows = view_rows(self.reader.arrays, self.split.train, epoch)
        return shuffled(rows, self.config.batch_size, epoch_seed(self.seed, epoch))

    def _load(self, rows: Rows) -> Batch:
        targets = None
        if self.features is not None:
            targets = self.features.targets(rows, self.mean_edges)
        return Batch(self.reader.compressed(rows), self.reader.labels(rows), targets)

    def _step(self, batch: Batch) -> StepResult:
        labels = batch.labels
        with autocast(self.config.precision, self.reader.device):
            output = self.student(*batch.inputs)
        losses = total_loss(output, labels, batch.targets, self.method)
        metrics = {
            "train_acc": 100.0 * (output.logits.argmax(1) == labels).float().mean(),
            **{f"loss_{name.replace(':', '.')}": term for name, term in losses.terms.items()},
        }
        if self.student.gate is not None:
            metrics["alpha_entropy"] = entropy(output.alpha.detach())
        if self._is_first_of_epoch() and batch.targets is not None and output.h_hat is not None:
            ratios = gradient_ratios(losses, output.h_hat, self.method)
            metrics |= {f"gradient_{name.replace(':', '.')}": one for name, one in ratios.items()}
        return StepResult(losses.total, metrics, len(labels))

    def _is_first_of_epoch(self) -> bool:
        """Whether this step is the first of its epoch; never of a compiled network.

        There h_hat and the logits come from one function, whose inner gradients cannot be read.
        """
        epoch = len(self.history) + 1
        first, self._measured_epochs = epoch > self._measured_epochs, epoch
        return first and not self.config.compile

    def _validate(self) -> Validation:
        rows = first_rows(self.reader.arrays, self.split.val)
        return validation(self._scores(rows), self.reader.arrays.labels[rows])

    def _scores(self, rows: Rows) -> Tensor:
        """Logits (R, K) of single rows; each process computes its share."""
        self.student.eval()
        scores = torch.zeros(len(rows), self.num_classes, device=self.device)
        own = np.array_split(np.arange(len(rows)), self.group.size)[self.group.rank]
        with torch.inference_mode(), autocast(self.config.precision, self.device):
            for part in in_order(own, self.eval_batch):
                output = self.student(*self.reader.compressed(rows[part]))
                scores[part] = output.logits.float()
        return self.group.sum(scores).cpu()

    def predict(self, rows: Rows) -> tuple[Rows, Rows]:
        """Classes of clips, given by their rows (N, M), at the selected and at the last epoch."""
        last = clip_scores(self._scores, rows).argmax(1).numpy()
        if self.best_epoch == len(self.history):
            return last, last
        with self._selected():
            selected = clip_scores(self._scores, rows).argmax(1).numpy()
        return selected, last

    def diagnose(self, rows: Rows) -> ClipDiagnostics | None:
        """Gate and graphs on single rows (B,) at the selected epoch; None without a decoder."""
        if self.student.decoder is None:
            return None
        self.student.eval()
        with self._selected(), torch.no_grad(), autocast(self.config.precision, self.device):
            output = self.student(*self.reader.compressed(rows))
        alpha = None if self.student.gate is None else output.alpha.float().cpu()
        return ClipDiagnostics(alpha, graphs_of(output.h_hat, self.method))

    @contextmanager
    def _selected(self) -> Iterator[None]:
        """Give the student its selected weights while the block runs."""
        last = {name: value.clone() for name, value in self.student.state_dict().items()}
        self.student.load_state_dict(self.best_weights)
        yield
        self.student.load_state_dict(last)

    def summary(self) -> Mapping[str, float]:
        """Number of parameters."""
        return {"parameters": float(sum(p.numel() for p in self.student.parameters()))}

    def save(self, folder: Path) -> tuple[str, ...]:
        """Write the selected weights, with the scales of their inputs; returns the file's name."""
        scales = self.reader.scales
        notes = {
            "id": self.owner,
            "motion_scale": repr(scales.motion),
            "residual_scale": repr(scales.residual),
        }
        write_tensors(folder / STUDENT_FILE, self.best_weights, notes)
        return (STUDENT_FILE,)
