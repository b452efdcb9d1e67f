"""The few statistics of the report. Accuracies and differences are in percentage points."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, nctdtr, nctdtrinc, polygamma, stdtr, stdtrit

CONFIDENCE = 0.95
RESAMPLES = 10_000
POWER = 0.8
MOST_SEEDS = 1000
LEAST_UNITS = 3
"""Sessions, say: fewer show nothing of how they differ."""
LEAST_SAMPLES = 5
"""Whose variances show how variances differ."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval at level `CONFIDENCE`."""

    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """A standard deviation and the degrees of freedom that it was estimated with."""

    sd: float
    degrees: float


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the latter is None for a single value."""
    assert len(values) > 0
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), sd


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Student's t interval of the mean of independent `values`; None for fewer than two.

    Given differences of paired values, this is the interval of the paired t test.
    """
    mean, sd = mean_sd(values)
    if sd is None:
        return None
    n = len(values)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * sd / math.sqrt(n)
    return Interval(mean - half, mean + half)


def cluster_interval(
    values: np.ndarray, units: np.ndarray, confidence: float = CONFIDENCE
) -> Interval | None:
    """Cluster-robust t interval of the mean of `values` ("S N") over units of items.

    Where units are few it is wider than a bootstrap of them, and as wide as it has to be. None for
    fewer than `LEAST_UNITS`.
    """
    mean, error, count = _clustered(values, units)
    if count < LEAST_UNITS:
        return None
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
    return Interval(mean - half, mean + half)


def cluster_p(values: np.ndarray, units: np.ndarray, bound: float = 0.0) -> float:
    """One-sided p of the same t test that the mean is above `bound`; 1.0 below `LEAST_UNITS`."""
    mean, error, count = _clustered(values, units)
    if count < LEAST_UNITS:
        return 1.0
    if not error:
        return 0.0 if mean > bound else 1.0
    return float(stdtr(count - 1, (bound - mean) / error))


def _clustered(values: np.ndarray, units: np.ndarray) -> tuple[float, float, int]:
    """The mean, its standard error if units were drawn anew, and how many there are."""
    of_items = values.mean(axis=0)
    mean = float(of_items.mean())
    membership = np.unique(units, return_inverse=True)[1]
    sums = np.bincount(membership, weights=of_items - mean)
    count = len(sums)
    spread = count / (count - 1) * float(sums @ sums) if count > 1 else 0.0
    return mean, math.sqrt(spread) / len(of_items), count


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


def exceeds_p(values: Sequence[float], bound: float = 0.0) -> float:
    """One-sided p of Student's t test that the mean of independent `values` is above `bound`.

    Given differences of paired values it is that of the paired t test. 1.0 for fewer than two
    values, and where all are equal and not above `bound`.
    """
    mean, sd = mean_sd(values)
    if not sd:
        return 0.0 if sd is not None and mean > bound else 1.0
    n = len(values)
    return float(stdtr(n - 1, (bound - mean) * math.sqrt(n) / sd))


