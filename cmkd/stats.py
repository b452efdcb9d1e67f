"""Statistics of all reports: intervals, tests, families of tests, power (docs/statistics.md).

Data are arrays "R N": R replicates (a teacher draw with a student seed), N test clips, in points.
Both are draws: of trainings, and of clips. A row of NaN is a replicate that an arm lacks.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, nctdtr, nctdtrinc, polygamma, stdtr, stdtrit

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
LEAST_REPLICATES = 3
"""Fewer replicates have no interval and no verdict."""
LEAST_GROUPS = 3
"""Fewer groups of clips show nothing of their spread."""
MARGIN = 2.0
"""Points below which a difference does not matter, unless a file says otherwise."""
POWER = 0.8
RESAMPLES = 10_000
MOST_SEEDS = 1000
LEAST_UNITS = 3
LEAST_SAMPLES = 5
MOST_REPLICATES = 50
"""Cap of every "needs about N replicates"."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval at level `CONFIDENCE`."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """Mean of an array "R N" with its uncertainty over replicates and clips.

    Attributes:
        sd: standard deviation of the replicates' means; None for one replicate.
        of_replicates: variance of the mean due to the draw of replicates.
        of_clips: variance of the mean due to the draw of clips.
        groups: number of independent groups of clips; 1 where the values are no clips.
        known: False where there is no inference: fewer than `LEAST_REPLICATES` replicates, fewer
            than `LEAST_GROUPS` groups, or no spread at all.
    """

    mean: float
    sd: float | None
    replicates: int
    of_replicates: float
    of_clips: float
    groups: int
    known: bool

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return math.sqrt(self.of_replicates + self.of_clips) if self.known else None

    @property
    def df(self) -> float | None:
        """Degrees of freedom of `error`."""
        return self._at(self.replicates)[1] if self.known else None

    @property
    def p(self) -> float:
        """Two-sided p of a mean of 0."""
        return min(1.0, 2 * min(self.p_above(), self.p_below()))

    def p_above(self, bound: float = 0.0) -> float:
        """One-sided p of the claim that the mean is above `bound`; 1 where nothing is known."""
        if not self.known:
            return 1.0
        error, df = self._at(self.replicates)
        return float(stdtr(df, (bound - self.mean) / error))

    def p_below(self, bound: float = 0.0) -> float:
        """One-sided p of the claim that the mean is below `bound`; 1 where nothing is known."""
        return 1.0 - self.p_above(bound) if self.known else 1.0

    def p_within(self, margin: float) -> float:
        """TOST: p of the claim that the mean lies within -`margin` .. `margin`."""
        return max(self.p_above(-margin), self.p_below(margin))

    def interval(self, level: float = LEVEL) -> Interval | None:
        """Two-sided confidence interval at 1 - `level`; None where nothing is known."""
        if not self.known:
            return None
        error, df = self._at(self.replicates)
        width = t_quantile(1 - level / 2, df) * error
        return Interval(self.mean - width, self.mean + width)

    def detectable(self, level: float) -> float | None:
        """Distance from a bound that a one-sided test at `level` finds with power `POWER`."""
        if not self.known:
            return None
        error, df = self._at(self.replicates)
        return float(nctdtrinc(df, 1 - POWER, t_quantile(1 - level, df))) * error

    def power(self, distance: float, replicates: int, level: float) -> float:
        """Chance that a one-sided test at `level` finds a true `distance` with `replicates`."""
        error, df = self._at(replicates)
        missed = float(nctdtr(df, distance / error, t_quantile(1 - level, df)))
        # Far beyond the threshold the distribution function is computed as NaN.
        return 1.0 if math.isnan(missed) else 1 - missed

    def replicates_for(self, distance: float, level: float, power: float = POWER) -> int | None:
        """Least number of replicates whose `power` is reached; None above `MOST_REPLICATES`."""
        counts = range(LEAST_REPLICATES, MOST_REPLICATES + 1) if self.known else ()
        return next((n for n in counts if self.power(distance, n, level) >= power), None)

    def _at(self, replicates: int) -> tuple[float, float]:
        """Standard error and degrees of freedom with so many replicates of the same kind."""
        rows = self.of_replicates * self.replicates / replicates
        variance = rows + self.of_clips
        share = rows / variance
        per_clips = (1 - share) / (self.groups - 1) if self.groups > 1 else 0.0
        return math.sqrt(variance), 1 / (share / max(1, replicates - 1) + per_clips)


