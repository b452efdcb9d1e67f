"""The file of claims, ``reports/claims.yaml``, and the verdicts on its sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from cmkd.config.base import Config
from cmkd.config.paths import packaged
from cmkd.config.spec import NAME
from cmkd.config.yaml_loader import explain, read_yaml, suggest
from cmkd.errors import ConfigError
from cmkd.report.arms import ArmQuery, Family
from cmkd.report.comparisons import Compared
from cmkd.report.costs import CostCell, ModelCost, row_cost
from cmkd.report.evidence import Evidence
from cmkd.report.paper import PublishedRow, RowCost
from cmkd.report.tables import Difference
from cmkd.report.text import signed
from cmkd.stats import LEAST_REPLICATES, MARGIN, MOST_REPLICATES, POWER, Estimate, decide

TEACHER = "teacher"
"""The name of the RGB teacher where an arm is expected."""

ClaimName = Annotated[str, Field(pattern=NAME)]


class Statement(Config):
    """Common fields of all claims."""

    says: str = Field(min_length=1, description="the sentence, in our words")
    source: str = Field(min_length=1, description="where the paper says it")


class AccuracyClaim(Statement):
    """Holds where each of `pairs` does what `kind` says.

    A pair ``[a, b]`` is a - b in points; ``[a, b, c, d]`` is (a - b) - (c - d), such as two gains
    over controls of their own. better: above 0. near: above -`margin`. equal: within `margin`.
    """

    kind: Literal["better", "near", "equal"]
    margin: float | None = Field(default=None, gt=0, description="points; None: that of the file")
    sweep: str = Field(min_length=1, description="the spec that has the arms")
    families: tuple[Family, ...] = Field(min_length=1, description="a claim of its own in each")
    pairs: tuple[tuple[str, ...], ...] = Field(min_length=1, description="names in `arms`")


class CostClaim(Statement):
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
    document = read_yaml(path)
    try:
        claims = Claims.model_validate_json(json.dumps(document.data, default=str))
    except ValidationError as error:
        keys, message = explain(error, Claims)
        raise ConfigError(f"{document.where(*keys)}: {message}") from None
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
    """A claim in one family of networks: its differences, and the verdict on them.

    Attributes:
        pairs: those that were measured; `gap` says what the others lack.
        command: trains the arms of its sweep.
        reason: missing runs, or the grounds of a verdict.
        p: adjusted over all claims of the file and all declared looks; None where untested.
        look: number of replicates that decided.
        detectable: points beyond the bound that these replicates find with a power of 80 %.
        more: about how many more replicates would decide; None where that says nothing.
    """

    name: str
    family: Family
    claim: AccuracyClaim
    pairs: tuple[Difference, ...] = ()
    gap: str = ""
    command: str = ""
    verdict: Verdict = "no runs"
    reason: str = ""
    p: float | None = None
    look: int | None = None
    detectable: float | None = None
    more: int | None = None

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
    return result.claim.margin or claims.margin


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
    coming = next((look for look in claims.looks if look > result.replicates), None)
    reason = f"open at {look} replicates; "
    if coming is not None:
        reason += f"next look at {coming}: {result.command} --seeds {coming}"
    elif needed is not None and needed > look:
        reason += (
            f"about {needed - look} more would show the difference seen; declare the look in the "
            "file first, for every look costs its part of the level"
        )
    elif any(pair.of_clips > pair.of_replicates for pair in pairs):
        reason += "more test clips would help, rather than more replicates"
    else:
        reason += f"{MOST_REPLICATES} replicates would not show the difference seen"
    return replace(
        result,
        verdict="inconclusive",
        reason=reason,
        detectable=max(known, default=None),
        more=needed - look if needed is not None and needed > look else None,
    )


def _needed(kind: str, margin: float, pairs: Sequence[Estimate], level: float) -> int | None:
    """Replicates that show the differences seen, if they are the true ones, by any verdict."""

    def counts(distances: Sequence[float], at: float, power: float = POWER) -> list[int | None]:
        return [
            pair.replicates_for(distance, at, power) if distance > 0 else None
            for pair, distance in zip(pairs, distances, strict=True)
        ]

    means = [pair.mean for pair in pairs]
    # Both one-sided tests of an equivalence have to succeed.
    within = counts([margin - abs(mean) for mean in means], level, 1 - (1 - POWER) / 2)
    shared = level / len(pairs)
    if kind == "better":
        for_all = [counts(means, level / 2), within]
        for_one = counts([-mean for mean in means], shared / 2)
    elif kind == "near":
        for_all = [counts([mean + margin for mean in means], level)]
        for_one = counts([-mean - margin for mean in means], shared)
    else:
        for_all = [within]
        for_one = counts([abs(mean) - margin for mean in means], shared)
    options = [max(n for n in each if n) for each in for_all if None not in each]
    return min([*options, *(n for n in for_one if n is not None)], default=None)


@dataclass(frozen=True)
class CostResult:
    """The verdict on a claim about computation; the cells are None where nothing was counted."""

    name: str
    claim: CostClaim
    verdict: Verdict
    ours: CostCell | None
    than: CostCell | None

    @property
    def reason(self) -> str:
        """Grounds of the verdict, or the command that measures."""
        if self.ours is None or self.than is None:
            return "run: cmkd cost"
        saved = 100 * (self.ours.total / self.than.total - 1)
        reading = "; one reading of an open point of the paper" if self.ours.is_open else ""
        totals = f"{self.ours.total:.1f} against {self.than.total:.1f} GMACs"
        return f"{totals}: {signed(saved)} %{reading}"


def judge_cost(name: str, claim: CostClaim, costs: Mapping[str, ModelCost]) -> CostResult:
    """Verdict on `claim` by the measured `costs`."""

    def cell(part: RowCost) -> CostCell | None:
        return row_cost(PublishedRow(method=name, cost=part), costs)

    ours, than = cell(claim.ours), cell(claim.than)
    if ours is None or than is None:
        return CostResult(name, claim, "no runs", ours, than)
    verdict: Verdict = "supported" if ours.total < than.total else "contradicted"
    return CostResult(name, claim, verdict, ours, than)


@dataclass(frozen=True)
class Judgement:
    """All verdicts on one data set, and the comparisons they stand beside.

    `evidence` has one entry per sweep with finished runs, at least one.
    """

    claims: Claims
    evidence: tuple[Evidence, ...]
    results: tuple[ClaimResult, ...]
    costs: tuple[CostResult, ...]
    factorial: tuple[Compared, ...]
    control: tuple[Compared, ...]
