"""The file of claims, ``reports/claims.yaml``, and the verdicts on its sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from cmkd.config.base import Config
from cmkd.config.paths import packaged
from cmkd.config.sweep import NAME
from cmkd.config.yaml_loader import read_model, suggest
from cmkd.errors import ConfigError
from cmkd.report.arms import ArmQuery, Family
from cmkd.report.comparisons import Compared
from cmkd.report.evidence import Evidence
from cmkd.report.paper import ModelCost, RowCost, network_cost
from cmkd.report.tables import Difference
from cmkd.report.text import signed
from cmkd.stats import LEAST_REPLICATES, MARGIN, MOST_REPLICATES, POWER, Estimate, decide

TEACHER = "teacher"
"""The name of the RGB teacher where an arm is expected."""

ClaimName = Annotated[str, Field(pattern=NAME)]


class _Statement(Config):
    says: str = Field(min_length=1, description="the sentence, in our words")
    source: str = Field(min_length=1, description="where the paper says it")


class AccuracyClaim(_Statement):
    """Holds where each of `pairs` does what `kind` says.

    A pair ``[a, b]`` is a - b in points; ``[a, b, c, d]`` is (a - b) - (c - d), such as two gains
    over controls of their own. better: above 0. near: above -`margin`. equal: within `margin`.
    """

    kind: Literal["better", "near", "equal"]
    margin: float | None = Field(default=None, gt=0, description="points; None: that of the file")
    sweep: str = Field(min_length=1, description="the spec that has the arms")
    families: tuple[Family, ...] = Field(min_length=1, description="a claim of its own in each")
    pairs: tuple[tuple[str, ...], ...] = Field(min_length=1, description="names in `arms`")


class CostClaim(_Statement):
    """Holds where `ours` takes fewer multiply-accumulates than `than`."""

    kind: Literal["cheaper"]
    family: Family
    ours: RowCost
    than: RowCost


class Claims(Config):
    """The file: one family of tests, whichever of them have runs.

    `level` is the probability of any false verdict about accuracy on a data set, over all claims
    and all `looks`.
    """

    level: float = Field(gt=0, lt=0.5)
    margin: float = Field(default=MARGIN, gt=0, description="points that do not matter")
    looks: tuple[int, ...] = Field(
        default=(5, 10), min_length=1, description="numbers of replicates at which is judged"
    )
    arms: dict[str, ArmQuery]
    claims: dict[ClaimName, Annotated[AccuracyClaim | CostClaim, Field(discriminator="kind")]] = (
        Field(min_length=1)
    )

    @model_validator(mode="after")
    def _looks_ascend(self) -> Self:
        if self.looks[0] < LEAST_REPLICATES or sorted(set(self.looks)) != list(self.looks):
            raise ValueError(f"looks: must ascend from {LEAST_REPLICATES} replicates or more")
        return self

    @property
    def accuracy(self) -> tuple[tuple[str, AccuracyClaim, Family], ...]:
        """The family of tests: name, claim and family of networks, in the order of the file."""
        return tuple(
            (name, claim, family)
            for name, claim in self.claims.items()
            if isinstance(claim, AccuracyClaim)
            for family in claim.families
        )


def load_claims() -> Claims:
    """The claims that come with the project; errors as `read_claims`."""
    return read_claims(packaged("reports", "claims.yaml"))


def read_claims(path: Path) -> Claims:
    """The claims in the file `path`.

    Raises:
        ConfigError: with file, line and key, when the file is not such a list, or a pair names an
            arm that is not there or compares an arm with itself.
    """
    claims, document = read_model(path, Claims)
    known = [*claims.arms, TEACHER]
    if TEACHER in claims.arms:
        raise ConfigError(f"{document.where('arms', TEACHER)}: {TEACHER!r} is the RGB teacher")
    for name, claim in claims.claims.items():
        for number, pair in enumerate(claim.pairs if isinstance(claim, AccuracyClaim) else ()):
            where = document.where("claims", name, "pairs", str(number))
            for arm in pair:
                if arm not in known:
                    raise ConfigError(f"{where}: no arm {arm!r}{suggest(arm, known)}")
            is_pair = len(pair) in (2, 4) and len(set(pair)) == len(pair)
            if not is_pair or TEACHER in pair[:1] + pair[2:]:
                raise ConfigError(
                    f"{where}: {list(pair)} is neither [a, b] nor [a, b, c, d] of different arms; "
                    f"{TEACHER!r} can only be b of [a, b]"
                )
    return claims


Verdict = Literal["supported", "contradicted", "equal", "inconclusive", "dead", "no runs"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class ClaimResult:
    """A claim in one family of networks: its differences or costs, and the verdict on them.

    Attributes:
        pairs: those that were measured; `gap` says what the others lack.
        command: trains the arms of its sweep.
        reason: missing runs, or the grounds of a verdict.
        p: adjusted over all claims of the file and all declared looks; None where untested.
        look: number of replicates that decided.
        detectable: points beyond the bound that these replicates find with a power of 80 %.
        more: about how many more replicates would decide; None where that says nothing.
        gmacs: of both sides of a `CostClaim`; None where nothing was counted.
    """

    name: str
    family: Family
    claim: AccuracyClaim | CostClaim
    pairs: tuple[Difference, ...] = ()
    gap: str = ""
    command: str = ""
    verdict: Verdict = "no runs"
    reason: str = ""
    p: float | None = None
    look: int | None = None
    detectable: float | None = None
    more: int | None = None
    gmacs: tuple[float | None, float | None] = (None, None)

    @property
    def replicates(self) -> int:
        """Replicates of the pair that has the fewest."""
        return min((len(pair.seeds) for pair in self.pairs), default=0)


def decide_claims(results: Sequence[ClaimResult], claims: Claims) -> tuple[ClaimResult, ...]:
    """Verdicts on `results`, which are one family of tests of a fixed size.

    A claim without runs counts as p = 1. The probability of any false verdict is at most the level
    of the file, over all claims and all declared looks.
    """
    tests = [_sides_by_look(result, claims) for result in results]
    p_values = [
        [min(test[look].values()) if look in test else 1.0 for test in tests]
        for look in claims.looks
    ]
    decided = decide(p_values, len(claims.looks), claims.level)
    found = []
    for result, sides, (p, at) in zip(results, tests, decided, strict=True):
        if not sides:
            found.append(_untested(result, claims))
        elif at is None:
            found.append(_undecided(replace(result, p=p), claims, max(sides), len(results)))
        else:
            look = claims.looks[at]
            best = min(sides[look], key=lambda verdict: sides[look][verdict])
            reason = f"decided at {look} replicates"
            if best == "equal":
                reason += f": within {_margin(result, claims):g} points"
            found.append(replace(result, verdict=best, reason=reason, p=p, look=look))
    return tuple(found)


def _margin(result: ClaimResult, claims: Claims) -> float:
    claim = result.claim
    return (claim.margin if isinstance(claim, AccuracyClaim) else None) or claims.margin


def _sides_by_look(result: ClaimResult, claims: Claims) -> dict[int, dict[Verdict, float]]:
    """p of every verdict, by look that has the replicates; empty where nothing can be tested.

    The smallest p of a look is one test: whatever the true difference, the verdicts that are false
    then are below a level at most as often as that level.
    """
    if result.gap or any(pair.identical for pair in result.pairs):
        return {}
    margin = _margin(result, claims)
    return {
        look: _sides(result.claim.kind, margin, [pair.at(look) for pair in result.pairs])
        for look in claims.looks
        if look <= result.replicates
    }


def _sides(kind: str, margin: float, pairs: Sequence[Estimate]) -> dict[Verdict, float]:
    """A claim needs all its pairs, its contrary one of them (Bonferroni)."""
    within = max(pair.p_within(margin) for pair in pairs)
    if kind == "equal":
        outside = min(min(pair.p_above(margin), pair.p_below(-margin)) for pair in pairs)
        return {"supported": within, "contradicted": min(1.0, len(pairs) * outside)}
    bound, tails = (0.0, 2) if kind == "better" else (-margin, 1)
    above = tails * max(pair.p_above(bound) for pair in pairs)
    below = tails * len(pairs) * min(pair.p_below(bound) for pair in pairs)
    sides: dict[Verdict, float] = {"supported": min(1.0, above), "contradicted": min(1.0, below)}
    return sides | {"equal": within} if kind == "better" else sides


def _untested(result: ClaimResult, claims: Claims) -> ClaimResult:
    dead = [pair.name for pair in result.pairs if pair.identical]
    if dead:
        reason = (
            f"{'; '.join(dead)}: the same predictions on every clip of every shared replicate, so "
            "what differs between them has no effect"
        )
        return replace(result, verdict="dead", reason=reason)
    if result.gap:
        return replace(result, verdict="no runs", reason=result.gap)
    first = claims.looks[0]
    reason = f"{result.replicates} of {first} replicates; run: {result.command} --seeds {first}"
    more = first - result.replicates
    return replace(result, verdict="inconclusive", reason=reason, more=more)


def _undecided(result: ClaimResult, claims: Claims, look: int, family: int) -> ClaimResult:
    level = claims.level / (family * len(claims.looks))
    pairs = [pair.at(look) for pair in result.pairs]
    one_sided = level / 2 if result.claim.kind == "better" else level
    known = [points for pair in pairs if (points := pair.detectable(one_sided)) is not None]
    needed = _needed(result.claim.kind, _margin(result, claims), pairs, level)
    more = needed - look if needed is not None and needed > look else None
    coming = next((look for look in claims.looks if look > result.replicates), None)
    if coming is not None:
        remedy = f"next look at {coming}: {result.command} --seeds {coming}"
    elif more is not None:
        remedy = (
            f"about {more} more would show the difference seen; declare the look in the "
            "file first, for every look costs its part of the level"
        )
    elif any(pair.of_clips > pair.of_replicates for pair in pairs):
        remedy = "more test clips would help, rather than more replicates"
    else:
        remedy = f"{MOST_REPLICATES} replicates would not show the difference seen"
    return replace(
        result,
        verdict="inconclusive",
        reason=f"open at {look} replicates; {remedy}",
        detectable=max(known, default=None),
        more=more,
    )


def _needed(kind: str, margin: float, pairs: Sequence[Estimate], level: float) -> int | None:
    """Replicates that show the differences seen, if they are the true ones, by any verdict."""

    def counts(distance: Callable[[float], float], at: float, power: float = POWER) -> list[float]:
        """Replicates that each pair needs; infinite where its difference is on the other side."""
        distances = [distance(pair.mean) for pair in pairs]
        found = [
            pair.replicates_for(points, at, power) if points > 0 else None
            for pair, points in zip(pairs, distances, strict=True)
        ]
        return [math.inf if count is None else count for count in found]

    # Both one-sided tests of an equivalence have to succeed.
    within = max(counts(lambda mean: margin - abs(mean), level, 1 - (1 - POWER) / 2))
    shared = level / len(pairs)
    if kind == "better":
        above = max(counts(lambda mean: mean, level / 2))
        fewest = min(within, above, *counts(lambda mean: -mean, shared / 2))
    elif kind == "near":
        above = max(counts(lambda mean: mean + margin, level))
        fewest = min(above, *counts(lambda mean: -mean - margin, shared))
    else:
        fewest = min(within, *counts(lambda mean: abs(mean) - margin, shared))
    return int(fewest) if math.isfinite(fewest) else None


def judge_cost(name: str, claim: CostClaim, costs: Mapping[str, ModelCost]) -> ClaimResult:
    """Verdict on `claim` by the measured `costs`."""
    ours, than = network_cost(claim.ours, costs), network_cost(claim.than, costs)
    gmacs = (ours.total if ours else None, than.total if than else None)
    if ours is None or than is None:
        return ClaimResult(name, claim.family, claim, reason="run: cmkd cost", gmacs=gmacs)
    saved = signed(100 * (ours.total / than.total - 1))
    reading = "; one reading of an open point of the paper" if ours.is_open else ""
    return ClaimResult(
        name,
        claim.family,
        claim,
        verdict="supported" if ours.total < than.total else "contradicted",
        reason=f"{ours.total:.1f} against {than.total:.1f} GMACs: {saved} %{reading}",
        gmacs=gmacs,
    )


@dataclass(frozen=True)
class Judgement:
    """All verdicts on one data set, and the comparisons they stand beside.

    `evidence` has one entry per sweep with finished runs, at least one.
    """

    claims: Claims
    evidence: tuple[Evidence, ...]
    results: tuple[ClaimResult, ...]
    costs: tuple[ClaimResult, ...]
    factorial: tuple[Compared, ...]
    control: tuple[Compared, ...]
