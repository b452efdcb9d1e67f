"""RGB teacher of a data set, fold and seed: trained once, then read by all its trials."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cmkd.config.backbones import find_backbone
from cmkd.config.trial import TrialConfig
from cmkd.data.dataset import open_planned
from cmkd.data.splits import Split
from cmkd.errors import InputError
from cmkd.io import locked
from cmkd.method.networks import Teacher
from cmkd.provenance import sign
from cmkd.tracking.store import EpochRecord
from cmkd.training.batches import Reader, Rows
from cmkd.training.build import build_teacher
from cmkd.training.checkpoint import drop_checkpoints, write_tensors
from cmkd.training.features import SUMMARY_FILE, WEIGHTS_FILE, drop_features, teacher_folder
from cmkd.training.loop import StepResult, TrainingLoop, epoch_seed
from cmkd.training.outcome import TrainingResult, read_result, write_result
from cmkd.training.runtime import autocast, peak_memory, pick_device, reset_peak_memory, to_device
from cmkd.training.streaming import open_reader
from cmkd.training.weights import find_weights, load_into_teacher


class TeacherLearner(TrainingLoop[Teacher, tuple[Tensor, Tensor]]):
    """Training of the trial's teacher by cross-entropy on decoded frames."""

    reads_compressed = False
    reads_frames = True

    def __init__(
        self, config: TrialConfig, cache: Path, reader: Reader, split: Split, num_classes: int
    ) -> None:
        recipe = config.setting.teacher
        torch.manual_seed(epoch_seed(config.teacher_seed, -1))
        super().__init__(
            to_device(_initial_teacher(config, cache, num_classes), reader.device),
            recipe.training,
            reader,
            split,
            teacher_folder(config, cache),
            owner=config.teacher_id,
            seed=config.teacher_seed,
            eval_batch=find_backbone(recipe.backbone).eval_batch,
        )

    def load(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Frames and labels."""
        return self.reader.frames(rows), self.reader.labels(rows)

    def batch_loss(self, batch: tuple[Tensor, Tensor]) -> StepResult:
        """Cross-entropy of a batch."""
        frames, labels = batch
        with autocast(self.config.precision, self.device):
            _, logits = self.network(frames)
        correct = 100.0 * (logits.argmax(1) == labels).float().mean()
        loss = F.cross_entropy(logits.float(), labels)
        return StepResult(loss, {"train_acc": correct}, len(labels))

    def logits(self, rows: Rows) -> Float[Tensor, "R K"]:
        """Scores of single rows."""
        scores: Tensor = self.model(self.reader.frames(rows))[1]
        return scores


def _initial_teacher(config: TrialConfig, cache: Path, num_classes: int) -> Teacher:
    """Network at its random initialisation, or with the imported weights that the recipe names."""
    recipe = config.setting.teacher
    teacher = build_teacher(config.setting, num_classes)
    if recipe.weights is None:
        return teacher
    fresh = load_into_teacher(teacher, recipe.weights, cache)
    if recipe.training.epochs == 0 and fresh:
        classes = find_weights(recipe.weights, cache).num_classes or "no classifier"
        raise InputError(
            f"teacher.weights {recipe.weights}: say nothing of {', '.join(fresh)}, which "
            f"teacher.training.epochs 0 would leave random; the data set has {num_classes} "
            f"classes, the weights {classes}; train for some epochs, or import weights of this "
            "data set"
        )
    return teacher


def ensure_teacher(
    config: TrialConfig,
    cache: Path,
    *,
    device: str = "auto",
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Open the trial's teacher, training it first (resumably) when it is not there.

    Processes that ask at once wait for one another, see `locked`; one of them trains.

    Raises:
        TrialFailed: its loss is not finite.
        DataError: the data set cannot be read.
        InfrastructureError: a file of the teacher was damaged.
    """
    folder = teacher_folder(config, cache)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", on_wait):
        if not (folder / SUMMARY_FILE).is_file():
            sign(folder)
            drop_features(folder)
            _train(config, cache, pick_device(device), on_epoch)
    return read_result(folder / SUMMARY_FILE, config.teacher_id)


def near_chance(accuracy: float, labels: Rows) -> str | None:
    """Warning about a validation accuracy, in per cent, that guessing may reach on `labels`.

    Guessing: the most frequent class, and two standard errors of its share.
    """
    chance = float(np.bincount(labels).max() / len(labels))
    if accuracy > 100 * (chance + 2 * math.sqrt(chance * (1 - chance) / len(labels))):
        return None
    return (
        f"{accuracy:.1f} % of {len(labels)} validation clips, where guessing has "
        f"{100 * chance:.1f} %: a gain of KD need not be its knowledge; train it longer "
        "(teacher.training.epochs), on more clips or from imported weights (teacher.weights)"
    )


def _train(
    config: TrialConfig,
    cache: Path,
    device: torch.device,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> None:
    reset_peak_memory()
    dataset = open_planned(config.data, config.data_id, cache)
    split = dataset.split(config.fold)
    reader = open_reader(config, dataset, cache, split, device, seed=config.teacher_seed)
    learner = TeacherLearner(config, cache, reader, split, len(dataset.info.classes))
    if config.setting.teacher.training.epochs == 0:
        learner.select(epoch=0)
    while not learner.finished:
        record = learner.train_epoch()
        if on_epoch is not None:
            on_epoch(record)
    if split.val and not config.setting.teacher.untrained:
        classes = reader.classes(reader.plain_rows(split.val))
        warning = near_chance(learner.best.accuracy, classes)
        learner.notes += (warning,) if warning else ()
    rows = reader.test_rows(split.test)
    predicted = learner.predict(rows)
    write_tensors(learner.folder / WEIGHTS_FILE, learner.best_weights, {"id": config.teacher_id})
    write_result(
        learner.folder / SUMMARY_FILE,
        config.teacher_id,
        learner,
        dataset,
        split.test,
        predicted,
        reader.classes(rows[:, 0]),
        config={
            "data_id": config.data_id,
            "fold": config.fold,
            "teacher_id": config.teacher_id,
            **config.setting.teacher.as_json(),
            "seed": config.teacher_seed,
        },
        figures={**learner.figures(), **peak_memory()},
        files=(WEIGHTS_FILE,),
    )
    drop_checkpoints(learner.folder)
