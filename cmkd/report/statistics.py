"""The few statistics of the report. Accuracies and differences are in percentage points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A confidence interval at level `CONFIDENCE`."""

    low: float
    high: float


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the latter is None for a single value."""
    assert len(values) > 0
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), sd


def t_interval(values: Sequence[float]) -> Interval | None:
    """Student's t interval of the mean of independent `values`; None for fewer than two.

    Given differences of paired values, this is the interval of the paired t test.
    """
    mean, sd = mean_sd(values)
    if sd is None:
        return None
    n = len(values)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean - half, mean + half)


def group_interval(values: np.ndarray, groups: Sequence[str], *, seed: int = 0) -> Interval | None:
    """Percentile bootstrap of the mean of `values` ("N") over whole groups of items.

    Groups, not items, are resampled with replacement, as items of one group (clips of one
    recording session) are not independent; a resample's mean is over all its items. None for
    fewer than two groups. With few groups such an interval tends to be too narrow.
    """
    names, membership = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return None
    sums = np.bincount(membership, weights=values)
    counts = np.bincount(membership).astype(float)
    result = stats.bootstrap(
        (sums, counts),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(float(low), float(high))


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
    ratio: np.ndarray = sums.sum(axis=axis) / counts.sum(axis=axis)
    return ratio
