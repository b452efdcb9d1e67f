"""The RGB teacher of a data set and fold: trained once, then a file that all trials share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
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
from cmkd.tracking.store import EpochRecord
from cmkd.training.batches import ClipReader, first_rows, in_order, num_batches, shuffled, view_rows
from cmkd.training.checkpoint import drop_checkpoints, read_json, write_json, write_tensors
from cmkd.training.evaluate import (
    Validation,
    accuracy,
    clip_scores,
    validation,
    write_predictions,
)
from cmkd.training.frozen import WEIGHTS_FILE, build_teacher, teacher_folder
from cmkd.training.loop import EpochLoop, StepResult, epoch_seed
from cmkd.training.runtime import autocast, pick_device, place
from cmkd.training.weights.pretrained import load_into_teacher

OnEpoch = Callable[[EpochRecord, int], None]
"""Called with the epoch's record and the number of epochs in all."""


@dataclass(frozen=True)
class TeacherBundle:
    """A finished teacher on disk.

    Attributes:
        summary: test_acc, test_acc_last, best_val_acc (percent), selected_epoch, parameters.
        sha256: of the weights file.
        files: config and per-clip predictions, to be kept with its run.
        notes: lines for the user about checkpoints that were damaged.
    """

    folder: Path
    history: tuple[EpochRecord, ...]
    summary: Mapping[str, float]
    sha256: str
    files: tuple[Path, ...]
    notes: tuple[str, ...]


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
    """
    folder = teacher_folder(config, cache)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "summary.json").is_file():
            _train(config, cache, folder, device, on_epoch)
    return open_teacher(config, cache)


def open_teacher(config: TrialConfig, cache: Path) -> TeacherBundle:
    """The finished teacher of this trial; FileNotFoundError when it was never trained."""
    folder = teacher_folder(config, cache)
    stored = read_json(folder / "summary.json", remedy=f"the folder {folder}")
    return TeacherBundle(
        folder=folder,
        history=tuple(EpochRecord(**record) for record in stored["history"]),
        summary=stored["summary"],
        sha256=stored["sha256"],
        files=(folder / "config.json", folder / "predictions.csv"),
        notes=tuple(stored.get("notes", ())),
    )


def _train(
    config: TrialConfig, cache: Path, folder: Path, device_name: str, on_epoch: OnEpoch | None
) -> None:
    device = pick_device(device_name)
    dataset = open_planned(config.data, config.data_id, cache)
    arrays = open_arrays(dataset, config.setting.reading, cache)
    split = dataset.split(config.fold)
    recipe = config.setting.teacher
    reader = ClipReader(arrays, first_rows(arrays, split.train), device, config.setting)

    torch.manual_seed(epoch_seed(recipe.seed, -1))
    teacher = build_teacher(config.setting, len(dataset.info.classes))
    _start_from_weights(teacher, recipe, cache)
    place(teacher, device)
    score = partial(score_frames, teacher, reader, recipe)

    def validate() -> Validation:
        rows = first_rows(arrays, split.val)
        return validation(score(rows), arrays.labels[rows])

    if recipe.training.epochs == 0:
        as_it_is = Trained((), 0, validate(), teacher.state_dict(), notes=())
        _finish(config, dataset, reader, teacher, as_it_is, folder)
        return

    def batches(epoch: int) -> list[NDArray[np.int64]]:
        rows = view_rows(arrays, split.train, epoch)
        return list(shuffled(rows, recipe.training.batch_size, epoch_seed(recipe.seed, epoch)))

    def load(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return reader.frames(rows), reader.labels(rows)

    def step(batch: tuple[Tensor, Tensor]) -> StepResult:
        frames, labels = batch
        with autocast(recipe.training.precision, device):
            _, logits = teacher(frames)
        correct = 100.0 * (logits.argmax(1) == labels).float().mean()
        loss = F.cross_entropy(logits.float(), labels)
        return StepResult(loss, {"train_acc": correct}, len(labels))

    loop = EpochLoop(
        teacher,
        recipe.training,
        folder,
        seed=recipe.seed,
        steps_per_epoch=num_batches(len(split.train), recipe.training.batch_size),
        batches=batches,
        load=load,
        step=step,
        validate=validate,
    )
    while not loop.finished:
        record = loop.train_epoch()
        if on_epoch is not None:
            on_epoch(record, recipe.training.epochs)
    trained = Trained(loop.history, loop.best_epoch, loop.best, loop.best_weights, loop.notes)
    _finish(config, dataset, reader, teacher, trained, folder)


@dataclass(frozen=True)
class Trained:
    """What a training leaves: its epochs, and the selected one with its weights."""

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


def score_frames(
    teacher: Teacher, reader: ClipReader, recipe: TeacherConfig, rows: NDArray[np.int64]
) -> Tensor:
    """Logits (rows, K) by the teacher in evaluation mode."""
    teacher.eval()
    parts: list[Tensor] = []
    with torch.inference_mode(), autocast(recipe.training.precision, reader.device):
        for part in in_order(rows, find_backbone(recipe.backbone).eval_batch):
            _, logits = teacher(reader.frames(part))
            parts.append(logits.float().cpu())
    return torch.cat(parts)


def _finish(
    config: TrialConfig,
    dataset: Dataset,
    reader: ClipReader,
    teacher: Teacher,
    trained: Trained,
    folder: Path,
) -> None:
    clips = dataset.split(config.fold).test
    rows = reader.arrays.test_index[list(clips)]
    labels = reader.arrays.labels[rows[:, 0]]
    score = partial(score_frames, teacher, reader, config.setting.teacher)
    last = clip_scores(score, rows).argmax(1).numpy()
    teacher.load_state_dict(trained.best_weights)
    selected = clip_scores(score, rows).argmax(1).numpy()
    weights = folder / WEIGHTS_FILE
    write_tensors(weights, trained.best_weights, {"teacher_id": config.teacher_id})
    recipe = {"data_id": config.data_id, "fold": config.fold, "teacher_id": config.teacher_id}
    write_json(folder / "config.json", {**recipe, **config.setting.teacher.as_json()})
    write_predictions(folder / "predictions.csv", dataset, clips, selected, last)
    stored = {
        "history": [asdict(record) for record in trained.history],
        "notes": list(trained.notes),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "summary": {
            "test_acc": accuracy(selected, labels),
            "test_acc_last": accuracy(last, labels),
            "best_val_acc": trained.best.accuracy,
            "selected_epoch": float(trained.best_epoch),
            "parameters": float(sum(p.numel() for p in teacher.parameters())),
        },
    }
    write_json(folder / "summary.json", stored)
    drop_checkpoints(folder)
