"""Scores of clips, accuracy, selection of an epoch, and the file of per-clip predictions."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cmkd.data.dataset import Dataset
from cmkd.io import write_atomic

PREDICTIONS_FILE = "predictions.csv"
PREDICTION_COLUMNS = ("clip", "group", "label", "selected", "last")


def accuracy(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Share of correct predictions in percent, [0, 100]."""
    return 100.0 * float((predicted == labels).mean())


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


def validation(logits: Tensor, labels: NDArray[np.int64]) -> Validation:
    """Accuracy and loss of logits (N, K)."""
    loss = F.cross_entropy(logits, torch.from_numpy(np.asarray(labels)))
    return Validation(accuracy(logits.argmax(1).numpy(), labels), -float(loss))


def write_predictions(
    path: Path,
    dataset: Dataset,
    clips: Sequence[int],
    selected: NDArray[np.int64],
    last: NDArray[np.int64],
) -> None:
    """Write one row per test clip: classes predicted at the selected and at the last epoch."""
    classes = dataset.info.classes

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(PREDICTION_COLUMNS)
            for clip, first, second in zip(clips, selected, last, strict=True):
                entry = dataset.clips[clip]
                writer.writerow(
                    [entry.path, entry.group, classes[entry.label], classes[first], classes[second]]
                )

    write_atomic(path, write)


def clip_scores(
    score: Callable[[Int64[np.ndarray, " R"]], Float[Tensor, "R K"]],
    rows: Int64[np.ndarray, "N M"],
) -> Float[Tensor, "N K"]:
    """Logits of N clips, each averaged over its M rows of the clip arrays.

    Args:
        score: logits of single rows.
    """
    scores: Tensor = score(rows.reshape(-1)).unflatten(0, rows.shape)
    return scores.mean(1)
