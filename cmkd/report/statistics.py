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


def group_interval(values: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> Interval | None:
    """Percentile bootstrap of the mean of `values` ("S N": seeds, items) over seeds and groups.

    Every resample draws S seeds and, independently, as many groups as there are, both with
    replacement, and takes the mean over all items of the drawn groups in the drawn seeds. Groups,
    not items, are drawn because items of one group (clips of one recording session) are not
    independent; all seeds see the same draw of groups, because they were tested on the same ones.
    Values that are differences of two arms keep their pairs in this way. With one seed the
    interval holds the spread of the groups alone.

    None for fewer than two groups. With few groups or seeds a percentile interval tends to be
    too narrow: with two seeds, half of all resamples hold one of them twice.

    Args:
        values: Float "S N".
        groups: "N", the group of every item.
        seed: of the resampling.
    """
    names, membership = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None
    counts = np.bincount(membership)
    sums = np.stack([np.bincount(membership, weights=one) for one in values])
    rng = np.random.default_rng(seed)
    drawn_seeds = _draws(rng, len(values))
    drawn_groups = _draws(rng, len(names))
    # "R S" @ "S G" gives each resample's sums by group; its groups' weights do the rest.
    totals = ((drawn_seeds @ sums) * drawn_groups).sum(axis=1)
    means = totals / (len(values) * (drawn_groups @ counts))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(float(low), float(high))


def _draws(rng: np.random.Generator, count: int) -> np.ndarray:
    """How often each of `count` things is in each resample: Int "R count", rows sum to `count`."""
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
