"""The regression gate: fresh results against a committed baseline (docs/regression-gate.md).

An effect is an arm minus the control of its interpretation; it is lost where less than half of it
is left. It is guarded where its size lets that rule be wrong in at most `EFFECT_LEVEL` of cases,
both ways:

    t(1 - EFFECT_LEVEL; nu) * s * sqrt(1 / n_now + 1 / (4 n_then)) <= effect / 2

Each of m arms and teachers may move by its tolerance:

    t(1 - ARM_LEVEL / 2m; nu) * s * sqrt(1 / n_then + 1 / n_now) + drift

s is the SD over the replicates of the baseline, the own or the pooled one, whichever is larger, at
least one test clip; nu belongs to the pooled one. Both sides have the same test clips, so that only
replicates vary. Fresh runs have no part in s: erratic ones would widen their own tolerance.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from cmkd.config.base import Config
from cmkd.config.yaml_loader import explain
from cmkd.errors import InputError
from cmkd.report.arms import interpretation_gap
from cmkd.report.cells import TestSet, shared_test_set
from cmkd.report.comparisons import control_differences, identical_arms, outcomes_of
from cmkd.report.evidence import Evidence
from cmkd.report.rows import score_of_teachers
from cmkd.stats import (
    LEAST_REPLICATES,
    MOST_REPLICATES,
    arm_tolerance,
    estimate,
    is_guarded,
    spreads_of,
)

SCHEMA: Literal[2] = 2
"""Of the file; raised when a field changes its meaning or goes."""


class ArmRecord(Config):
    """One arm as it was; `mean` and `sd` over complete replicates, in points."""

    setting_id: str = Field(min_length=1)
    mean: float = Field(ge=0, le=100)
    sd: float = Field(ge=0)
    replicates: int = Field(ge=LEAST_REPLICATES)


class EffectRecord(Config):
    """An arm minus its control as it was, over shared replicates, in points."""

    arm: str
    control: str
    mean: float
    sd: float = Field(ge=0, description="over replicates")
    replicates: int = Field(ge=LEAST_REPLICATES)
    error: float | None = Field(description="standard error, clips drawn at random as well")
    df: float | None = Field(description="degrees of freedom of `error`")
    guarded: bool = Field(description="large enough for its spread that a loss is seen")

    @property
    def name(self) -> str:
        """``both - control``."""
        return f"{self.arm} - {self.control}"


class Baseline(Config):
    """The file that `cmkd report baseline` writes, to be committed and reviewed."""

    schema_version: Literal[2]
    sweep: str = Field(min_length=1, description="spec that the arms come from")
    data: str
    data_id: str
    selection: str
    folds: tuple[int, ...] = Field(min_length=1)
    test_clips: int = Field(ge=1)
    replicates: int = Field(ge=LEAST_REPLICATES, description="that a check needs of each effect")
    arms: dict[str, ArmRecord] = Field(min_length=1)
    effects: tuple[EffectRecord, ...]
    teachers: dict[str, float | None] = Field(description="accuracy by family; None: not stored")
    identical: tuple[tuple[str, str], ...] = Field(
        description="arms that gave the same predictions, and are known to"
    )
    drift: float = Field(ge=0, description="points that an arm may move on another platform")
    commits: tuple[str, ...] = Field(description="of the trials")
    platform: str
    version: str = Field(description="of cmkd")


def make_baseline(
    evidence: Evidence,
    sweep: str,
    *,
    drift: float,
    platform: str,
    version: str,
    replicates: int | None = None,
) -> Baseline:
    """Baseline of `evidence` of the spec `sweep`.

    Args:
        replicates: of a later check; None: as many as the arms have now.

    Raises:
        InputError: too few replicates, or a gate that could never fail: no effect is guarded, or,
            in a sweep without a control, chance is within the tolerance of every arm.
    """
    test = shared_test_set(evidence)
    command = f"cmkd sweep {sweep} --data {evidence.data} --seeds"
    arms = {}
    for name, (setting_id, values) in measured(evidence).items():
        if values and len(values) < LEAST_REPLICATES:
            raise InputError(
                f"arm {name} has {len(values)} of the {LEAST_REPLICATES} complete replicates on "
                f"{evidence.data} that a baseline needs; run: {command} {LEAST_REPLICATES}"
            )
        if values:
            mean, sd = _mean_sd(values)
            arms[name] = ArmRecord(setting_id=setting_id, mean=mean, sd=sd, replicates=len(values))
    if not arms:
        raise InputError(f"no arm has a complete seed on {evidence.data}, so there is no baseline")
    replicates = replicates or min(arm.replicates for arm in arms.values())
    made = Baseline(
        schema_version=SCHEMA,
        sweep=sweep,
        data=evidence.data,
        data_id=evidence.data_id,
        selection=evidence.selection,
        folds=evidence.folds,
        test_clips=len(test.clips),
        replicates=replicates,
        arms=arms,
        effects=_effects(evidence, test, replicates),
        teachers=teacher_accuracies(evidence, test),
        identical=identical_arms(evidence),
        drift=drift,
        commits=evidence.commits,
        platform=platform,
        version=version,
    )
    _refuse_a_gate_that_cannot_fail(made, evidence, command)
    return made


def _effects(evidence: Evidence, test: TestSet, now: int) -> tuple[EffectRecord, ...]:
    found = {
        difference.name: (arm.name, control.name, difference.estimate)
        for arm, control, difference in control_differences(evidence, test)
        if difference is not None
        and difference.replicates >= LEAST_REPLICATES
        and not interpretation_gap(arm.setting, control.setting)
    }
    spreads = spreads_of({name: one for name, (_, _, one) in found.items()}, len(test.clips))
    return tuple(
        EffectRecord(
            arm=arm,
            control=control,
            mean=one.mean,
            sd=one.sd or 0.0,
            replicates=one.replicates,
            error=one.error,
            df=one.df,
            guarded=is_guarded(one.mean, one.replicates, now, *spreads[name]),
        )
        for name, (arm, control, one) in found.items()
    )


def _refuse_a_gate_that_cannot_fail(made: Baseline, evidence: Evidence, command: str) -> None:
    if any(effect.guarded for effect in made.effects):
        return
    if made.effects:
        best = max(made.effects, key=lambda effect: effect.mean)
        sd, df = spreads_of({effect.name: effect for effect in made.effects}, made.test_clips)[
            best.name
        ]
        more = range(made.replicates + 1, MOST_REPLICATES + 1)
        enough = next((n for n in more if is_guarded(best.mean, n, n, sd, df)), None)
        remedy = f"run: {command} {enough}" if enough else "take a setting with a larger effect"
        raise InputError(
            f"no effect can be guarded on {made.data}, so this baseline would never fail: the "
            f"largest is {best.name} = {best.mean:+.1f} points with an SD of {best.sd:.1f} over "
            f"{best.replicates} replicates; {remedy}"
        )
    spreads, chance = spreads_of(made.arms, made.test_clips), _chance(evidence)
    cells = len(made.arms) + len(made.teachers)
    if all(
        arm_tolerance(spreads[name], arm.replicates, made.replicates, cells) >= arm.mean - chance
        for name, arm in made.arms.items()
    ):
        raise InputError(
            f"every arm on {made.data} is within its tolerance of chance ({chance:.1f} %), so this "
            f"baseline would never fail; train longer, or run: {command} {2 * made.replicates}"
        )


def _chance(evidence: Evidence) -> float:
    """Accuracy of always saying the most frequent class, in percent."""
    labels: Counter[str] = Counter()
    for fold in evidence.folds:
        first = next(trial for trial in evidence.trials if trial.fold == fold)
        labels.update(first.predictions.labels)
    return 100 * max(labels.values()) / labels.total()


def render_baseline(baseline: Baseline) -> str:
    """Text of the file; equal baselines give equal bytes."""
    return json.dumps(baseline.as_json(), ensure_ascii=False, indent=1) + "\n"


def read_baseline(path: Path) -> Baseline:
    """Baseline in the file `path`; InputError if it is none."""
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
"""Arm -> its setting id, and its accuracy of each complete replicate."""


def measured(evidence: Evidence) -> Measurements:
    """Accuracies of every arm at the selected epoch, in percent."""
    found = {}
    for arm in evidence.sweep.arms:
        right = outcomes_of(evidence, arm).selected
        values = (100 * right.mean(axis=1)).tolist() if len(right) else []
        found[arm.name] = (arm.setting.id, values)
    return found


def teacher_accuracies(evidence: Evidence, test: TestSet) -> dict[str, float | None]:
    """Accuracy of the RGB teacher of each family, in percent; None where its run is not stored."""
    return {
        family: score_of_teachers(evidence, family, test, "selected").mean
        for family in sorted(evidence.teachers)
    }


@dataclass(frozen=True)
class Moved:
    """Cell before and now, in points; an effect fails by a fall alone."""

    cell: str
    before: float
    after: float
    tolerance: float
    replicates: tuple[int, int] = (1, 1)
    is_effect: bool = False

    @property
    def delta(self) -> float:
        """Now minus then."""
        return self.after - self.before

    @property
    def fails(self) -> bool:
        """True if the difference exceeds the tolerance."""
        return (-self.delta if self.is_effect else abs(self.delta)) > self.tolerance


@dataclass(frozen=True)
class Finding:
    """Result of a check; `structure` has a line per difference in arms, data or seeds."""

    structure: tuple[str, ...]
    cells: tuple[Moved, ...]

    @property
    def passes(self) -> bool:
        """True if no cell fails and the structure is the same."""
        return bool(self.cells) and not self.structure and not any(c.fails for c in self.cells)


def compare(baseline: Baseline, evidence: Evidence) -> Finding:
    """Compare fresh results with `baseline`.

    Raises:
        InputError: no guarded effect has the replicates that it needs now, or no arm has any.
    """
    test, fresh = shared_test_set(evidence), measured(evidence)
    command = f"cmkd sweep {baseline.sweep} --data {baseline.data} --seeds {baseline.replicates}"
    if not any(name in fresh and fresh[name][1] for name in baseline.arms):
        raise InputError(
            f"no arm of the baseline has a finished replicate on {evidence.data}, so there is "
            f"nothing to compare; run: {command}"
        )
    guarded = [effect for effect in baseline.effects if effect.guarded]
    effects, lacking = [], []
    now = {(a.name, c.name): difference for a, c, difference in control_differences(evidence, test)}
    for effect in guarded:
        one = now.get((effect.arm, effect.control))
        count = one.replicates if one is not None else 0
        if one is not None and count >= baseline.replicates:
            after, counts = one.estimate.mean, (effect.replicates, count)
            half = effect.mean / 2
            effects.append(Moved(f"effect {effect.name}", effect.mean, after, half, counts, True))
        else:
            needs = f"effect {effect.name}: {count} of the {baseline.replicates} replicates"
            lacking.append(f"{needs} that a check needs; run: {command}")
    if guarded and not effects:
        raise InputError(lacking[0])
    structure = (*_differences(baseline, evidence, test, fresh), *lacking)
    return Finding(structure, (*effects, *_arms(baseline, evidence, test, fresh)))


def _differences(
    baseline: Baseline, evidence: Evidence, test: TestSet, fresh: Measurements
) -> Iterator[str]:
    for what, before, after in (
        ("data_id", baseline.data_id, evidence.data_id),
        ("selection", baseline.selection, evidence.selection),
        ("folds", list(baseline.folds), list(evidence.folds)),
        ("test clips", baseline.test_clips, len(test.clips)),
    ):
        if before != after:
            yield f"{what}: {before} before, {after} now"
    # Sweeps with --until-decided have fewer seeds of some arms.
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
        elif len(values) < min(most, record.replicates):
            yield f"arm {name}: {len(values)} of the {most} seeds that were run now"
    for name, (_, values) in fresh.items():
        if name not in baseline.arms and values:
            yield f"arm {name}: new, not in the baseline"
    now = teacher_accuracies(evidence, test)
    for family in sorted(baseline.teachers.keys() | now.keys()):
        if family not in baseline.teachers:
            yield f"teacher of the {family} family: new"
        elif family not in now:
            yield f"teacher of the {family} family: missing"
        elif now[family] is None and baseline.teachers[family] is not None:
            yield f"teacher of the {family} family: missing, its run is not in the store"
    known = {frozenset(pair) for pair in baseline.identical}
    for arm, other in identical_arms(evidence):
        if frozenset((arm, other)) not in known:
            yield (
                f"arms {arm} and {other}: dead toggle, their settings differ and their predictions "
                "do not, in any clip of any shared trial"
            )


def _arms(
    baseline: Baseline, evidence: Evidence, test: TestSet, fresh: Measurements
) -> Iterator[Moved]:
    shared = {name: fresh[name][1] for name in baseline.arms if name in fresh and fresh[name][1]}
    now = teacher_accuracies(evidence, test)
    teachers = {
        family: (before, after)
        for family, before in baseline.teachers.items()
        if before is not None and (after := now.get(family)) is not None
    }
    spreads = spreads_of(baseline.arms, baseline.test_clips)
    cells = len(shared) + len(teachers)
    for name, values in shared.items():
        record = baseline.arms[name]
        counts = (record.replicates, len(values))
        tolerance = arm_tolerance(spreads[name], *counts, cells) + baseline.drift
        yield Moved(f"arm {name}", record.mean, _mean_sd(values)[0], tolerance, counts)
    widest = max(spreads.values())
    for family, (before, after) in teachers.items():
        tolerance = arm_tolerance(widest, 1, 1, cells) + baseline.drift
        yield Moved(f"teacher of the {family} family", before, after, tolerance)


def _mean_sd(values: Sequence[float]) -> tuple[float, float]:
    one = estimate(np.array(values)[:, None])
    return one.mean, one.sd or 0.0
