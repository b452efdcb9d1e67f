"""Reference without a network: a support vector machine on motion vectors alone.

Where it comes near the student, motion vectors already hand over most of the answer.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch.nn import functional as F

from cmkd.data.splits import Split
from cmkd.tracking.store import EpochRecord
from cmkd.training.batches import ClipReader, all_rows, first_rows
from cmkd.training.outcome import Validation, accuracy

GRID = (6, 8)
SEGMENTS = 4

Rows = NDArray[np.int64]


class MotionSvm:
    """scikit-learn's default SVC on vectors averaged over a 6 x 8 grid and 4 time segments.

    Fitted on all views of the training clips; untuned, so the seed changes nothing and one
    fit is its only epoch. Nothing is kept: a fit takes less time than reading a file safely.
    """

    def __init__(self, reader: ClipReader, split: Split) -> None:
        self.reader = reader
        self.split = split
        self.history: tuple[EpochRecord, ...] = ()
        self.best_epoch = 1
        self.notes: tuple[str, ...] = ()
        self.best = Validation(0.0, 0.0)
        self.model: Pipeline = make_pipeline(StandardScaler(), SVC())

    @property
    def finished(self) -> bool:
        """True after its fit."""
        return bool(self.history)

    def train_epoch(self) -> EpochRecord:
        """Fit and validate."""
        started = time.perf_counter()
        train = all_rows(self.reader.arrays, self.split.train)
        self.model.fit(self._features(train), self.reader.arrays.labels[train])
        rows = first_rows(self.reader.arrays, self.split.val)
        reached = accuracy(self.predict(rows[:, None])[0], self.reader.arrays.labels[rows])
        self.best = Validation(reached, 0.0)
        seconds = time.perf_counter() - started
        metrics = {"val_acc": reached, "seconds": seconds, "step_seconds": seconds}
        record = EpochRecord(1, int(time.time() * 1000), metrics)
        self.history = (record,)
        return record

    def predict(self, rows: Rows) -> tuple[Rows, Rows]:
        """Classes of clips (N, M), twice: its one epoch is selected.

        The motion of a clip's M views is averaged, as a network's scores are.
        """
        features = np.stack([self._features(view) for view in rows.T]).mean(0)
        classes = np.asarray(self.model.predict(features), dtype=np.int64)
        return classes, classes

    def figures(self) -> dict[str, float]:
        """Number of support vectors."""
        return {"support_vectors": float(self.model[-1].n_support_.sum())}

    def _features(self, rows: Rows) -> NDArray[np.float32]:
        motion = torch.from_numpy(self.reader.arrays.motion[rows].astype(np.float32))
        cells = F.adaptive_avg_pool2d(motion.flatten(0, 1), GRID).unflatten(0, motion.shape[:2])
        segments = F.adaptive_avg_pool1d(cells.flatten(2).transpose(1, 2), SEGMENTS)
        return np.asarray(segments.flatten(1).numpy())