def estimate(
    values: np.ndarray, groups: np.ndarray | None = None, *, deterministic: bool = False
) -> Estimate:
    """Mean of `values` by a crossed random-effects model.

    The variance of the mean is the one over replicates, plus the one over clips where it exceeds
    their interaction. Its degrees of freedom are the harmonic mean of R - 1 and N - 1 weighted by
    the two parts, which keeps the level where Satterthwaite's formula exceeds it: at few
    replicates, and at the small levels of Holm's adjustment (docs/statistics.md).

    Args:
        values: Float "R N" with at least one row without NaN.
        groups: "N", equal for clips that are not independent (one session); None: all are.
        deterministic: the method draws nothing, so that one replicate has all information.
    """
    values = values[~np.isnan(values).any(axis=1)]
    values = values[:1] if deterministic else values
    count = len(values)
    assert count > 0
    mean, means = float(values.mean()), values.mean(axis=1)
    sd = float(means.std(ddof=1)) if count > 1 else None
    cells = _by_group(values, mean, groups)
    size = cells.shape[1]
    rows = (sd or 0.0) ** 2 / count
    interaction = 0.0
    if count > 1 and size > 1:
        rest = cells - cells.mean(axis=0) - cells.mean(axis=1, keepdims=True) + mean
        interaction = float((rest**2).sum()) / ((count - 1) * (size - 1) * count * size)
    columns = float(cells.mean(axis=0).var(ddof=1)) / size if size > 1 else 0.0
    of_clips = max(0.0, columns - interaction)
    enough = deterministic or count >= LEAST_REPLICATES
    has_groups = size >= LEAST_GROUPS or values.shape[1] == 1
    known = enough and has_groups and rows + of_clips > 1e-12
    return Estimate(mean, None if deterministic else sd, count, rows, of_clips, size, known)


def _by_group(values: np.ndarray, mean: float, groups: np.ndarray | None) -> np.ndarray:
    """Groups in place of clips, "R G", with the same mean; Taylor's form of a ratio's variance."""
    if groups is None:
        return values
    names, membership = np.unique(groups, return_inverse=True)
    member = np.zeros((len(groups), len(names)))
    member[np.arange(len(groups)), membership] = len(names) / len(groups)
    sums: np.ndarray = mean + (values - mean) @ member
    return sums


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's distribution."""
    return float(stdtrit(df, probability))


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


def decide(
    p_values: Sequence[Sequence[float]], looks: int, level: float = LEVEL
) -> tuple[tuple[float, int | None], ...]:
    """Decisions of a family of hypotheses that is looked at up to `looks` times.

    The level is shared equally by the declared looks (Bonferroni) and at each of them by the
    hypotheses that are still open (Holm). The probability of any false decision is at most
    `level`, whatever the dependence, and a decision stands whatever later looks say.

    Args:
        p_values: one row per look so far, one column per hypothesis; 1 without data.
        looks: all that were declared, future ones included.

    Returns:
        By hypothesis: its adjusted p, to be compared with `level`, and the index of the look that
        decided it, None while it is open.
    """
    count = len(p_values[0]) if p_values else 0
    found: list[tuple[float, int | None]] = [(1.0, None)] * count
    for look, row in enumerate(p_values):
        still = [i for i in range(count) if found[i][1] is None]
        for i, p in zip(still, holm([row[i] for i in still]), strict=True):
            if row[i] < 1.0:
                adjusted = min(1.0, looks * p)
                found[i] = (adjusted, look if adjusted <= level else None)
    return tuple(found)


def tied_with_best(means: Mapping[str, float], margin: float = MARGIN) -> frozenset[str]:
    """The highest of `means` and those less than `margin` below it.

    Empty for fewer than two, and where more than 50 % are tied: a mark on most says nothing.
    """
    best = max(means.values(), default=0.0)
    tied = frozenset(name for name, mean in means.items() if mean > best - margin)
    return tied if 2 * len(tied) <= len(means) else frozenset()


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