def resample_units(values: np.ndarray, units: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Bootstrap of the mean of `values` ("S N": seeds, items) over units of items: Float "R".

    The seeds are those at hand and only averaged, so this is the chance of another test set; that
    of other seeds is Student's. Values that are differences of two arms keep their pairs.

    Args:
        values: Float "S N".
        units: "N", equal for items that are drawn together, such as clips of one session.
        seed: of the resampling.
    """
    membership = np.unique(units, return_inverse=True)[1]
    sums = np.bincount(membership, weights=values.sum(axis=0))
    kinds, counts = np.unique(
        np.stack([sums, np.bincount(membership)], axis=1), axis=0, return_counts=True
    )
    # Units that are alike are drawn as one kind, of which a thousand clips have a dozen.
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES)
    return (drawn @ kinds[:, 0]) / (len(values) * (drawn @ kinds[:, 1]))


def resampled_p(means: np.ndarray, bound: float = 0.0) -> float:
    """One-sided p that the mean behind the bootstrapped `means` ("R") is above `bound`; never 0."""
    return (1 + int((means <= bound).sum())) / (1 + len(means))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment of a family of p values, in their order (Holm 1979).

    Comparing the results with a level keeps the probability of any false rejection below it,
    whatever the dependence between the tests.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.maximum.accumulate(np.asarray(p_values, float)[order] * factors)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return tuple(adjusted.tolist())


def detectable(sd: float, n: int, level: float) -> float:
    """Mean that a one-sided t test at `level` over `n` >= 2 values finds with power `POWER`."""
    noncentrality = nctdtrinc(n - 1, 1 - POWER, stdtrit(n - 1, 1 - level))
    return float(noncentrality) * sd / math.sqrt(n)


def seeds_for(mean: float, sd: float, level: float, *, power: float = POWER) -> int | None:
    """Least n >= 3 with which a one-sided t test at `level` finds `mean` > 0 with `power`.

    None where `MOST_SEEDS` are not enough.
    """
    if sd <= 0:
        return 3 if mean > 0 else None

    def found(n: int) -> float:
        missed = nctdtr(n - 1, math.sqrt(n) * mean / sd, stdtrit(n - 1, 1 - level))
        # Far beyond the threshold the distribution function is computed as NaN: nothing is missed.
        return 1.0 if math.isnan(missed) else 1 - float(missed)

    counts = range(3, MOST_SEEDS + 1)
    at = bisect_left(counts, power, key=found)
    return counts[at] if at < len(counts) else None


def moderated(spreads: Sequence[Spread]) -> tuple[Spread, ...]:
    """Standard deviations of like samples, each steadied by the others (Smyth 2004, as in limma).

    The variances are taken for draws from one inverse chi-square distribution, whose mean and
    degrees of freedom are estimated from them; a sample's own is averaged with that mean by
    degrees of freedom. Samples that differ no more than chance has it share one spread; those that
    differ much keep their own. None is made smaller. Fewer than `LEAST_SAMPLES` are left alone.

    Args:
        spreads: each with an SD > 0.
    """
    from scipy.optimize import brentq  # Takes a third of a second, and only the gate comes here.

    if len(spreads) < LEAST_SAMPLES:
        return tuple(spreads)
    variances = np.array([one.sd**2 for one in spreads])
    degrees = np.array([one.degrees for one in spreads], float)
    logs = np.log(variances) - digamma(degrees / 2) + np.log(degrees / 2)
    excess = float(np.var(logs, ddof=1) - polygamma(1, degrees / 2).mean())
    total = float(degrees.sum())
    if excess <= 0:
        shared, prior = float(degrees @ variances) / total, math.inf
    else:
        half = float(brentq(lambda x: float(polygamma(1, x)) - excess, 1e-6, 1e9))
        prior = 2 * half
        shared = math.exp(float(logs.mean()) + float(digamma(half)) - math.log(half))
    weight = 1.0 if math.isinf(prior) else prior / (prior + degrees)
    steadied = np.maximum(variances, weight * shared + (1 - weight) * variances)
    known = np.minimum(prior + degrees, total)
    return tuple(Spread(math.sqrt(v), float(d)) for v, d in zip(steadied, known, strict=True))


def spread_bound(spread: Spread, counts: tuple[int, int], *, level: float, family: int) -> float:
    """Difference of two means of one process that is exceeded with probability `level` at most.

    The bound is Student's for two independent samples of sizes `counts` of one `spread`, with
    `level` shared by the `family` of comparisons (Bonferroni).
    """
    quantile = float(stdtrit(spread.degrees, 1 - level / (2 * family)))
    return quantile * spread.sd * math.sqrt(sum(1 / count for count in counts))


def _draws(rng: np.random.Generator, count: int) -> np.ndarray:
    """How often each of `count` things is in each resample: Int "R count", rows sum to `count`."""
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
