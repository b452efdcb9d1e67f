"""The regression gate: by how much fresh results may differ from a committed baseline.

A cell is the mean accuracy of one arm over its seeds, or the accuracy of a teacher. Now and then
may differ by

    t(1 - FALSE_ALARM / 2m; df) * s * sqrt(1 / n_then + 1 / n_now) + drift

where m is the number of cells, s the standard deviation pooled over the seeds of both sides, at
least one test clip, df = n_then + n_now - 2, and drift the allowance for another platform, a field
of the baseline. A teacher is one training: n = 1 on both sides, and its s is that of all arms,
pooled. The first term is the bound of the two-sample t test, shared by all cells (Bonferroni), so
that an unchanged rerun on other seeds passes with a probability of at least 1 - FALSE_ALARM.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cmkd.errors import InputError
from cmkd.report.judging.baseline import (
    ArmRecord,
    Baseline,
    Measurements,
    measured,
    teacher_accuracies,
)
from cmkd.report.judging.twins import twins
from cmkd.report.statistics import mean_sd, spread_bound
from cmkd.report.store.evidence import Evidence
from cmkd.report.values.cells import shared_test_set

FALSE_ALARM = 0.01
"""Probability that an unchanged rerun on other seeds fails, at most."""


@dataclass(frozen=True)
class Moved:
    """One cell, then and now, in points; it `fails` beyond the tolerance."""

    cell: str
    before: float
    after: float
    tolerance: float

    @property
    def delta(self) -> float:
        """Now minus then."""
        return self.after - self.before

    @property
    def fails(self) -> bool:
        """Whether the difference is beyond the tolerance."""
        return abs(self.delta) > self.tolerance


@dataclass(frozen=True)
class Finding:
    """What the gate found: `structure` says what is not as it was, one line each."""

    structure: tuple[str, ...]
    cells: tuple[Moved, ...]

    @property
    def passes(self) -> bool:
        """Whether nothing is wrong, and there was something to compare."""
        return bool(self.cells) and not self.structure and not any(c.fails for c in self.cells)


@dataclass(frozen=True)
class Pool:
    """The spread of both sides: sum of squares about each side's mean, and degrees of freedom."""

    squares: float
    degrees: int

    def bound(self, counts: tuple[int, int], family: int, *, least: float) -> float:
        """What two means over `counts` seeds may differ by; `least` is the least SD in points."""
        sd = max(math.sqrt(self.squares / self.degrees), least)
        return spread_bound(sd, self.degrees, counts, level=FALSE_ALARM, family=family)


def pooled(then: ArmRecord, now: Sequence[float]) -> Pool:
    """The spread of one arm over the seeds `then` and `now`."""
    spread = mean_sd(now)[1] or 0.0
    squares = (then.seeds - 1) * then.sd**2 + (len(now) - 1) * spread**2
    return Pool(squares, then.seeds + len(now) - 2)


def compare(baseline: Baseline, evidence: Evidence) -> Finding:
    """Hold fresh results against `baseline`.

    Raises:
        InputError: no arm of the baseline has a complete seed now, so nothing can be compared.
    """
    fresh = measured(evidence)
    if not any(name in fresh and fresh[name][1] for name in baseline.arms):
        raise InputError(
            f"no arm of the baseline has a finished seed on {evidence.data}, so there is nothing "
            f"to compare; run: cmkd sweep {baseline.sweep} --data {baseline.data}"
        )
    return Finding(
        tuple(_differences(baseline, evidence, fresh)), tuple(_moves(baseline, evidence, fresh))
    )


def _differences(baseline: Baseline, evidence: Evidence, fresh: Measurements) -> Iterator[str]:
    clips = len(shared_test_set(evidence).clips)
    for what, before, after in (
        ("data_id", baseline.data_id, evidence.data_id),
        ("selection", baseline.selection, evidence.selection),
        ("folds", list(baseline.folds), list(evidence.folds)),
        ("test clips", baseline.test_clips, clips),
    ):
        if before != after:
            yield f"{what}: {before} before, {after} now"
    for name, record in baseline.arms.items():
        if name not in fresh:
            yield f"arm {name}: missing, the sweep {baseline.sweep} no longer has it"
            continue
        setting_id, values = fresh[name]
        if setting_id != record.setting_id:
            yield f"arm {name}: another setting, {record.setting_id} before, {setting_id} now"
        if not values:
            yield f"arm {name}: missing, no complete seed"
    for name, (_, values) in fresh.items():
        if name not in baseline.arms and values:
            yield f"arm {name}: new, not in the baseline"
    teachers = teacher_accuracies(evidence, shared_test_set(evidence))
    for half in sorted(baseline.teachers.keys() ^ teachers.keys()):
        yield f"teacher of the {half} half: {'missing' if half in baseline.teachers else 'new'}"
    known = {frozenset(pair) for pair in baseline.identical}
    for one, other in twins(evidence):
        if frozenset((one, other)) not in known:
            yield (
                f"arms {one} and {other}: dead toggle, their settings differ and their predictions "
                "do not, in any clip of any shared trial"
            )


def _moves(baseline: Baseline, evidence: Evidence, fresh: Measurements) -> Iterator[Moved]:
    shared = {name: fresh[name][1] for name in baseline.arms if name in fresh and fresh[name][1]}
    now = teacher_accuracies(evidence, shared_test_set(evidence))
    teachers = {
        half: (before, after)
        for half, before in baseline.teachers.items()
        if before is not None and (after := now.get(half)) is not None
    }
    family = len(shared) + len(teachers)
    clip = 100 / baseline.test_clips
    pools = []
    for name, values in shared.items():
        record = baseline.arms[name]
        pool = pooled(record, values)
        pools.append(pool)
        bound = pool.bound((record.seeds, len(values)), family, least=clip)
        yield Moved(f"arm {name}", record.mean, mean_sd(values)[0], bound + baseline.drift)
    everything = Pool(sum(one.squares for one in pools), sum(one.degrees for one in pools))
    for half, (before, after) in teachers.items():
        bound = everything.bound((1, 1), family, least=clip)
        yield Moved(f"teacher of the {half} half", before, after, bound + baseline.drift)
