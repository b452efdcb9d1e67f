"""The RGB teacher of a data set, fold and draw: trained once, then read by all its trials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cmkd.config.backbones import find_backbone
from cmkd.config.training import TeacherConfig
from cmkd.config.trial import TrialConfig
from cmkd.data.dataset import Dataset, open_planned
from cmkd.data.decoded_cache import open_arrays
from cmkd.errors import InputError
from cmkd.method.teacher import Teacher
from cmkd.provenance import Provenance, makers, sign
from cmkd.tracking.store import EpochRecord
from cmkd.training.batches import (
    ClipReader,
    ensure_scales,
    first_rows,
    in_order,
    num_batches,
    shuffled,
    view_rows,
)
from cmkd.training.checkpoint import (
    drop_checkpoints,
    read_finished,
    write_finished,
    write_json,
    write_tensors,
)
from cmkd.training.evaluate import (
    PREDICTIONS_FILE,
    Validation,
    accuracy,
    clip_scores,
    validation,
    write_predictions,
)
from cmkd.training.features import SUMMARY_FILE, WEIGHTS_FILE, drop_features, teacher_folder
from cmkd.training.loop import EpochLoop, StepResult, epoch_seed
from cmkd.training.networks import build_teacher
from cmkd.training.runtime import autocast, pick_device, to_device
from cmkd.training.weights import load_into_teacher

CONFIG_FILE = "config.json"

Rows = NDArray[np.int64]
OnEpoch = Callable[[EpochRecord, int], None]
"""Called with the epoch's record and the number of epochs in the newest checkpoint."""


@dataclass(frozen=True)
class TeacherBundle:
    """Finished teacher on disk.

    Attributes:
        summary: test_acc, test_acc_last, best_val_acc (percent), selected_epoch, parameters.
        files: config and per-clip predictions, to be kept with its run.
        notes: lines for the user about damaged checkpoints.
    """

    folder: Path
    history: tuple[EpochRecord, ...]
    summary: Mapping[str, float]
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    made_by: tuple[Provenance, ...]


def ensure_teacher(
    config: TrialConfig,
    cache: Path,
    *,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
) -> TeacherBundle:
    """Open the trial's teacher, training it first (resumably) when it is not there.

    Processes that ask at once wait for one another; one of them trains.

    Raises:
        TrialFailed: its loss is not finite.
        DataError: the data set cannot be read.
        InfrastructureError: a file of the teacher was damaged.
    """
    folder = teacher_folder(config, cache)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / SUMMARY_FILE).is_file():
            sign(folder)
            drop_features(folder)
            _train(config, cache, device, on_epoch)
    return open_teacher(config, cache)


def open_teacher(config: TrialConfig, cache: Path) -> TeacherBundle:
    """The finished teacher of this trial.

    Raises:
        FileNotFoundError: it was never trained.
        InfrastructureError: a file of it was damaged.
    """
    folder = teacher_folder(config, cache)
    stored = read_finished(folder / SUMMARY_FILE, config.teacher_id)
    return TeacherBundle(
        folder=folder,
        history=tuple(EpochRecord(**record) for record in stored["history"]),
        summary=stored["summary"],
        files=(folder / CONFIG_FILE, folder / PREDICTIONS_FILE),
        notes=tuple(stored["notes"]),
        made_by=makers(folder),
    )


def _train(config: TrialConfig, cache: Path, device_name: str, on_epoch: OnEpoch | None) -> None:
    device = pick_device(device_name)
    dataset = open_planned(config.data, config.data_id, cache)
    arrays = open_arrays(dataset, config.setting.reading, cache)
    split = dataset.split(config.fold)
    scales = ensure_scales(config, cache, arrays, split)
    reader = ClipReader(arrays, scales, device, config.setting)

    recipe, seed = config.setting.teacher, config.teacher_seed
    torch.manual_seed(epoch_seed(seed, -1))
    teacher = build_teacher(config.setting, len(dataset.info.classes))
    _start_from_weights(teacher, recipe, cache)
    to_device(teacher, device)
    learner = TeacherLearner(teacher, recipe, seed, reader, split.train, split.val)
    if recipe.training.epochs == 0:
        trained = Trained((), 0, learner.validate(), teacher.state_dict(), notes=())
        _finish(config, cache, dataset, learner, trained)
        return
    loop = EpochLoop(
        teacher,
        recipe.training,
        teacher_folder(config, cache),
        owner=config.teacher_id,
        seed=seed,
        steps_per_epoch=num_batches(len(split.train), recipe.training.batch_size),
        batches=learner.batches,
        load=learner.load,
        step=learner.step,
        validate=learner.validate,
    )
    while not loop.finished:
        record = loop.train_epoch()
        if on_epoch is not None:
            on_epoch(record, loop.saved_epochs)
    trained = Trained(loop.history, loop.best_epoch, loop.best, loop.best_weights, loop.notes)
    _finish(config, cache, dataset, learner, trained)


