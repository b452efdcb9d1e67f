"""Student of a trial: a batch, its loss, its scores and its diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cmkd.config.backbones import find_backbone
from cmkd.config.method import GraphIndex
from cmkd.config.trial import TrialConfig
from cmkd.data.splits import Split
from cmkd.method.losses import TeacherTargets, gradient_ratios, total_loss
from cmkd.method.networks import Student, entropy
from cmkd.training.batches import Reader, Rows
from cmkd.training.build import StudentInputs, build_student
from cmkd.training.diagnostics import ClipDiagnostics, graphs_of
from cmkd.training.features import OnlineFeatures, TeacherFeatures
from cmkd.training.loop import StepResult, TrainingLoop, epoch_seed
from cmkd.training.runtime import SINGLE_PROCESS, ProcessGroup, autocast, to_device


@dataclass(frozen=True)
class Batch:
    """Argument of a step of the student."""

    inputs: StudentInputs
    labels: Tensor
    targets: TeacherTargets | None


class StudentLearner(TrainingLoop[Student, Batch]):
    """Training of the student of one trial, distilled from a frozen teacher.

    Args:
        reader: of the data set's clips.
        folder: of the trial, for checkpoints.
        cache: holds the imported weights.
        features: outputs of the teacher; None without KD.
        mean_edges: mean teacher edge of each graph, see `temporal_graph.edges`.
    """

    def __init__(
        self,
        config: TrialConfig,
        reader: Reader,
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
        self.features = features
        self.mean_edges = mean_edges
        self.reads_frames = isinstance(features, OnlineFeatures)
        torch.manual_seed(epoch_seed(config.seed, -1))
        student = build_student(config.setting, reader.picture, num_classes, cache=cache)
        super().__init__(
            to_device(student, reader.device),
            config.setting.training,
            reader,
            split,
            folder,
            owner=config.id,
            seed=config.seed,
            eval_batch=find_backbone(config.setting.student.backbone).eval_batch,
            group=group,
        )

    def load(self, rows: Rows) -> Batch:
        """Inputs and labels of clips, and the teacher's targets for them."""
        targets = None
        if self.features is not None:
            targets = TeacherTargets(*self.features.outputs(rows), self.mean_edges)
        return Batch(self.reader.compressed(rows), self.reader.labels(rows), targets)

    def batch_loss(self, batch: Batch) -> StepResult:
        """Eq. (7) of a batch; its terms and, once an epoch, their gradients are metrics."""
        labels = batch.labels
        with autocast(self.config.precision, self.device):
            output = self.network(*batch.inputs)
        losses = total_loss(output, labels, batch.targets, self.method)
        metrics = {
            "train_acc": 100.0 * (output.logits.argmax(1) == labels).float().mean(),
            **{f"loss_{name.replace(':', '.')}": term for name, term in losses.terms.items()},
        }
        if self.model.gate is not None:
            metrics["alpha_entropy"] = entropy(output.alpha.detach())
        # A compiled network gives h_hat and logits by one function, whose inner gradients cannot
        # be read.
        measures = self.is_first_of_epoch and not self.config.compile
        if measures and batch.targets is not None and output.h_hat is not None:
            ratios = gradient_ratios(losses, output.h_hat, self.method)
            metrics |= {f"gradient_{name.replace(':', '.')}": of for name, of in ratios.items()}
        return StepResult(losses.total, metrics, len(labels))

    def logits(self, rows: Rows) -> Float[Tensor, "R K"]:
        """Scores of single rows."""
        scores: Tensor = self.model(*self.reader.compressed(rows)).logits
        return scores

    def diagnose(self, rows: Rows) -> ClipDiagnostics | None:
        """Gate and graphs on single rows (B,) at the selected epoch; None without a decoder."""
        if self.model.decoder is None:
            return None
        self.model.eval()
        with self.selected(), torch.no_grad(), autocast(self.config.precision, self.device):
            output = self.model(*self.reader.compressed(rows))
        alpha = None if self.model.gate is None else output.alpha.float().cpu()
        return ClipDiagnostics(alpha, graphs_of(output.h_hat, self.method))
