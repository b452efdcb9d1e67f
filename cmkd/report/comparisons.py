"""Paired comparisons of arms, with what they can and cannot show.

A difference can come about by the draw of seeds and by the draw of test clips. Each is tested
against its own chance: Student's paired t over seeds, and a paired bootstrap over clips. Where
clips share sessions, these are drawn, and as a bootstrap of few takes them for more alike than they
are, a cluster-robust t test over them is a third. The largest p counts, and the interval is the
hull of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cmkd.config.sweep import Arm, Sweep
from cmkd.report.arms import FAMILIES, ArmQuery, Family, family_of_arm, find_arm, find_reference
from cmkd.report.cells import Outcomes, TestSet, outcomes
from cmkd.report.evidence import Evidence
from cmkd.stats import (
    CONFIDENCE,
    Interval,
    cluster_interval,
    cluster_p,
    exceeds_p,
    holm,
    mean_sd,
    resample_units,
    resampled_p,
    t_interval,
)

LEAST_SEEDS = 3
"""Fewer seeds than this decide nothing."""

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of accuracies in points, by seed and clip: Float "S N", S >= 1.

    `trials` are the ids of the trials that it rests on.
    """

    values: np.ndarray
    units: np.ndarray
    trials: tuple[str, ...]

    @property
    def seeds(self) -> int:
        """How many seeds all arms share."""
        return len(self.values)

    @cached_property
    def per_seed(self) -> tuple[float, ...]:
        """The contrast over all clips, one value per seed."""
        return tuple(self.values.mean(axis=1).tolist())

    @property
    def mean(self) -> float:
        """In points."""
        return mean_sd(self.per_seed)[0]

    @property
    def sd(self) -> float | None:
        """Over seeds; None for one."""
        return mean_sd(self.per_seed)[1]

    @property
    def effect_size(self) -> float | None:
        """Paired d: mean over SD of the seeds' values; None where there is no spread."""
        return self.mean / self.sd if self.sd else None

    @cached_property
    def _resampled(self) -> np.ndarray:
        return resample_units(self.values, self.units)

    @cached_property
    def _grouped(self) -> bool:
        return len(np.unique(self.units)) < len(self.units)

    @property
    def interval(self) -> Interval | None:
        """The hull of all 95 % intervals; None for one seed."""
        of_seeds = t_interval(self.per_seed)
        if of_seeds is None:
            return None
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(self._resampled, (tail, 1 - tail))
        parts = [of_seeds, Interval(float(low), float(high))]
        of_sessions = cluster_interval(self.values, self.units) if self._grouped else None
        parts += [of_sessions] if of_sessions is not None else []
        return Interval(min(one.low for one in parts), max(one.high for one in parts))

    def p_above(self, bound: float = 0.0) -> tuple[float, float]:
        """One-sided p of being above `bound` points: over seeds, over clips."""
        over_clips = resampled_p(self._resampled, bound)
        if self._grouped:
            over_clips = max(over_clips, cluster_p(self.values, self.units, bound))
        return exceeds_p(self.per_seed, bound), over_clips

    def p_below(self, bound: float = 0.0) -> tuple[float, float]:
        """One-sided p of being below `bound` points: over seeds, over clips."""
        mirrored = [-value for value in self.per_seed]
        over_clips = resampled_p(-self._resampled, -bound)
        if self._grouped:
            over_clips = max(over_clips, cluster_p(-self.values, self.units, -bound))
        return exceeds_p(mirrored, -bound), over_clips

    @property
    def p(self) -> float:
        """Two-sided p of being 0: the larger of the two chances; 1.0 below `LEAST_SEEDS`."""
        if self.seeds < LEAST_SEEDS:
            return 1.0
        return min(1.0, 2 * min(max(self.p_above()), max(self.p_below())))


def contrast(parts: Sequence[tuple[float, Outcomes]], test: TestSet) -> Contrast | None:
    """The sum of weight x accuracy at the selected epoch; None without shared seeds."""
    shared = sorted(set.intersection(*(set(one.seeds) for _, one in parts)))
    if not shared:
        return None
    values = np.zeros((len(shared), len(test.clips)))
    trials: dict[str, None] = {}
    for weight, one in parts:
        rows = [one.seeds.index(seed) for seed in shared]
        values += 100.0 * weight * one.selected[rows]
        folds = len(one.trials) // len(one.seeds)
        for row in rows:
            trials |= dict.fromkeys(one.trials[row * folds : (row + 1) * folds])
    units = test.units if test.grouped else np.arange(len(test.clips))
    return Contrast(values, units, tuple(trials))