@dataclass(frozen=True)
class TeacherLearner:
    """The parts of a teacher's `EpochLoop`."""

    teacher: Teacher
    recipe: TeacherConfig
    seed: int
    reader: ClipReader
    train: tuple[int, ...]
    val: tuple[int, ...]

    def batches(self, epoch: int) -> Iterable[Rows]:
        """Rows of the batches of an epoch."""
        rows = view_rows(self.reader.arrays, self.train, epoch)
        return shuffled(rows, self.recipe.training.batch_size, epoch_seed(self.seed, epoch))

    def load(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Frames and labels."""
        return self.reader.frames(rows), self.reader.labels(rows)

    def step(self, batch: tuple[Tensor, Tensor]) -> StepResult:
        """Cross-entropy of a batch."""
        frames, labels = batch
        with autocast(self.recipe.training.precision, self.reader.device):
            _, logits = self.teacher(frames)
        correct = 100.0 * (logits.argmax(1) == labels).float().mean()
        loss = F.cross_entropy(logits.float(), labels)
        return StepResult(loss, {"train_acc": correct}, len(labels))

    def validate(self) -> Validation:
        """Result on the validation clips."""
        rows = first_rows(self.reader.arrays, self.val)
        return validation(self.scores(rows), self.reader.arrays.labels[rows])

    def scores(self, rows: Rows) -> Tensor:
        """Logits (rows, K) in evaluation mode."""
        self.teacher.eval()
        parts: list[Tensor] = []
        precision, device = self.recipe.training.precision, self.reader.device
        with torch.inference_mode(), autocast(precision, device):
            for part in in_order(rows, find_backbone(self.recipe.backbone).eval_batch):
                _, logits = self.teacher(self.reader.frames(part))
                parts.append(logits.float().cpu())
        return torch.cat(parts)


@dataclass(frozen=True)
class Trained:
    """Result of a training: its epochs, and the selected one with its weights."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    best: Validation
    best_weights: Mapping[str, Tensor]
    notes: tuple[str, ...]


def _start_from_weights(teacher: Teacher, recipe: TeacherConfig, cache: Path) -> None:
    if recipe.weights is None:
        return
    loaded = load_into_teacher(teacher, recipe.weights, cache)
    if recipe.training.epochs == 0 and loaded.fresh:
        raise InputError(
            f"teacher.weights {recipe.weights}: say nothing of {', '.join(loaded.fresh)}, which "
            f"teacher.training.epochs 0 would leave random; the data set has "
            f"{teacher.classifier.out_features} classes, the weights "
            f"{loaded.weights.num_classes or 'no classifier'}; train for some epochs, or import "
            "weights of this data set"
        )


def _finish(
    config: TrialConfig, cache: Path, dataset: Dataset, learner: TeacherLearner, trained: Trained
) -> None:
    """Test the selected and the last epoch and write the teacher's files."""
    folder, teacher, arrays = teacher_folder(config, cache), learner.teacher, learner.reader.arrays
    clips = dataset.split(config.fold).test
    rows = arrays.test_index[list(clips)]
    labels = arrays.labels[rows[:, 0]]
    last = clip_scores(learner.scores, rows).argmax(1).numpy()
    selected = last
    if trained.best_epoch != len(trained.history):
        teacher.load_state_dict(trained.best_weights)
        selected = clip_scores(learner.scores, rows).argmax(1).numpy()
    write_tensors(folder / WEIGHTS_FILE, trained.best_weights, {"id": config.teacher_id})
    recipe = {**config.setting.teacher.as_json(), "seed": config.teacher_seed}
    of = {"data_id": config.data_id, "fold": config.fold, "teacher_id": config.teacher_id}
    write_json(folder / CONFIG_FILE, {**of, **recipe})
    write_predictions(folder / PREDICTIONS_FILE, dataset, clips, selected, last)
    stored = {
        "history": [asdict(record) for record in trained.history],
        "notes": list(trained.notes),
        "summary": {
            "test_acc": accuracy(selected, labels),
            "test_acc_last": accuracy(last, labels),
            "best_val_acc": trained.best.accuracy,
            "selected_epoch": float(trained.best_epoch),
            "parameters": float(sum(p.numel() for p in teacher.parameters())),
        },
    }
    files = (CONFIG_FILE, PREDICTIONS_FILE, WEIGHTS_FILE)
    write_finished(folder / SUMMARY_FILE, config.teacher_id, files, stored)
    drop_checkpoints(folder)
