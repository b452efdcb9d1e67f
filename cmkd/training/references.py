"""References without training of a network: motion vectors alone, and one RGB frame alone.

Where one comes near the student, its part of the video already hands over most of the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional as F

from cmkd.data.splits import Split
from cmkd.tracking.store import EpochRecord
from cmkd.training.batches import ClipReader, Rows, all_rows, first_rows, in_order
from cmkd.training.outcome import UNKNOWN, Predicted, Scores, Validation, accuracy

GRID = (6, 8)
SEGMENTS = 4
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""C of the linear probe; validation chooses, without such clips four folds of those that train."""
INNER_FOLDS = 4
PROBED = 64
"""Frames of one forward pass."""

Features = NDArray[np.float32]


@dataclass
class Reference:
    """Classifier of scikit-learn on features of a clip; one fit is its only epoch.

    Nothing of it is drawn, so the seed changes nothing. Nothing is kept: a fit takes less time than
    reading a file safely.

    Args:
        train: rows that it is fitted on.
        features: (rows) -> (rows, F).
        candidates: classifiers, of which validation chooses one; without validation clips, folds
            of `train`.
        groups: of `train`, never in two of those folds.
        describe: figures of the chosen one.
        num_classes: of the data set.
    """

    reader: ClipReader
    split: Split
    train: Rows
    features: Callable[[Rows], Features]
    candidates: Sequence[Pipeline]
    describe: Callable[[Pipeline], Mapping[str, float]]
    num_classes: int
    groups: Sequence[str] = ()
    history: tuple[EpochRecord, ...] = ()
    best_epoch: int = 1
    notes: tuple[str, ...] = ()
    best: Validation = UNKNOWN

    @property
    def finished(self) -> bool:
        """True after its fit."""
        return bool(self.history)

    def train_epoch(self) -> EpochRecord:
        """Fit and validate."""
        started = time.perf_counter()
        seen, labels = self.features(self.train), self.reader.arrays.labels[self.train]
        if self.split.val:
            self._validate(seen, labels)
        else:
            self.model = self._best_inside(seen, labels).fit(seen, labels)
        seconds = time.perf_counter() - started
        metrics = {"seconds": seconds, "step_seconds": seconds}
        if self.split.val:
            metrics["val_acc"] = self.best.accuracy
        record = EpochRecord(1, int(time.time() * 1000), metrics)
        self.history = (record,)
        return record

    def _validate(self, seen: Features, labels: Rows) -> None:
        rows = first_rows(self.reader.arrays, self.split.val)
        unseen, expected = self.features(rows), self.reader.arrays.labels[rows]
        for candidate in self.candidates:
            candidate.fit(seen, labels)
            reached = Validation(accuracy(candidate.predict(unseen), expected), 0.0)
            if reached > self.best:
                self.best, self.model = reached, candidate

    def _best_inside(self, seen: Features, labels: Rows) -> Pipeline:
        """Candidate of the best mean accuracy over folds of the training clips."""
        if len(self.candidates) == 1:
            return self.candidates[0]
        folds = StratifiedGroupKFold(INNER_FOLDS)
        scores = [
            cross_val_score(candidate, seen, labels, groups=self.groups, cv=folds).mean()
            for candidate in self.candidates
        ]
        return self.candidates[int(np.argmax(scores))]

    def predict(self, rows: Rows) -> Predicted:
        """Predictions for clips (N, M); its one epoch is selected.

        The features of a clip's M views are averaged, as a network's scores are. A support vector
        machine takes the first class of a tied vote, so that its class may lack the highest score.
        """
        features = np.stack([self.features(view) for view in rows.T]).mean(0)
        classes = np.asarray(self.model.predict(features), dtype=np.int64)
        return Predicted(classes, classes, self._scores(features))

    def _scores(self, features: Features) -> Scores:
        """Decision values (N, K); minus infinity for a class that it was fitted without."""
        values = self.model.decision_function(features)
        if values.ndim == 1:  # Of two classes scikit-learn gives that of the second.
            values = np.stack([-values, values], axis=1)
        scores = np.full((len(values), self.num_classes), -np.inf, np.float32)
        scores[:, self.model.classes_] = values
        return scores

    def figures(self) -> Mapping[str, float]:
        """Figures of the chosen classifier."""
        return self.describe(self.model)


def motion_svm(reader: ClipReader, split: Split, num_classes: int) -> Reference:
    """scikit-learn's default SVC on vectors averaged over a 6 x 8 grid and 4 time segments.

    Untuned; fitted on all views of the training clips.
    """

    def features(rows: Rows) -> Features:
        motion = torch.from_numpy(reader.arrays.motion[rows].astype(np.float32))
        cells = F.adaptive_avg_pool2d(motion.flatten(0, 1), GRID).unflatten(0, motion.shape[:2])
        segments = F.adaptive_avg_pool1d(cells.flatten(2).transpose(1, 2), SEGMENTS)
        return np.asarray(segments.flatten(1).numpy())

    return Reference(
        reader,
        split,
        train=all_rows(reader.arrays, split.train),
        features=features,
        candidates=[make_pipeline(StandardScaler(), SVC())],
        describe=lambda model: {"support_vectors": float(model[-1].n_support_.sum())},
        num_classes=num_classes,
    )


def frame_probe(
    reader: ClipReader,
    split: Split,
    num_classes: int,
    network: nn.Module,
    groups: Sequence[str] = (),
) -> Reference:
    """Logistic regression on the pooled maps of the middle frame.

    Fitted on the unchanged training clips.

    Args:
        network: takes the teacher's frames one by one; see `imported_network`.
        groups: of the training clips, where the split has no clips for validation.
    """

    def features(rows: Rows) -> Features:
        middle = (reader.arrays.frames.shape[1] - 1) // 2
        segment = reader.arrays.frames.shape[2] // 3
        first = 3 * (segment // 2)
        pooled: list[Tensor] = []
        for part in in_order(rows, PROBED):
            with torch.inference_mode():
                frames = reader.frames(part)[:, middle : middle + 1]
                maps = network(frames if segment == 1 else frames[:, :, first : first + 3])
            pooled.append(maps.mean((1, 3, 4)).cpu())
        return np.asarray(torch.cat(pooled).numpy())

    return Reference(
        reader,
        split,
        train=first_rows(reader.arrays, split.train),
        features=features,
        candidates=[
            make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
            for strength in STRENGTHS
        ],
        describe=lambda model: {"strength": float(model[-1].C)},
        num_classes=num_classes,
        groups=groups,
    )