@dataclass(frozen=True)
class Compared:
    """One contrast by name; `p_holm` is adjusted over the family that it stands in.

    `contrast` is None, and both p are, where the arms have no seed in common.
    """

    name: str
    half: Family
    contrast: Contrast | None
    p_holm: float | None


def against(sources: Sequence[tuple[Evidence, TestSet]], role: str) -> tuple[Compared, ...]:
    """Every student arm minus the reference `role` of its half, trained equally long.

    One family per half over all `sources`, as a reader scans the rows of one half for those that
    stand out; what two sweeps both compare is compared once.
    """
    found: dict[Family, dict[str, Contrast | None]] = {half: {} for half in FAMILIES}
    seen: set[tuple[str, str]] = set()
    for evidence, test in sources:
        for arm, other in _referred(evidence.sweep, role):
            pair = (arm.setting.id, other.setting.id)
            if pair in seen:
                continue
            seen.add(pair)
            rows, name = found[family_of_arm(arm.setting)], f"{arm.name} {MINUS} {other.name}"
            # Two sweeps may call different settings the same.
            name += f" ({evidence.sweep.spec.name})" if name in rows else ""
            ours, theirs = (outcomes(evidence, one) for one in pair)
            rows[name] = contrast([(1.0, ours), (-1.0, theirs)], test)
    return tuple(row for half, rows in found.items() for row in _family(rows, half))


def _referred(sweep: Sweep, role: str) -> Iterator[tuple[Arm, Arm]]:
    for arm in sweep.arms:
        other = find_reference(sweep, role, arm.setting)
        if other is not None and other.setting != arm.setting:
            yield arm, other


FACTORIAL: Mapping[str, Mapping[tuple[bool, bool], float]] = {
    "spatial KD (main effect)": {
        (True, True): 0.5,
        (True, False): 0.5,
        (False, True): -0.5,
        (False, False): -0.5,
    },
    "temporal KD (main effect)": {
        (True, True): 0.5,
        (False, True): 0.5,
        (True, False): -0.5,
        (False, False): -0.5,
    },
    "interaction": {
        (True, True): 1.0,
        (True, False): -1.0,
        (False, True): -1.0,
        (False, False): 1.0,
    },
}
"""Weights of the four arms (spatial, temporal) of the 2 x 2 design, all of them with a decoder.

The interaction is what one kind of KD gains by the presence of the other.
"""


def factorial(evidence: Evidence, test: TestSet) -> tuple[Compared, ...]:
    """Main effects and interaction of spatial and temporal KD, by half that has all four arms."""
    rows: list[Compared] = []
    for half in FAMILIES:
        arms = _corners(evidence.sweep, half)
        if arms is not None:
            pooled = {place: outcomes(evidence, arm.setting.id) for place, arm in arms.items()}
            found = {
                name: contrast([(weight, pooled[at]) for at, weight in weights.items()], test)
                for name, weights in FACTORIAL.items()
            }
            rows += _family(found, half)
    return tuple(rows)


def _corners(sweep: Sweep, half: Family) -> Mapping[tuple[bool, bool], Arm] | None:
    corners: dict[tuple[bool, bool], Arm] = {}
    for spatial in (False, True):
        for temporal in (False, True):
            wanted = ArmQuery(
                family=half, method={"lambda_1": spatial or 0.0, "lambda_2": temporal or 0.0}
            )
            arm = find_arm(sweep, wanted)
            if arm is None:
                return None
            corners[spatial, temporal] = arm
    return corners


def _family(found: Mapping[str, Contrast | None], half: Family) -> list[Compared]:
    measured = {name: one for name, one in found.items() if one is not None}
    tested = [one.p for one in measured.values()]
    adjusted = dict(zip(measured, holm(tested) if tested else (), strict=True))
    return [Compared(name, half, one, adjusted.get(name)) for name, one in found.items()]
