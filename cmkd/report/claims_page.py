"""Claims judged by a store: verdicts, the differences behind them, the page and its JSON."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cmkd.errors import InputError
from cmkd.report.arms import Family, find_arm
from cmkd.report.claims import (
    TEACHER,
    VERDICTS,
    AccuracyClaim,
    ClaimResult,
    Claims,
    CostClaim,
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
from cmkd.report.evidence import Evidence, NothingMeasured
from cmkd.report.gather import Gatherer
from cmkd.report.page import Cell, Grid, Line, Page
from cmkd.report.paper import ModelCost
from cmkd.report.tables import ArmResult, Difference, arm_result
from cmkd.report.text import DASH, FEW_MARK, headline_text, plural, signed

Pairs = Sequence[tuple[str, str]]


def judge(claims: Claims, gatherer: Gatherer, costs: Mapping[str, ModelCost]) -> Judgement:
    """Decide all claims.

    Raises:
        NothingMeasured: the store has no finished run of any claim.
        InputError: an error of `collect`, or sweeps on different versions of the data.
    """
    found: dict[str, Evidence] = {}
    lacking: list[NothingMeasured] = []
    for sweep in dict.fromkeys(claim.sweep for _, claim, _ in claims.accuracy):
        try:
            found[sweep] = gatherer.evidence(sweep)
        except NothingMeasured as error:
            lacking.append(error)
    if not found:
        raise lacking[0]
    # One sweep may stand for all of them.
    evidence = tuple({own.sweep.spec.name: own for own in found.values()}.values())
    _refuse_mixtures(evidence)
    identical = {own.sweep.spec.name: identical_arms(own) for own in evidence}
    results = []
    for name, claim, family in claims.accuracy:
        # The command names no store, as pages are read on other machines too.
        _, sweep, data = gatherer.sweep(claim.sweep)
        command = shlex.join(["cmkd", "sweep", sweep, "--data", data])
        result = ClaimResult(name, family, claim, gap=f"run: {command}", command=command)
        if claim.sweep in found:
            own = found[claim.sweep]
            result = _measure(result, claim, claims, gatherer, own, identical[own.sweep.spec.name])
        results.append(result)
    return Judgement(
        claims=claims,
        evidence=evidence,
        results=decide_claims(results, claims),
        costs=tuple(
            judge_cost(name, claim, costs)
            for name, claim in claims.claims.items()
            if isinstance(claim, CostClaim)
        ),
        factorial=tuple(row for own in evidence for row in factorial(own)),
        control=against_control(evidence),
    )


def _refuse_mixtures(evidence: Sequence[Evidence]) -> None:
    first, *others = evidence
    for other in others:
        for what in ("data", "data_id", "selection"):
            here, there = getattr(first, what), getattr(other, what)
            if here != there:
                raise InputError(
                    f"sweeps {first.sweep.spec.name} and {other.sweep.spec.name} have runs of "
                    f"different {what}: {here!r} and {there!r}; choose one data set with --data, "
                    "or delete the runs that are wrong"
                )


def _measure(
    result: ClaimResult,
    claim: AccuracyClaim,
    claims: Claims,
    gatherer: Gatherer,
    evidence: Evidence,
    identical: Pairs,
) -> ClaimResult:
    """`result` with its differences, and with what is lacking for the others."""
    results: dict[str, ArmResult] = {}
    absent: dict[str, str] = {}
    for name in {name for pair in claim.pairs for name in pair} - {TEACHER}:
        arm = find_arm(evidence.sweep, claims.arms[name].of(result.family))
        if arm is not None:
            results[name] = arm_result(evidence, arm)
        else:
            absent[name] = _absent_text(name, result.family, evidence)
    pairs: list[Difference] = []
    gaps: dict[str, None] = {}
    for names in claim.pairs:
        lacking = [absent[name] for name in names if name in absent]
        parts = {name: results[name] for name in names if name in results}
        if TEACHER in names and not lacking:
            teacher = gatherer.teacher(evidence, result.family, results[names[0]])
            parts |= {TEACHER: teacher} if teacher is not None else {}
        difference = _difference(parts, identical)
        if not lacking and len(parts) == len(names) and difference.seeds:
            pairs.append(difference)
        else:
            lacking = lacking or [f"{' and '.join(names)} have no replicate in common"]
            gaps[lacking[0]] = None
    gap = "; ".join(gaps)
    if evidence.sweep.waiting or gaps.keys() - absent.values():
        gap += f"; run: {result.command}" if gap else ""
    return replace(result, pairs=tuple(pairs), gap=gap)


def _difference(parts: Mapping[str, ArmResult], identical: Pairs) -> Difference:
    """a - b, or (a - b) - (c - d), of the arms `parts` in this order."""
    names = [TEACHER if name == TEACHER else own.arm.name for name, own in parts.items()]
    shown = f" {MINUS} ".join(names[:2])
    if len(names) == 4:
        shown = f"({shown}) {MINUS} ({f' {MINUS} '.join(names[2:])})"
    weighted = tuple(zip((1.0, -1.0, -1.0, 1.0), parts.values(), strict=False))
    return Difference(shown, weighted, identical=any({*same} <= {*names} for same in identical))


def _absent_text(name: str, family: Family, evidence: Evidence) -> str:
    if evidence.sweep.waiting:
        return f"{name} waits for a selection"
    lack = f"the sweep {evidence.sweep.spec.name} has no arm {name!r} in the {family} family"
    chosen = ", ".join(f"{choice.name} = {choice.value:g}" for choice in evidence.choices)
    return f"{lack}; its search selected {chosen}" if chosen else lack


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
    lines = []
    for result in (*judgement.results, *judgement.costs):
        trials = dict.fromkeys(trial for pair in result.pairs for trial in pair.trials)
        p = Cell(DASH) if isinstance(result.claim, CostClaim) else _p_cell(result.p, trials)
        cells = (
            Cell(result.name),
            Cell(result.family),
            Cell(f"{result.claim.says} ({result.claim.source})"),
            Cell(result.verdict),
            p,
            Cell(str(result.replicates) if result.pairs else DASH),
            Cell(f"{result.detectable:.1f}" if result.detectable is not None else DASH),
            Cell(result.reason or DASH),
        )
        lines.append(Line(cells, result.family))
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
    lines = []
    for row in rows:
        named = Cell(row.difference.name), Cell(row.family)
        lines.append(Line((*named, *_difference_cells(row.difference, row.p_holm)), row.family))
    return Grid(name, title, caption, ("Difference", "Family", *_HEADS, "p (Holm)"), tuple(lines))


_HEADS = ("Mean [95 %]", "SD", "df", "n", "p")


def _difference_cells(difference: Difference, *adjusted: float | None) -> Iterator[Cell]:
    found = difference.estimate
    if found is None:
        yield from (Cell(DASH) for _ in (*_HEADS, *adjusted))
        return
    interval, text = found.interval(), signed(found.mean)
    text += f" [{signed(interval.low)}, {signed(interval.high)}]" if interval else f" {FEW_MARK}"
    count, trials = len(difference.seeds), difference.trials
    yield Cell(text, "measured", found.mean, found.sd, interval, count, trials)
    yield Cell(f"{found.sd:.1f}" if found.sd is not None else DASH)
    yield Cell(f"{found.df:.0f}" if found.df is not None else DASH)
    yield Cell(str(count))
    for p in (found.p, *adjusted):
        yield _p_cell(p) if found.known else Cell(DASH, "measured", p)


def _p_cell(p: float | None, trials: Iterable[str] = ()) -> Cell:
    text = DASH if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
    return Cell(text, "measured", p, trials=tuple(trials))


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
        **{key: getattr(first, key) for key in ("data", "data_id", "data_kind", "selection")},
        "level": claims.level,
        "looks": list(claims.looks),
        "claims": [
            _claim_json(result, claims) for result in (*judgement.results, *judgement.costs)
        ],
        "factorial": [_compared_json(row) for row in judgement.factorial],
        "control": [_compared_json(row) for row in judgement.control],
    }
    return json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _claim_json(result: ClaimResult, claims: Claims) -> dict[str, Any]:
    claim = result.claim
    head = {"claim": result.name, "family": result.family, "kind": claim.kind}
    sentence = {"says": claim.says, "source": claim.source}
    verdict = {"verdict": result.verdict, "reason": result.reason}
    if isinstance(claim, CostClaim):
        ours, than = result.gmacs
        return {**head, **sentence, **verdict, "gmacs": ours, "gmacs_than": than}
    return {
        **head,
        "margin": claim.margin or claims.margin,
        **sentence,
        **verdict,
        **{key: getattr(result, key) for key in ("p", "look", "detectable", "more")},
        "pairs": [
            {"name": pair.name, "identical": pair.identical, **_difference_json(pair)}
            for pair in result.pairs
        ],
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    found = difference.estimate
    if found is None:
        return {}
    interval = found.interval()
    return {
        "difference": found.mean,
        "sd": found.sd,
        "error": found.error,
        "df": found.df,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "n": len(difference.seeds),
        "per_replicate": list(difference.per_seed),
        "p": found.p,
        "trials": list(difference.trials),
    }


def _compared_json(compared: Compared) -> dict[str, Any]:
    return {
        "name": compared.difference.name,
        "family": compared.family,
        **_difference_json(compared.difference),
        "p_holm": compared.p_holm,
    }
