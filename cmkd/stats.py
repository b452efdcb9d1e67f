"""Statistics of all reports: intervals, tests, families of tests, power (docs/statistics.md).

Data are arrays "R N": R replicates (a teacher draw with a student seed), N test clips, in points.
Both are draws: of trainings, and of clips. A row of NaN is a replicate that an arm lacks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from scipy.special import nctdtr, nctdtrinc, stdtr, stdtrit

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
LEAST_REPLICATES = 3
"""Fewer replicates have no interval and no verdict."""
LEAST_GROUPS = 3
"""Fewer groups of clips show nothing of their spread."""
MARGIN = 2.0
"""Points below which a difference does not matter, unless a file says otherwise."""
TINY = 1e-12
"""Variance that is none."""
POWER = 0.8
MOST_REPLICATES = 50
"""Cap of every "needs about N replicates"."""
EFFECT_LEVEL = 0.05
"""Chance that a guarded effect of the baseline's size is called lost, or a lost one is not."""
ARM_LEVEL = 0.01
"""Chance that any arm or teacher of an unchanged rerun is beyond its tolerance."""


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
    if rows + of_clips < TINY:
        # Replicates that agree by the coarseness of an accuracy still differ clip by clip.
        rows = interaction
    enough = deterministic or count >= LEAST_REPLICATES
    has_groups = size >= LEAST_GROUPS or values.shape[1] == 1
    known = enough and has_groups and rows + of_clips > TINY
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


def without_outliers(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest of `values` inside Tukey's outer fences, three quartile ranges away."""
    low, high = np.quantile(values, [0.25, 0.75])
    reach = 3 * (high - low)
    kept = [value for value in values if low - reach <= value <= high + reach]
    return min(kept), max(kept)


def is_guarded(mean: float, then: int, now: int, sd: float, df: float) -> bool:
    """Whether an effect is large enough that "less than half is left" is seldom wrong."""
    error = sd * math.sqrt(1 / now + 1 / (4 * then))
    return mean > 0 and t_quantile(1 - EFFECT_LEVEL, df) * error <= mean / 2


class Spread(Protocol):
    """SD over so many replicates."""

    @property
    def sd(self) -> float | None: ...
    @property
    def replicates(self) -> int: ...


Key = TypeVar("Key")


def spreads_of(kept: Mapping[Key, Spread], clips: int) -> dict[Key, tuple[float, float]]:
    """SD and degrees of freedom of each: the own or the pooled one, at least one of `clips`."""
    df = sum(spread.replicates - 1 for spread in kept.values())
    sds = {key: max(spread.sd or 0.0, 100 / clips) for key, spread in kept.items()}
    squares = sum((spread.replicates - 1) * sds[key] ** 2 for key, spread in kept.items())
    return {key: (max(sd, math.sqrt(squares / df)), df) for key, sd in sds.items()}


def arm_tolerance(spread: tuple[float, float], then: int, now: int, cells: int) -> float:
    """Points by which the mean of an unchanged arm may move, before drift."""
    sd, df = spread
    return t_quantile(1 - ARM_LEVEL / (2 * cells), df) * sd * math.sqrt(1 / then + 1 / now)
