"""Further seeds for arms whose order is still open, with a correction for looking repeatedly.

Two arms are compared by the paired t test of `cmkd.stats.estimate` over seeds, at numbers of seeds
that are declared beforehand. `cmkd.stats.decide` shares the level by looks (Bonferroni) and by open
comparisons (Holm), so that the probability of any false decision is at most `LEVEL`. Whether seeds
were added plays no part: everything is computed again from seeds 0, 1, ... at each look.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cmkd.config.method import NO_KD, MethodConfig
from cmkd.config.sweep import Arm, Sweep
from cmkd.config.trial import Setting

LEVEL = 0.05
LEAST_SEEDS = 3
"""Fewest seeds of a look."""

TestScores = Mapping[tuple[str, int, int], float]
"""(setting id, fold, seed) of a finished trial -> its test accuracy in percent."""


@dataclass(frozen=True)
class Comparison:
    """Difference of two arms by the seeds so far.

    Attributes:
        mean: accuracy of `arm` minus that of `other` in points, mean over seeds.
        half_width: half the width of its confidence interval at the level that it was tested at.
        seeds: the look, that is how many seeds these come of.
        decided: whether the interval excludes 0; `seeds` is then the look that decided it.
    """

    arm: str
    other: str
    mean: float
    half_width: float
    seeds: int
    decided: bool

    def describe(self) -> str:
        """``spatial vs control: +7.40 [+3.10, +11.70], decided after 5 seeds``."""
        low, high = self.mean - self.half_width, self.mean + self.half_width
        state = "decided" if self.decided else "open"
        return (
            f"{self.arm} vs {self.other}: {self.mean:+.2f} [{low:+.2f}, {high:+.2f}], "
            f"{state} after {self.seeds} seeds"
        )


def interim_looks(first: int, cap: int) -> tuple[int, ...]:
    """Numbers of seeds to look at: from `first`, each a quarter more, to `cap`."""
    found = [first]
    while found[-1] < cap:
        found.append(min(cap, found[-1] + math.ceil(found[-1] / 4)))
    return tuple(found)


def compared_arms(sweep: Sweep) -> tuple[tuple[Arm, Arm], ...]:
    """Pairs to compare: each student and the arm it departs from, and candidates of a selection.

    Arms of equal settings count once.
    """
    arms = {arm.setting.id: arm for arm in reversed(sweep.arms) if arm.setting.model == "student"}
    pairs: dict[frozenset[str], tuple[Arm, Arm]] = {}
    for arm in (arm for arm in sweep.arms if arms.get(arm.setting.id) is arm):
        steps = (simpler.id for simpler in _simpler(arm.setting))
        other = next((step for step in steps if step in arms and step != arm.setting.id), None)
        if other is not None:
            pairs[frozenset((arm.setting.id, other))] = (arm, arms[other])
    for selection in sweep.spec.select.values():
        among = [arms[arm.setting.id] for arm in sweep.arms if arm.block in selection.among]
        for arm, rival in itertools.combinations(among, 2):
            pairs.setdefault(frozenset((arm.setting.id, rival.setting.id)), (arm, rival))
    return tuple(pairs.values())


def _simpler(setting: Setting) -> tuple[Setting, Setting, Setting]:
    """References, nearest first: standard method, control without KD, baseline without decoder."""
    method = setting.method
    kept = {*NO_KD, "decoder", "heads", "hidden", "width"}
    standard = MethodConfig(**{key: getattr(method, key) for key in kept})
    control = standard.model_copy(update=NO_KD)
    inputs = setting.inputs.model_copy(update={"motion": "accumulated"})
    plain = setting.model_copy(update={"inputs": inputs})
    baseline = control.model_copy(update={"decoder": False})
    return (
        plain.model_copy(update={"method": standard}),
        plain.model_copy(update={"method": control}),
        plain.model_copy(update={"method": baseline}),
    )


def comparisons(
    pairs: Sequence[tuple[Arm, Arm]], scores: TestScores, *, folds: int, at: Sequence[int]
) -> tuple[Comparison, ...]:
    """Comparisons of the pairs of arms that both reached a look.

    Args:
        folds: splits 0 .. folds - 1, whose mean is the value of a seed.
        at: the declared `interim_looks`.
    """
    # Lazy: help loads neither numpy nor scipy.
    import numpy as np

    from cmkd.stats import decide, estimate

    values = [np.array(_differences(pair, scores, folds))[:, None] for pair in pairs]
    tests = [[estimate(own[:look]) for look in at if look <= len(own)] for own in values]
    p_values = [
        [own[look].p if look < len(own) else 1.0 for own in tests] for look in range(len(at))
    ]
    decided = [look for _, look in decide(p_values, len(at), LEVEL)]
    found = []
    for pair, own, decision in zip(pairs, tests, decided, strict=True):
        if own:
            look = len(own) - 1 if decision is None else decision
            test = own[look]
            # Holm: all that are open at this look and at most as clear share its level.
            open_then = sum(
                other is None or other > look or (other == look and p >= test.p)
                for other, p in zip(decided, p_values[look], strict=True)
            )
            interval = test.interval(LEVEL / (len(at) * open_then))
            half_width = interval.high - test.mean if interval else 0.0
            names = (pair[0].name, pair[1].name)
            found.append(Comparison(*names, test.mean, half_width, at[look], decision is not None))
    return tuple(found)


def seeds_needed(found: Sequence[Comparison], at: Sequence[int]) -> dict[str, int]:
    """Seeds by arm: those that decided its comparisons, or the next look."""
    wanted: dict[str, int] = {}
    for comparison in found:
        following = bisect_right(at, comparison.seeds)
        more = not comparison.decided and following < len(at)
        seeds = at[following] if more else comparison.seeds
        for name in (comparison.arm, comparison.other):
            wanted[name] = max(wanted.get(name, 0), seeds)
    return wanted


def _differences(pair: tuple[Arm, Arm], scores: TestScores, folds: int) -> list[float]:
    """Differences of the complete seeds 0, 1, ... of both arms, means over folds."""
    ours, theirs = (_by_seed(arm.setting.id, scores, folds) for arm in pair)
    return [own - other for own, other in zip(ours, theirs, strict=False)]


def _by_seed(setting_id: str, scores: TestScores, folds: int) -> list[float]:
    """Means over folds of the complete seeds 0, 1, ..."""
    values: list[float] = []
    while True:
        keys = [(setting_id, fold, len(values)) for fold in range(folds)]
        if any(key not in scores for key in keys):
            return values
        values.append(math.fsum(scores[key] for key in keys) / folds)
