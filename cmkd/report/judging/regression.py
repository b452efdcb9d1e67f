"""The regression gate: by how much fresh results may differ from a committed baseline.

A cell is the mean accuracy of one arm over its seeds, or the accuracy of a teacher. Now and then
may differ by

    t(1 - FALSE_ALARM / 2m; n_then - 1) * s * sqrt(1 / n_then + 1 / n_now) + drift

where m is the number of cells, s the standard deviation over the seeds of the baseline, at least
one test clip, and drift the allowance for another platform, a field of the baseline. The fresh
runs have no part in s: a change that makes seeds erratic would widen its own tolerance. A teacher
is one training: n = 1 on both sides, and its s is that of all arms of the baseline, pooled. The
first term is Student's bound with the degrees of freedom that s has, shared by all cells
(Bonferroni), so that an unchanged rerun on other seeds passes with a probability of at least
1 - FALSE_ALARM.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
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
    """One cell, then and now, in points; it `fails` beyond the tolerance.

    `seeds` counts those behind each side; a teacher is one training on both.
    """

    cell: str
    before: float
    after: float
    tolerance: float
    seeds: tuple[int, int] = (1, 1)

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
    """The spread of the baseline: sum of squares about each arm's mean, degrees of freedom."""

    squares: float
    degrees: int

    def bound(self, counts: tuple[int, int], family: int, *, least: float) -> float:
        """What two means over `counts` seeds may differ by; `least` is the least SD in points."""
        sd = max(math.sqrt(self.squares / self.degrees), least)
        return spread_bound(sd, self.degrees, counts, level=FALSE_ALARM, family=family)


def pooled(records: Iterable[ArmRecord]) -> Pool:
    """The spread over seeds that the arms `records` of a baseline have in common."""
    kept = tuple(records)
    squares = sum((one.seeds - 1) * one.sd**2 for one in kept)
    return Pool(squares, sum(one.seeds - 1 for one in kept))


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
    # An arm that never had so many, in a sweep that adds seeds where they are needed, lacks none.
    most = max(len(values) for _, values in fresh.values())
    for name, record in baseline.arms.items():
        if name not in fresh:
            yield f"arm {name}: missing, the sweep {baseline.sweep} no longer has it"
            continue
        setting_id, values = fresh[name]
        if setting_id != record.setting_id:
            yield f"arm {name}: another setting, {record.setting_id} before, {setting_id} now"
        if not values:
            yield f"arm {name}: missing, no complete seed"
        elif len(values) < min(most, record.seeds):
            yield f"arm {name}: {len(values)} of the {most} seeds that were run now"
    for name, (_, values) in fresh.items():
        if name not in baseline.arms and values:
            yield f"arm {name}: new, not in the baseline"
    yield from _lost_teachers(baseline, teacher_accuracies(evidence, shared_test_set(evidence)))
    known = {frozenset(pair) for pair in baseline.identical}
    for one, other in twins(evidence):
        if frozenset((one, other)) not in known:
            yield (
                f"arms {one} and {other}: dead toggle, their settings differ and their predictions "
                "do not, in any clip of any shared trial"
            )


def _lost_teachers(baseline: Baseline, now: Mapping[str, float | None]) -> Iterator[str]:
    for half in sorted(baseline.teachers.keys() | now.keys()):
        if half not in baseline.teachers:
            yield f"teacher of the {half} half: new"
        elif half not in now:
            yield f"teacher of the {half} half: missing"
        elif now[half] is None and baseline.teachers[half] is not None:
            yield f"teacher of the {half} half: missing, its run is not in the store"


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
    for name, values in shared.items():
        record, counts = baseline.arms[name], (baseline.arms[name].seeds, len(values))
        bound = pooled([record]).bound(counts, family, least=clip) + baseline.drift
        yield Moved(f"arm {name}", record.mean, mean_sd(values)[0], bound, counts)
    everything = pooled(baseline.arms.values())
    for half, (before, after) in teachers.items():
        bound = everything.bound((1, 1), family, least=clip)
        yield Moved(f"teacher of the {half} half", before, after, bound + baseline.drift)
