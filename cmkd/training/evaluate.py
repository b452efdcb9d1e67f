"""Predictions, accuracy, and the per-clip file that tests across clips and groups rest on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmkd.data.datasets import Dataset
from cmkd.training.checkpoint import write_atomic

PREDICTION_COLUMNS = ("clip", "group", "label", "selected", "last")


def accuracy(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Share of correct predictions in percent, [0, 100]."""
    return 100.0 * float((predicted == labels).mean())


def write_predictions(
    path: Path,
    dataset: Dataset,
    clips: Sequence[int],
    selected: NDArray[np.int64],
    last: NDArray[np.int64],
) -> None:
    """One row per test clip: class predicted at the selected and at the last epoch."""
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
