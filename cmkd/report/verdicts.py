"""What the runs say about each claim: supported, inconclusive or contradicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cmkd.report.arms import Family
from cmkd.report.claims import AccuracyClaim
from cmkd.report.comparisons import LEAST_SEEDS, Contrast
from cmkd.stats import POWER, detectable, holm, seeds_for

Verdict = Literal["supported", "inconclusive", "contradicted", "dead", "no runs"]

Chances = tuple[float, float]
"""One-sided p over seeds, and over clips."""

SEEDS, CLIPS = 0, 1
"""Which is which in `Chances`."""


@dataclass(frozen=True)
class Paired:
    """One pair of a claim as measured: `over` minus `under`.

    `is_dead`: the two gave the same predictions although their settings differ.
    """

    over: str
    under: str
    contrast: Contrast
    is_dead: bool = False


@dataclass(frozen=True)
class Case:
    """A claim in one half with the pairs that were measured, and what the others lack (`gap`)."""

    name: str
    half: Family
    claim: AccuracyClaim
    pairs: tuple[Paired, ...]
    gap: str = ""


@dataclass(frozen=True)
class Ruling:
    """The verdict on a case.

    Attributes:
        reason: what it rests on, or what is missing.
        p: of the claim or of its contrary, whichever is smaller; None where nothing was tested.
        p_holm: adjusted over all claims tested on the data set.
        detectable: points beyond the claim's bound that its seeds find with a power of 80 %, the
            largest of its pairs; None where there is no spread.
        more_seeds: about how many more would decide; None where that says nothing.
    """

    verdict: Verdict
    reason: str
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    more_seeds: int | None = None


def rule(cases: Sequence[Case], level: float) -> tuple[Ruling, ...]:
    """The verdicts on all `cases` of one data set, which are one family of tests.

    The probability of any false verdict among them is at most `level`, by Holm's adjustment.
    """
    tested = [i for i, case in enumerate(cases) if _is_tested(case)]
    sides = {i: _claim_sides(cases[i]) for i in tested}
    adjusted = dict(zip(tested, holm([min(sides[i]) for i in tested]), strict=True))
    rulings = []
    for i, case in enumerate(cases):
        if i in adjusted:
            rulings.append(_rule(case, sides[i], adjusted[i], level, len(tested)))
        else:
            rulings.append(_untested(case))
    return tuple(rulings)


def _is_tested(case: Case) -> bool:
    enough = all(one.contrast.seeds >= LEAST_SEEDS and not one.is_dead for one in case.pairs)
    return not case.gap and enough


def _untested(case: Case) -> Ruling:
    dead = [f"{one.over} and {one.under}" for one in case.pairs if one.is_dead]
    if dead:
        reason = f"{'; '.join(dead)}: the same predictions on every clip of every shared seed"
        return Ruling("dead", f"{reason}, so what differs between them has no effect")
    if case.gap:
        return Ruling("no runs", case.gap)
    n = min(one.contrast.seeds for one in case.pairs)
    return Ruling(
        "inconclusive",
        f"needs at least {LEAST_SEEDS - n} more seed{'s' if LEAST_SEEDS - n > 1 else ''}: "
        f"no verdict from fewer than {LEAST_SEEDS}",
        more_seeds=LEAST_SEEDS - n,
    )


def _rule(
    case: Case, sides: tuple[float, float], p_holm: float, level: float, family: int
) -> Ruling:
    holds, fails = sides
    known = [one.contrast for one in case.pairs if one.contrast.sd]
    found = [
        detectable(one.sd or 0.0, one.seeds, _one_sided(case, level) / family) for one in known
    ]
    common = (min(sides), p_holm, max(found, default=None))
    if p_holm <= level:
        if holds < fails:
            return Ruling("supported", "", *common)
        return Ruling("contradicted", "the contrary is established", *common)
    n = min(one.contrast.seeds for one in case.pairs)
    if _suffices(case, level / family, SEEDS):
        return Ruling("inconclusive", "needs more test clips rather than seeds", *common)
    needed = _seeds_needed(case, level / family)
    if needed is None:
        reason = "the difference is too near the bound for any number of seeds that is practical"
        return Ruling("inconclusive", reason, *common)
    more = max(1, needed - n)
    reason = f"needs about {more} more seed{'s' if more > 1 else ''}"
    # Seeds leave the chance of other clips as it is, and the larger of the two counts.
    reason += "" if _suffices(case, level / family, CLIPS) else ", and perhaps more test clips"
    return Ruling("inconclusive", reason, *common, more_seeds=more)


def _claim_sides(case: Case) -> tuple[float, float]:
    """p of the claim (of its weakest pair), and of its contrary (of any pair; Bonferroni)."""
    each = [_sides(case.claim, one.contrast) for one in case.pairs]
    holds = max(max(one) for one, _ in each)
    fails = min(max(other) for _, other in each) * len(each)
    return min(1.0, holds), min(1.0, fails)


def _sides(claim: AccuracyClaim, contrast: Contrast) -> tuple[Chances, Chances]:
    """The chances of a pair if the claim is wrong, and if it is right."""
    margin = claim.margin
    match claim.kind:
        case "better":
            return _doubled(contrast.p_above()), _doubled(contrast.p_below())
        case "near":
            return contrast.p_above(-margin), contrast.p_below(-margin)
        case "equal":
            above, below = contrast.p_above(-margin), contrast.p_below(margin)
            outside = min(contrast.p_above(margin), contrast.p_below(-margin), key=max)
            return (max(above[0], below[0]), max(above[1], below[1])), outside


def _doubled(chances: Chances) -> Chances:
    seeds, clips = chances
    return min(1.0, 2 * seeds), min(1.0, 2 * clips)


def _one_sided(case: Case, level: float) -> float:
    return level / 2 if case.claim.kind == "better" else level


def _distance(claim: AccuracyClaim, contrast: Contrast) -> float:
    """Points from the bound of the claim; below 0 on the wrong side of it."""
    if claim.kind == "equal":
        return claim.margin - abs(contrast.mean)
    return contrast.mean + claim.margin


def _suffices(case: Case, level: float, chance: int) -> bool:
    """Whether one of the two chances would decide by itself, so that it is the other that bars."""
    each = [_sides(case.claim, one.contrast) for one in case.pairs]
    holds = max(one[chance] for one, _ in each)
    fails = min(other[chance] for _, other in each) * len(each)
    return min(holds, fails) <= level


def _seeds_needed(case: Case, level: float) -> int | None:
    """Seeds that find the observed differences, if they are the true ones, with power `POWER`."""
    level = _one_sided(case, level)
    # Two one-sided tests have to succeed together.
    power = 1 - (1 - POWER) / 2 if case.claim.kind == "equal" else POWER
    gaps = [(_distance(case.claim, one.contrast), one.contrast.sd or 0.0) for one in case.pairs]
    wrong = [(-gap, sd) for gap, sd in gaps if gap <= 0]
    if wrong:
        counts = [seeds_for(gap, sd, level / len(gaps)) for gap, sd in wrong]
        return min((n for n in counts if n is not None), default=None)
    counts = [seeds_for(gap, sd, level, power=power) for gap, sd in gaps]
    known = [n for n in counts if n is not None]
    return max(known) if len(known) == len(counts) else None


def count_verdicts(rulings: Sequence[Ruling]) -> Mapping[Verdict, int]:
    """How often each verdict was given, those that occur."""
    order: tuple[Verdict, ...] = ("supported", "inconclusive", "contradicted", "dead", "no runs")
    counts = {one: sum(ruling.verdict == one for ruling in rulings) for one in order}
    return {one: count for one, count in counts.items() if count}
