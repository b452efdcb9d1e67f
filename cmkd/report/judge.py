"""From the claims and the store to verdicts, factorial effects and differences to the control."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cmkd.config.sweep import Arm
from cmkd.errors import InputError
from cmkd.report.arms import FAMILIES, Family, find_arm
from cmkd.report.cells import Outcomes, TestSet, outcomes, shared_test_set
from cmkd.report.claims import TEACHER, AccuracyClaim, Claims, CostClaim
from cmkd.report.comparisons import Compared, against, contrast, factorial
from cmkd.report.costs import CostCell, ModelCost, row_cost
from cmkd.report.evidence import Evidence, NothingMeasured
from cmkd.report.gather import Gatherer
from cmkd.report.identical_arms import twins
from cmkd.report.paper import PublishedRow, RowCost
from cmkd.report.verdicts import Case, Paired, Ruling, Verdict, rule


@dataclass(frozen=True)
class CostRuling:
    """The verdict on a claim about computation; the cells are None where nothing was counted."""

    name: str
    claim: CostClaim
    verdict: Verdict
    ours: CostCell | None
    than: CostCell | None


@dataclass(frozen=True)
class Judgement:
    """All verdicts on one data set, and the comparisons they stand beside.

    `evidence` has one entry per sweep with finished runs, at least one.
    """

    claims: Claims
    evidence: tuple[Evidence, ...]
    cases: tuple[Case, ...]
    rulings: tuple[Ruling, ...]
    costs: tuple[CostRuling, ...]
    factorial: tuple[Compared, ...]
    control: tuple[Compared, ...]


def judge(claims: Claims, gatherer: Gatherer, costs: Mapping[str, ModelCost]) -> Judgement:
    """Decide all claims.

    Raises:
        NothingMeasured: the store has no finished run of any claim.
        InputError: what `collect` refuses, and sweeps on different versions of the data.
    """
    accuracy = {n: one for n, one in claims.claims.items() if isinstance(one, AccuracyClaim)}
    names = dict.fromkeys(claim.sweep for claim in accuracy.values())
    found: dict[str, Evidence | NothingMeasured] = {}
    for name in names:
        try:
            found[name] = gatherer.evidence(name)
        except NothingMeasured as error:
            found[name] = error
    evidence = {one.sweep.spec.name: one for one in found.values() if isinstance(one, Evidence)}
    if not evidence:
        raise next(one for one in found.values() if isinstance(one, NothingMeasured))
    _refuse_mixtures(tuple(evidence.values()))
    finders = {name: _Finder(claims, gatherer, name, found[name]) for name in names}
    cases = tuple(
        finders[claim.sweep].case(name, claim, half)
        for half in FAMILIES
        for name, claim in accuracy.items()
        if half in claim.halves
    )
    kept = tuple(evidence.values())
    tests = [shared_test_set(one) for one in kept]
    return Judgement(
        claims=claims,
        evidence=kept,
        cases=cases,
        rulings=rule(cases, claims.level),
        costs=tuple(
            _judge_cost(name, one, costs)
            for name, one in claims.claims.items()
            if isinstance(one, CostClaim)
        ),
        factorial=tuple(
            row for one, test in zip(kept, tests, strict=True) for row in factorial(one, test)
        ),
        control=against(tuple(zip(kept, tests, strict=True)), "control"),
    )


class _Finder:
    """Cases of one sweep."""

    def __init__(
        self, claims: Claims, gatherer: Gatherer, sweep: str, found: Evidence | NothingMeasured
    ) -> None:
        self._claims = claims
        self._gatherer = gatherer
        # Without the store: a page is read on other machines too.
        _, own, data = gatherer.sweep(sweep)
        self._command = shlex.join(["cmkd", "sweep", own, "--data", data])
        self._evidence = found if isinstance(found, Evidence) else None
        self._twins = set(twins(found)) if isinstance(found, Evidence) else set()
        self._test = shared_test_set(found) if isinstance(found, Evidence) else None

    def case(self, name: str, claim: AccuracyClaim, half: Family) -> Case:
        """`claim` in `half` with all its pairs, or with what is lacking for them."""
        if self._evidence is None or self._test is None:
            return Case(name, half, claim, (), f"run: {self._command}")
        found = [self._pair(*pair, half, self._evidence, self._test) for pair in claim.pairs]
        pairs = tuple(one for one in found if isinstance(one, Paired))
        gaps = dict.fromkeys(one for one in found if isinstance(one, str))
        # Once, however many pairs lack the same.
        command = f"; run: {self._command}"
        lacking = "; ".join(one.removesuffix(command) for one in gaps)
        lacking += command if any(one.endswith(command) for one in gaps) else ""
        return Case(name, half, claim, pairs, lacking)

    def _pair(
        self, one: str, other: str, half: Family, evidence: Evidence, test: TestSet
    ) -> Paired | str:
        over, under = self._arm(one, half, evidence), self._arm(other, half, evidence)
        if over is None:
            return self._lack(one, half, evidence)
        ours = outcomes(evidence, over.setting.id)
        if other == TEACHER:
            right = self._gatherer.teacher(evidence, half, test) if ours.seeds else None
            theirs = _as_outcomes(right, ours, evidence, half) if right is not None else None
        elif under is None:
            return self._lack(other, half, evidence)
        else:
            theirs = outcomes(evidence, under.setting.id)
        delta = contrast([(1.0, ours), (-1.0, theirs)], test) if theirs is not None else None
        if delta is None:
            return f"{one} and {other} have no seed in common; run: {self._command}"
        names = (over.name, under.name if under is not None else TEACHER)
        is_dead = names in self._twins or names[::-1] in self._twins
        return Paired(*names, delta, is_dead)

    def _arm(self, name: str, half: Family, evidence: Evidence) -> Arm | None:
        wanted = self._claims.arms.get(name)
        if wanted is None:
            return None
        return find_arm(evidence.sweep, wanted.of(half))

    def _lack(self, name: str, half: Family, evidence: Evidence) -> str:
        if evidence.sweep.waiting:
            return f"{name} waits for a selection; run: {self._command}"
        lack = f"the sweep {evidence.sweep.spec.name} has no arm {name!r} in the {half} half"
        chosen = ", ".join(f"{one.name} = {one.value:g}" for one in evidence.choices)
        return f"{lack}; its search selected {chosen}" if chosen else lack


def _as_outcomes(right: np.ndarray, like: Outcomes, evidence: Evidence, half: Family) -> Outcomes:
    """The teacher, which has no seed of its own, beside each seed of its students."""
    repeated = np.repeat(right[None], len(like.seeds), axis=0)
    ids = tuple(evidence.teachers[half][fold].teacher_id for fold in evidence.folds)
    return replace(like, selected=repeated, last=repeated, trials=ids * len(like.seeds))


def _judge_cost(name: str, claim: CostClaim, costs: Mapping[str, ModelCost]) -> CostRuling:
    def cell(part: RowCost) -> CostCell | None:
        return row_cost(PublishedRow(method=name, cost=part), costs)

    ours, than = cell(claim.ours), cell(claim.than)
    if ours is None or than is None:
        return CostRuling(name, claim, "no runs", ours, than)
    verdict: Verdict = "supported" if ours.total < than.total else "contradicted"
    return CostRuling(name, claim, verdict, ours, than)


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
