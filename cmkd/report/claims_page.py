"""Claims judged by a store: verdicts, the differences behind them, the page and its JSON."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cmkd.config.sweep import Arm
from cmkd.errors import InputError
from cmkd.report.arms import Family, find_arm
from cmkd.report.claims import (
    TEACHER,
    VERDICTS,
    AccuracyClaim,
    ClaimResult,
    Claims,
    CostClaim,
    CostResult,
    Judgement,
    decide_claims,
    judge_cost,
)
from cmkd.report.comparisons import (
    MINUS,
    Compared,
    against_control,
    factorial,
    identical_arms,
)
from cmkd.report.costs import ModelCost
from cmkd.report.evidence import Evidence, NothingMeasured
from cmkd.report.gather import Gatherer
from cmkd.report.page import Cell, Grid, Line, Page
from cmkd.report.tables import ArmResult, Difference, arm_result
from cmkd.report.text import DASH, FEW_MARK, headline_text, plural, signed


def judge(claims: Claims, gatherer: Gatherer, costs: Mapping[str, ModelCost]) -> Judgement:
    """Decide all claims.

    Raises:
        NothingMeasured: the store has no finished run of any claim.
        InputError: an error of `collect`, or sweeps on different versions of the data.
    """
    found: dict[str, Evidence | NothingMeasured] = {}
    for name in dict.fromkeys(claim.sweep for _, claim, _ in claims.accuracy):
        try:
            found[name] = gatherer.evidence(name)
        except NothingMeasured as error:
            found[name] = error
    evidence = {
        gathered.sweep.spec.name: gathered
        for gathered in found.values()
        if isinstance(gathered, Evidence)
    }
    if not evidence:
        raise next(error for error in found.values() if isinstance(error, NothingMeasured))
    _refuse_mixtures(tuple(evidence.values()))
    readers = {name: _ClaimReader(claims, gatherer, name, found[name]) for name in found}
    results = [readers[claim.sweep].read(name, claim, at) for name, claim, at in claims.accuracy]
    return Judgement(
        claims=claims,
        evidence=tuple(evidence.values()),
        results=decide_claims(results, claims),
        costs=tuple(
            judge_cost(name, claim, costs)
            for name, claim in claims.claims.items()
            if isinstance(claim, CostClaim)
        ),
        factorial=tuple(row for gathered in evidence.values() for row in factorial(gathered)),
        control=against_control(list(evidence.values())),
    )


class _Gap(NamedTuple):
    """Missing part of a claim."""

    text: str
    needs_runs: bool = True


class _ClaimReader:
    """Differences of the claims about one sweep."""

    def __init__(
        self, claims: Claims, gatherer: Gatherer, sweep: str, found: Evidence | NothingMeasured
    ) -> None:
        self._claims = claims
        self._gatherer = gatherer
        # The command names no store, as pages are read on other machines too.
        _, own, data = gatherer.sweep(sweep)
        self._command = shlex.join(["cmkd", "sweep", own, "--data", data])
        self._evidence = found if isinstance(found, Evidence) else None
        self._identical = set(identical_arms(found)) if isinstance(found, Evidence) else set()

    def read(self, name: str, claim: AccuracyClaim, family: Family) -> ClaimResult:
        """`claim` in `family` with all its differences, or with what is lacking for them."""
        blank = ClaimResult(name, family, claim, command=self._command)
        if self._evidence is None:
            return replace(blank, gap=f"run: {self._command}")
        found = [self._pair(pair, family, self._evidence) for pair in claim.pairs]
        gaps = dict.fromkeys(part for part in found if isinstance(part, _Gap))
        gap = "; ".join(part.text for part in gaps)
        gap += f"; run: {self._command}" if any(part.needs_runs for part in gaps) else ""
        return replace(
            blank,
            pairs=tuple(pair for pair in found if isinstance(pair, Difference)),
            gap=gap,
        )

    def _pair(self, names: Sequence[str], family: Family, evidence: Evidence) -> Difference | _Gap:
        found: list[tuple[str, ArmResult]] = []
        for name in names:
            arm = self._arm(name, family, evidence) if name != TEACHER else None
            if arm is not None:
                found.append((arm.name, arm_result(evidence, arm)))
            elif name != TEACHER:
                return self._lack(name, family, evidence)
            elif teacher := self._gatherer.teacher(evidence, family, found[0][1]):
                found.append((TEACHER, teacher))
        weights = (1.0, -1.0, -1.0, 1.0)[: len(names)]
        shown = f" {MINUS} ".join(name for name, _ in found[:2])
        if len(names) == 4:
            shown = f"({shown}) {MINUS} ({f' {MINUS} '.join(name for name, _ in found[2:])})"
        parts = tuple((weight, own) for weight, (_, own) in zip(weights, found, strict=False))
        arms = {name for name, _ in found}
        same = any({one, other} <= arms for one, other in self._identical)
        difference = Difference(shown, parts, identical=same)
        if len(found) == len(names) and difference.seeds:
            return difference
        return _Gap(f"{' and '.join(names)} have no replicate in common")

    def _arm(self, name: str, family: Family, evidence: Evidence) -> Arm | None:
        return find_arm(evidence.sweep, self._claims.arms[name].of(family))

    def _lack(self, name: str, family: Family, evidence: Evidence) -> _Gap:
        if evidence.sweep.waiting:
            return _Gap(f"{name} waits for a selection")
        lack = f"the sweep {evidence.sweep.spec.name} has no arm {name!r} in the {family} family"
        chosen = ", ".join(f"{choice.name} = {choice.value:g}" for choice in evidence.choices)
        return _Gap(f"{lack}; its search selected {chosen}" if chosen else lack, needs_runs=False)


def _refuse_mixtures(evidence: Sequence[Evidence]) -> None:
    first, *others = evidence
    for other in others:
        for what in ("data", "data_id", "selection"):
            one, two = getattr(first, what), getattr(other, what)
            if one != two:
                raise InputError(
                    f"sweeps {first.sweep.spec.name} and {other.sweep.spec.name} have runs of "
                    f"different {what}: {one!r} and {two!r}; choose one data set with --data, or "
                    "delete the runs that are wrong"
                )


def build_claims_page(judgement: Judgement, *, version: str) -> Page:
    """Verdicts, the differences behind them, factorial effects and gains over the control."""
    first = judgement.evidence[0]
    grids = [_verdict_grid(judgement), _pair_grid(judgement)]
    if judgement.factorial:
        caption = (
            "The four arms with a decoder as a 2 x 2 design, in points; the interaction is the "
            "gain of one kind of KD by the other. Holm: over the three of a family."
        )
        grids.append(_compared_grid("factorial", "Factorial view", caption, judgement.factorial))
    if judgement.control:
        caption = (
            "Every arm minus the control of its family that was trained equally long, in points. "
            "Holm: over the arms of a family in all sweeps."
        )
        grids.append(_compared_grid("control", "Against the control", caption, judgement.control))
    return Page(
        name="claims",
        heading=f"Claims on {first.data}",
        headline=headline_text(first),
        notice=(
            "A verdict says what holds for these networks on this data; it neither confirms nor "
            "refutes the paper's numbers."
        ),
        grids=tuple(grids),
        circumstances=tuple(_circumstances(judgement, version)),
        notes=(),
    )


def _verdict_grid(judgement: Judgement) -> Grid:
    lines = [
        Line(
            (
                Cell(result.name),
                Cell(result.family),
                Cell(f"{result.claim.says} ({result.claim.source})"),
                Cell(result.verdict),
                Cell(_p_text(result.p), "measured", result.p, trials=_trials(result)),
                Cell(str(result.replicates) if result.pairs else DASH),
                Cell(f"{result.detectable:.1f}" if result.detectable is not None else DASH),
                Cell(result.reason or DASH),
            ),
            result.family,
        )
        for result in judgement.results
    ]
    for cost in judgement.costs:
        says, family = f"{cost.claim.says} ({cost.claim.source})", cost.claim.family
        texts = (cost.name, family, says, cost.verdict, DASH, DASH, DASH, cost.reason)
        lines.append(Line(tuple(map(Cell, texts)), family))
    first, counts = judgement.evidence[0], Counter(result.verdict for result in judgement.results)
    listed = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    caption = (
        f"Claims about accuracy on {first.data} ({first.data_kind}, data_id {first.data_id}): "
        f"{listed}. Selected epoch: {first.selection}."
    )
    columns = ("Claim", "Family", "Sentence", "Verdict", "p (adjusted)", "n", "Detectable")
    return Grid("claims", "Claims", caption, (*columns, "Reason"), tuple(lines))


def _pair_grid(judgement: Judgement) -> Grid:
    lines = [
        Line((Cell(result.name), Cell(pair.name), *_difference_cells(pair)), result.family)
        for result in judgement.results
        for pair in result.pairs
    ]
    caption = (
        "Differences in points over all replicates. p: of no difference, two-sided, by itself; "
        "claims with a margin are tested at their margin."
    )
    return Grid("pairs", "Pairs", caption, ("Claim", "Pair", *_HEADS), tuple(lines))


def _compared_grid(name: str, title: str, caption: str, rows: Sequence[Compared]) -> Grid:
    lines = tuple(
        Line(
            (
                Cell(row.difference.name),
                Cell(row.family),
                *_difference_cells(row.difference, row.p_holm),
            ),
            row.family,
        )
        for row in rows
    )
    return Grid(name, title, caption, ("Difference", "Family", *_HEADS, "p (Holm)"), lines)


_HEADS = ("Mean [95 %]", "SD", "df", "n", "p")


def _difference_cells(difference: Difference, *adjusted: float | None) -> Iterator[Cell]:
    one = difference.estimate
    if one is None:
        yield from (Cell(DASH) for _ in (*_HEADS, *adjusted))
        return
    interval, text = one.interval(), signed(one.mean)
    text += f" [{signed(interval.low)}, {signed(interval.high)}]" if interval else f" {FEW_MARK}"
    low, high = (interval.low, interval.high) if interval else (None, None)
    count, trials = len(difference.seeds), difference.trials
    yield Cell(text, "measured", one.mean, one.sd, low, high, count, trials)
    yield Cell(f"{one.sd:.1f}" if one.sd is not None else DASH)
    yield Cell(f"{one.df:.0f}" if one.df is not None else DASH)
    yield Cell(str(count))
    for p in (one.p, *adjusted):
        yield Cell(_p_text(p) if one.known else DASH, "measured", p)


def _p_text(p: float | None) -> str:
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _trials(result: ClaimResult) -> tuple[str, ...]:
    return tuple(dict.fromkeys(trial for pair in result.pairs for trial in pair.trials))


def _circumstances(judgement: Judgement, version: str) -> Iterator[str]:
    claims = judgement.claims
    looks = " and ".join(map(str, claims.looks))
    yield (
        f"How to read this: replicates and clips are both drawn at random (docs/statistics.md). "
        f"The probability of any false verdict is at most {100 * claims.level:g} %, over all "
        f"claims of the file and all looks (at {looks} replicates)."
    )
    yield (
        "Equal: shown to be within the margin of the claim. Detectable: points beyond the bound "
        f"found four times of five. {FEW_MARK}: no interval."
    )
    for evidence in judgement.evidence:
        folds = plural(len(evidence.folds), "fold")
        yield (
            f"Sweep {evidence.sweep.spec.name}: {plural(len(evidence.trials), 'trial')}, {folds}, "
            f"commit {', '.join(evidence.commits)}."
        )
    yield f"Report by {version}."


SCHEMA = 2
"""Raised when a key changes its meaning or goes."""


def render_claims_json(judgement: Judgement) -> str:
    """Page with unrounded numbers; equal judgements give equal bytes."""
    first, claims = judgement.evidence[0], judgement.claims
    whole = {
        "schema": SCHEMA,
        "data": first.data,
        "data_id": first.data_id,
        "data_kind": first.data_kind,
        "selection": first.selection,
        "level": claims.level,
        "looks": list(claims.looks),
        "claims": [
            *(_claim_json(result, claims) for result in judgement.results),
            *(_cost_json(cost) for cost in judgement.costs),
        ],
        "factorial": [_compared_json(row) for row in judgement.factorial],
        "control": [_compared_json(row) for row in judgement.control],
    }
    return json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _claim_json(result: ClaimResult, claims: Claims) -> dict[str, Any]:
    return {
        "claim": result.name,
        "family": result.family,
        "kind": result.claim.kind,
        "margin": result.claim.margin or claims.margin,
        "says": result.claim.says,
        "source": result.claim.source,
        "verdict": result.verdict,
        "reason": result.reason,
        "p": result.p,
        "look": result.look,
        "detectable": result.detectable,
        "more": result.more,
        "pairs": [
            {"name": pair.name, "identical": pair.identical, **_difference_json(pair)}
            for pair in result.pairs
        ],
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    one = difference.estimate
    if one is None:
        return {}
    interval = one.interval()
    return {
        "difference": one.mean,
        "sd": one.sd,
        "error": one.error,
        "df": one.df,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "n": len(difference.seeds),
        "per_replicate": list(difference.per_seed),
        "p": one.p,
        "trials": list(difference.trials),
    }


def _compared_json(compared: Compared) -> dict[str, Any]:
    return {
        "name": compared.difference.name,
        "family": compared.family,
        **_difference_json(compared.difference),
        "p_holm": compared.p_holm,
    }


def _cost_json(result: CostResult) -> dict[str, Any]:
    return {
        "claim": result.name,
        "family": result.claim.family,
        "kind": result.claim.kind,
        "says": result.claim.says,
        "source": result.claim.source,
        "verdict": result.verdict,
        "reason": result.reason,
        "gmacs": result.ours.total if result.ours else None,
        "gmacs_than": result.than.total if result.than else None,
    }
