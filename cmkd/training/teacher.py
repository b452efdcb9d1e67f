"""The RGB teacher of a data set and fold: trained once, then a file that all trials share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from cmkd.backbones.registry import FAMILIES, Size
from cmkd.config.trial import TrialConfig
from cmkd.data.arrays import open_arrays
from cmkd.data.datasets import Dataset, open_planned
from cmkd.method.teacher import Teacher
from cmkd.tracking.records import EpochRecord
from cmkd.training.checkpoint import drop_checkpoints, write_json, write_tensors
from cmkd.training.clips import ClipReader, first_rows, in_order, num_batches, shuffled, view_rows
from cmkd.training.evaluate import Validation, accuracy, validation, write_predictions
from cmkd.training.loop import EpochLoop, StepResult, epoch_seed
from cmkd.training.runtime import pick_device, place

TEACHER_STRIDE = 16
EVAL_BATCH = 64

OnEpoch = Callable[[EpochRecord, int], None]
"""Called with the epoch's record and the number of epochs in all."""


@dataclass(frozen=True)
class TeacherBundle:
    """A finished teacher on disk.

    Attributes:
        summary: test_acc, test_acc_last, best_val_acc (percent), selected_epoch, parameters.
        sha256: of the weights file.
        files: config and per-clip predictions, to be kept with its run.
    """

    folder: Path
    history: tuple[EpochRecord, ...]
    summary: Mapping[str, float]
    sha256: str
    files: tuple[Path, ...]


def build_teacher(config: TrialConfig, num_classes: int) -> Teacher:
    """The teacher network, freshly initialised from torch's generator."""
    recipe = config.setting.teacher
    family = FAMILIES[recipe.backbone]
    size = Size(3, config.setting.inputs.num_frames, TEACHER_STRIDE, recipe.width)
    channels = family.channels(recipe.width)
    return Teacher(family.temporal(size), channels, num_classes, recipe.training.dropout)


def load_teacher(config: TrialConfig, folder: Path, num_classes: int) -> Teacher:
    """The frozen teacher in evaluation mode."""
    teacher = build_teacher(config, num_classes)
    teacher.load_state_dict(load_file(folder / "teacher.safetensors"))
    return teacher.eval().requires_grad_(False)


def teacher_folder(config: TrialConfig, cache: Path) -> Path:
    """Where the teacher of this trial is kept."""
    return cache / "teachers" / config.teacher_id


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
    stored = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return TeacherBundle(
        folder=folder,
        history=tuple(EpochRecord(**record) for record in stored["history"]),
        summary=stored["summary"],
        sha256=stored["sha256"],
        files=(folder / "config.json", folder / "predictions.csv"),
    )


def _train(
    config: TrialConfig, cache: Path, folder: Path, device_name: str, on_epoch: OnEpoch | None
) -> None:
    device = pick_device(device_name)
    dataset = open_planned(config.data, config.data_id, cache)
    arrays = open_arrays(dataset, config.setting.inputs, cache)
    split = dataset.split(config.fold)
    recipe = config.setting.teacher
    reader = ClipReader(arrays, first_rows(arrays, split.train), device)

    torch.manual_seed(epoch_seed(recipe.seed, -1))
    teacher = place(build_teacher(config, len(dataset.info.classes)), device)

    def batches(epoch: int) -> list[NDArray[np.int64]]:
        rows = view_rows(arrays, split.train, epoch)
        return list(shuffled(rows, recipe.training.batch_size, epoch_seed(recipe.seed, epoch)))

    def step(rows: NDArray[np.int64]) -> StepResult:
        _, logits = teacher(reader.frames(rows))
        labels = reader.labels(rows)
        correct = 100.0 * (logits.argmax(1) == labels).float().mean()
        return StepResult(F.cross_entropy(logits, labels), {"train_acc": correct}, len(rows))

    def validate() -> Validation:
        rows = first_rows(arrays, split.val)
        return validation(score_frames(teacher, reader, rows), arrays.labels[rows])

    loop = EpochLoop(
        teacher,
        recipe.training,
        folder,
        seed=recipe.seed,
        steps_per_epoch=num_batches(len(split.train), recipe.training.batch_size),
        batches=batches,
        step=step,
        validate=validate,
    )
    while not loop.finished:
        record = loop.train_epoch()
        if on_epoch is not None:
            on_epoch(record, recipe.training.epochs)
    _finish(config, dataset, reader, loop, folder)


def score_frames(teacher: Teacher, reader: ClipReader, rows: NDArray[np.int64]) -> Tensor:
    """Logits (rows, K) by the teacher in evaluation mode."""
    teacher.eval()
    with torch.inference_mode():
        parts = [teacher(reader.frames(part))[1].cpu() for part in in_order(rows, EVAL_BATCH)]
    return torch.cat(parts)


def _finish(
    config: TrialConfig,
    dataset: Dataset,
    reader: ClipReader,
    loop: EpochLoop[NDArray[np.int64]],
    folder: Path,
) -> None:
    clips = dataset.split(config.fold).test
    rows = first_rows(reader.arrays, clips)
    labels = reader.arrays.labels[rows]
    teacher = loop.model
    assert isinstance(teacher, Teacher)
    last = score_frames(teacher, reader, rows).argmax(1).numpy()
    teacher.load_state_dict(loop.best_weights)
    selected = score_frames(teacher, reader, rows).argmax(1).numpy()
    weights = folder / "teacher.safetensors"
    write_tensors(weights, loop.best_weights, {"teacher_id": config.teacher_id})
    recipe = {"data_id": config.data_id, "fold": config.fold, "teacher_id": config.teacher_id}
    write_json(folder / "config.json", {**recipe, **config.setting.teacher.as_json()})
    write_predictions(folder / "predictions.csv", dataset, clips, selected, last)
    stored = {
        "history": [asdict(record) for record in loop.history],
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "summary": {
            "test_acc": accuracy(selected, labels),
            "test_acc_last": accuracy(last, labels),
            "best_val_acc": loop.best.accuracy,
            "selected_epoch": float(loop.best_epoch),
            "parameters": float(sum(p.numel() for p in teacher.parameters())),
        },
    }
    write_json(folder / "summary.json", stored)
    drop_checkpoints(folder)
