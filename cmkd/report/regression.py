"""The regression gate: by how much fresh results may differ from a committed baseline.

A cell is the mean accuracy of one arm over its seeds, or the accuracy of a teacher. Now and then
may differ by

    t(1 - FALSE_ALARM / 2m; nu) * s * sqrt(1 / n_then + 1 / n_now) + drift

where m is the number of cells, s the standard deviation over the seeds of the baseline, at least
one test clip, with nu degrees of freedom, and drift the allowance for another platform, a field of
the baseline. An arm has its own s, raised where the other arms of the baseline have it that it is
small by chance, which adds to its degrees of freedom (`statistics.moderated`). The fresh runs have
no part in s: a change that makes seeds erratic would widen its own tolerance. A teacher is one
training: n = 1 on both sides, and its s is that of all arms of the baseline, pooled. The first term
is Student's bound, shared by all cells (Bonferroni), so that an unchanged rerun on other seeds
passes with a probability of about 1 - FALSE_ALARM.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from cmkd.config.base import Config
from cmkd.config.yaml_loader import explain
from cmkd.errors import InputError
from cmkd.report.cells import TestSet, outcomes, shared_test_set
from cmkd.report.evidence import Evidence
from cmkd.report.identical_arms import twins
from cmkd.report.rows import score_of_teachers
from cmkd.stats import Spread, mean_sd, moderated, spread_bound

SCHEMA: Literal[1] = 1
"""Of the file; raised when a field changes its meaning or goes."""

LEAST_SEEDS = 2
"""Of each arm of a baseline; one has no spread to derive a tolerance from."""


class ArmRecord(Config):
    """One arm as it was; `mean` and `sd` over `seeds` complete seeds, in points."""

    setting_id: str = Field(min_length=1)
    mean: float = Field(ge=0, le=100)
    sd: float = Field(ge=0)
    seeds: int = Field(ge=LEAST_SEEDS)


class Baseline(Config):
    """The file that `cmkd report baseline` writes, to be committed and reviewed."""

    schema_version: Literal[1]
    sweep: str = Field(min_length=1, description="spec that the arms come from")
    data: str
    data_id: str
    selection: str
    folds: tuple[int, ...] = Field(min_length=1)
    test_clips: int = Field(ge=1)
    arms: dict[str, ArmRecord] = Field(min_length=1)
    teachers: dict[str, float | None] = Field(description="accuracy by half; None: run not stored")
    identical: tuple[tuple[str, str], ...] = Field(
        description="arms that gave the same predictions, and are known to"
    )
    drift: float = Field(ge=0, description="points allowed for another platform")
    commits: tuple[str, ...] = Field(description="of the trials")
    platform: str
    version: str = Field(description="of cmkd")


def make_baseline(
    evidence: Evidence, sweep: str, *, drift: float, platform: str, version: str
) -> Baseline:
    """What `evidence` of the spec called `sweep` is, to be compared with later.

    Raises:
        InputError: no arm has a complete seed, or one has some, but fewer than `LEAST_SEEDS`.
    """
    test = shared_test_set(evidence)
    arms = {}
    for name, (setting_id, values) in measured(evidence).items():
        if not values:
            continue
        if len(values) < LEAST_SEEDS:
            raise InputError(
                f"arm {name} has one complete seed on {evidence.data}; a baseline needs "
                f"{LEAST_SEEDS} to know their spread; run: cmkd sweep {sweep} "
                f"--data {evidence.data} --seeds {max(LEAST_SEEDS, len(evidence.seeds))}"
            )
        mean, sd = mean_sd(values)
        arms[name] = ArmRecord(setting_id=setting_id, mean=mean, sd=sd or 0.0, seeds=len(values))
    if not arms:
        raise InputError(f"no arm has a complete seed on {evidence.data}, so there is no baseline")
    return Baseline(
        schema_version=SCHEMA,
        sweep=sweep,
        data=evidence.data,
        data_id=evidence.data_id,
        selection=evidence.selection,
        folds=evidence.folds,
        test_clips=len(test.clips),
        arms=arms,
        teachers=teacher_accuracies(evidence, test),
        identical=twins(evidence),
        drift=drift,
        commits=evidence.commits,
        platform=platform,
        version=version,
    )


def render_baseline(baseline: Baseline) -> str:
    """The file's text; equal baselines give equal bytes."""
    return json.dumps(baseline.as_json(), ensure_ascii=False, indent=1) + "\n"


def read_baseline(path: Path) -> Baseline:
    """The baseline in the file `path`.

    Raises:
        InputError: it is not there, or is no such file; the message has the remedy.
    """
    remedy = f"write it with: cmkd report baseline --out {path}"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no baseline can be read ({error.strerror}); {remedy}") from None
    try:
        return Baseline.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: no baseline: {explain(error, Baseline)[1]}; {remedy}") from None


Measurements = Mapping[str, tuple[str, Sequence[float]]]
"""Arm -> its setting id, and its accuracy of each complete seed."""


def measured(evidence: Evidence) -> Measurements:
    """What every arm of `evidence` reaches at the selected epoch, in percent."""
    found = {}
    for arm in evidence.sweep.arms:
        right = outcomes(evidence, arm.setting.id).selected
        found[arm.name] = (
            arm.setting.id,
            (100 * right.mean(axis=1)).tolist() if len(right) else [],
        )
    return found


def teacher_accuracies(evidence: Evidence, test: TestSet) -> dict[str, float | None]:
    """Accuracy of the RGB teacher of each half, in percent; None where its run is not stored."""
    return {
        half: score_of_teachers(evidence, half, test, "selected").mean
        for half in sorted(evidence.teachers)
    }


FALSE_ALARM = 0.01
"""Probability that an unchanged rerun on other seeds fails."""


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


def spreads(records: Mapping[str, ArmRecord], least: float) -> Mapping[str, Spread]:
    """The spread over seeds of each arm of a baseline, steadied by those of the others.

    Args:
        least: the least SD, in points.
    """
    own = [Spread(max(one.sd, least), one.seeds - 1) for one in records.values()]
    return dict(zip(records, moderated(own), strict=True))


def common_spread(records: Iterable[ArmRecord], least: float) -> Spread:
    """The spread over seeds that the arms of a baseline have in common, at least `least`."""
    kept = tuple(records)
    degrees = sum(one.seeds - 1 for one in kept)
    squares = sum((one.seeds - 1) * one.sd**2 for one in kept)
    return Spread(max(math.sqrt(squares / degrees), least), degrees)


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
    clip = 100 / baseline.test_clips
    bound = partial(spread_bound, level=FALSE_ALARM, family=len(shared) + len(teachers))
    of_arms = spreads(baseline.arms, clip)
    for name, values in shared.items():
        record, counts = baseline.arms[name], (baseline.arms[name].seeds, len(values))
        tolerance = bound(of_arms[name], counts) + baseline.drift
        yield Moved(f"arm {name}", record.mean, mean_sd(values)[0], tolerance, counts)
    common = common_spread(baseline.arms.values(), clip)
    for half, (before, after) in teachers.items():
        tolerance = bound(common, (1, 1)) + baseline.drift
        yield Moved(f"teacher of the {half} half", before, after, tolerance)
