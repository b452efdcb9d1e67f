"""Results of trainings on disk: records of finished ones, predictions, summaries.

A finished one counts only with the digests of its files intact. A damaged file is removed with an
error that names it, so that the same command makes it again. Loads no torch.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from cmkd.config.base import Config
from cmkd.config.data import EncodingConfig, ViewsConfig
from cmkd.config.trial import Setting
from cmkd.data.dataset import Dataset
from cmkd.io import discard, file_sha256, read_record, write_atomic, write_json, write_record
from cmkd.provenance import Provenance, makers
from cmkd.tracking.store import EpochRecord

CONFIG_FILE, PREDICTIONS_FILE = "config.json", "predictions.csv"
SCORES_FILE = "scores.safetensors"
DIAGNOSTICS_FILE = "inside.json"
STUDENT_FILE, STUDENT_CONFIG_FILE = "student.safetensors", "student.json"
KEPT_WITH_RUN = (
    *(CONFIG_FILE, PREDICTIONS_FILE, SCORES_FILE, DIAGNOSTICS_FILE),
    *(STUDENT_FILE, STUDENT_CONFIG_FILE),
)
PREDICTION_COLUMNS = ("clip", "group", "label", "selected", "last")
RANK_COLUMN = "rank"
"""Further column where there are more than `TOP` classes."""
TOP = 5

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


def write_finished(
    path: Path, owner: str, files: Iterable[str], data: Mapping[str, object]
) -> None:
    """Write the record of something finished, with digests of the files beside it, atomically."""
    digests = {name: _file_digest(path.parent / name) for name in files}
    write_record(path, owner, {**data, "files": digests})


def read_finished(path: Path, owner: str) -> Any:
    """Data that `write_finished` wrote for `owner`; its files are compared with their digests.

    Raises:
        InfrastructureError: one is damaged; it has been removed with the record.
    """
    stored = read_record(path, owner)
    for name, digest in stored["files"].items():
        file = path.parent / name
        if not file.is_file() or _file_digest(file) != digest:
            path.unlink(missing_ok=True)
            raise discard(file, "its digest is wrong")
    return stored


def _file_digest(path: Path) -> str:
    state = path.stat()
    return _cached_digest(path, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=64)
def _cached_digest(path: Path, *_state: int) -> str:
    """SHA-256 of a file, read once per process while the file stays as it is."""
    return file_sha256(path)


@dataclass(frozen=True, order=True)
class Validation:
    """Result of a model on the validation clips; the greater of two is selected.

    Accuracy alone ties often on a few dozen clips, and ties would go to half-trained weights.

    Attributes:
        accuracy: in percent.
        negative_loss: minus the mean cross-entropy.
    """

    accuracy: float
    negative_loss: float


UNKNOWN = Validation(-math.inf, -math.inf)
"""Validation of a model without one; the least of all."""


@dataclass(frozen=True)
class Predicted:
    """Predictions of a trained model on N test clips of K classes.

    Attributes:
        selected, last: class of each clip at the selected and at the last epoch.
        scores: (N, K) at the selected epoch; the highest is the likeliest class.
    """

    selected: Rows
    last: Rows
    scores: Scores


class StudentDescription(Config):
    """Contents of ``student.json``: everything but the weights that a prediction needs.

    Attributes:
        views: of the data set, which decide those at test.
        motion_scale, residual_scale: see `cmkd.training.batches.InputScales`.
        weights_sha256: of ``student.safetensors`` beside it.
    """

    trial_id: str
    setting: Setting
    classes: tuple[str, ...]
    encoding: EncodingConfig
    views: ViewsConfig
    motion_scale: float
    residual_scale: float
    weights_sha256: str

    @property
    def picture(self) -> tuple[int, int]:
        """(height, width) of the I-frames that the network sees."""
        side = self.views.crop
        return side or self.encoding.height, side or self.encoding.width


class Trained(Protocol):
    """Model after its last epoch."""

    history: tuple[EpochRecord, ...]
    notes: tuple[str, ...]
    best_epoch: int
    best: Validation


@dataclass(frozen=True)
class TrainingResult:
    """Finished trial or teacher.

    Attributes:
        summary: test_acc, test_acc_last, test_top5 (beyond five classes), best_val_acc (with
            validation clips; all in percent), selected_epoch and others.
        files: to be kept with its run.
        notes: lines for the user about damaged checkpoints.
        made_by: all code that trained it, oldest first.
    """

    summary: Mapping[str, float]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    made_by: tuple[Provenance, ...] = ()
    history: tuple[EpochRecord, ...] = ()


def write_result(
    path: Path,
    owner: str,
    trained: Trained,
    dataset: Dataset,
    clips: tuple[int, ...],
    predicted: Predicted,
    labels: Rows,
    *,
    config: Mapping[str, object],
    figures: Mapping[str, float],
    files: Iterable[str] = (),
) -> None:
    """Write configuration, predictions, scores and the record of a finished training.

    Args:
        path: of the record, which `read_result` reads.
        clips: test clips.
        labels: classes that the clips show.
        figures: further entries of the summary.
        files: further files beside the record.
    """
    folder, classes = path.parent, dataset.info.classes
    ranks = ranks_of(labels, predicted.scores) if len(classes) > TOP else None
    write_json(folder / CONFIG_FILE, config)
    _write_predictions(folder / PREDICTIONS_FILE, dataset, clips, predicted, ranks)
    _write_scores(folder / SCORES_FILE, classes, predicted.scores)
    stored = {
        "history": [asdict(record) for record in trained.history],
        "notes": list(trained.notes),
        "summary": {
            "test_acc": accuracy(predicted.selected, labels),
            "test_acc_last": accuracy(predicted.last, labels),
            **({} if ranks is None else {"test_top5": 100.0 * float((ranks <= TOP).mean())}),
            **({"best_val_acc": trained.best.accuracy} if trained.best > UNKNOWN else {}),
            "selected_epoch": float(trained.best_epoch),
            **figures,
        },
    }
    write_finished(path, owner, (CONFIG_FILE, PREDICTIONS_FILE, SCORES_FILE, *files), stored)


def read_result(path: Path, owner: str) -> TrainingResult:
    """Result of a finished training.

    Raises:
        FileNotFoundError: it is not finished.
        InfrastructureError: a file of it is damaged and has been removed.
    """
    stored, folder = read_finished(path, owner), path.parent
    return TrainingResult(
        stored["summary"],
        tuple(folder / name for name in KEPT_WITH_RUN if name in stored["files"]),
        tuple(stored["notes"]),
        makers(folder),
        tuple(EpochRecord(**record) for record in stored["history"]),
    )


def accuracy(predicted: Rows, labels: Rows) -> float:
    """Share of correct predictions in percent, [0, 100]."""
    return 100.0 * float((predicted == labels).mean())


def ranks_of(labels: Rows, scores: Scores) -> Rows:
    """Place of each clip's class among its scores (N, K), from 1; of equal ones the first leads."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return 1 + np.asarray((order == labels[:, None]).argmax(1), dtype=np.int64)


def _write_predictions(
    path: Path, dataset: Dataset, clips: Iterable[int], predicted: Predicted, ranks: Rows | None
) -> None:
    """One row per test clip: its classes at both epochs and the rank of the right one."""
    classes = dataset.info.classes
    further = {} if ranks is None else {RANK_COLUMN: ranks}

    def write(draft: Path) -> None:
        with draft.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow([*PREDICTION_COLUMNS, *further])
            columns = (predicted.selected, predicted.last, *further.values())
            for number, first, second, *rank in zip(clips, *columns, strict=True):
                clip = dataset.clips[number]
                shown = (classes[clip.label], classes[first], classes[second])
                writer.writerow([clip.path, clip.group, *shown, *rank])

    write_atomic(path, write)


def _write_scores(path: Path, classes: tuple[str, ...], scores: Scores) -> None:
    """Scores (N, K) in the order of the predictions' rows; the metadata name the classes."""
    data = safetensors.numpy.save({"scores": scores}, {"classes": json.dumps(classes)})
    write_atomic(path, lambda draft: draft.write_bytes(data))
