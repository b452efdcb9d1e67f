"""Tables: results of the arms of a sweep, and the rows that they fill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from cmkd.config.sweep import Arm, Sweep
from cmkd.errors import ConfigError
from cmkd.report.arms import (
    FAMILIES,
    NOT_OURS,
    Family,
    families_of,
    family_of,
    family_of_arm,
    find_arm,
    find_references,
    interpretation_gap,
    label_of,
)
from cmkd.report.evidence import Evidence, distinct_teachers, trials_of
from cmkd.report.paper import CostCell, ModelCost, PublishedRow, PublishedTable, TableSpec, row_cost
from cmkd.report.predictions import EvaluatedClips
from cmkd.stats import LEAST_REPLICATES, Estimate, Interval, estimate, tied_with_best
from cmkd.tracking.reader import RunReader

Epoch = Literal["selected", "last"]
EPOCHS: tuple[Epoch, ...] = ("selected", "last")
Measure = Literal["selected", "last", "top5"]
"""Top-1 accuracy at an epoch, or top-5 accuracy at the selected one."""


@dataclass(frozen=True)
class Score:
    """Accuracy in [0, 100]: mean, SD over seeds, 95 % interval, one value per complete seed.

    `mean` is None for no seed, `sd` for one. `deterministic`: the method draws nothing, so that
    equal values are no measured spread.
    """

    mean: float | None = None
    sd: float | None = None
    interval: Interval | None = None
    per_seed: tuple[float, ...] = ()
    deterministic: bool = False


@dataclass(frozen=True)
class ArmResult:
    """Test results of an arm: Bool "S N", complete seeds x clips of `test`.

    Attributes:
        right: correct predictions by measure; without top-5 where a trial has no ranks.
        partial: by incomplete seed, the folds that it lacks.
        trials: ids of the trials of the complete seeds, seed by seed.
        differences: by epoch and reference; None without a reference in the sweep.
        best: epochs at which the arm is tied with the best of its family.
    """

    arm: Arm
    test: EvaluatedClips
    seeds: tuple[int, ...]
    right: Mapping[Measure, np.ndarray]
    partial: Mapping[int, tuple[int, ...]]
    trials: tuple[str, ...]
    differences: Mapping[Epoch, Mapping[str, Difference | None]] = field(default_factory=dict)
    best: frozenset[Epoch] = frozenset()

    @cached_property
    def scores(self) -> Mapping[Measure, Score]:
        """Accuracies."""
        return {measure: self._score(right) for measure, right in self.right.items()}

    @property
    def selected(self) -> Score:
        """Accuracy at the selected epoch."""
        return self.scores["selected"]

    def _score(self, right: np.ndarray) -> Score:
        """Score of all clips of all folds.

        A method that draws nothing, and indeed got the same clips right with two or more seeds,
        has no SD, and an interval over groups alone.
        """
        if not len(right):
            return Score()
        is_same = len(right) > 1 and bool((right == right[0]).all())
        is_fixed = is_same and self.arm.setting.model != "student"
        found = estimate(100.0 * right, self.test.sessions, deterministic=is_fixed)
        interval = found.interval()
        inside = interval and Interval(max(0.0, interval.low), min(100.0, interval.high))
        per_seed = tuple(float(value) for value in 100 * right.mean(axis=1))
        return Score(found.mean, found.sd, inside, per_seed, is_fixed)

    def rows(self, seeds: Iterable[int]) -> list[int]:
        """Rows of `right` that hold `seeds`."""
        return list(map({seed: row for row, seed in enumerate(self.seeds)}.__getitem__, seeds))

    def of_clips(self, clips: np.ndarray) -> ArmResult:
        """Results on some clips alone; `clips` is Bool "N"."""
        right = {epoch: values[:, clips] for epoch, values in self.right.items()}
        return replace(self, test=self.test.only(clips), right=right)


@dataclass(frozen=True)
class Difference:
    """Weighted sum of the accuracies of arms in points, over their shared seeds.

    Attributes:
        parts: weight and arm; (1, arm), (-1, reference) for a plain difference.
        identical: the arms gave the same predictions, although their settings differ.
        gap: keys of another interpretation that a control has.
    """

    name: str
    parts: tuple[tuple[float, ArmResult], ...]
    epoch: Epoch = "selected"
    identical: bool = False
    gap: tuple[str, ...] = ()

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that all arms have."""
        return tuple(sorted(set.intersection(*(set(arm.seeds) for _, arm in self.parts))))

    @property
    def values(self) -> np.ndarray:
        """Float "R N": points per shared seed and clip."""
        values = np.zeros((len(self.seeds), len(self.parts[0][1].test.clips)))
        for weight, arm in self.parts:
            values += 100.0 * weight * arm.right[self.epoch][arm.rows(self.seeds)]
        return values

    @cached_property
    def per_seed(self) -> tuple[float, ...]:
        """Mean of each shared seed."""
        return tuple(self.values.mean(axis=1).tolist())

    @cached_property
    def estimate(self) -> Estimate | None:
        """Mean and uncertainty; None without a shared seed."""
        return self.at(len(self.seeds)) if self.seeds else None

    def at(self, look: int) -> Estimate:
        """The estimate from the first `look` shared seeds."""
        return estimate(self.values[:look], self.parts[0][1].test.sessions)

    @property
    def mean(self) -> float | None:
        """Mean; None without a shared seed."""
        return self.estimate.mean if self.estimate else None

    @cached_property
    def interval(self) -> Interval | None:
        """95 % interval; None where nothing is known."""
        return self.estimate.interval() if self.estimate else None

    @property
    def reference(self) -> str:
        """Name of the last arm."""
        return self.parts[-1][1].arm.name

    @cached_property
    def trials(self) -> tuple[str, ...]:
        """Ids of the trials of the shared seeds, arm by arm."""
        found: list[str] = []
        for _, arm in self.parts:
            folds = len(arm.trials) // max(1, len(arm.seeds))
            for row in arm.rows(self.seeds):
                found += arm.trials[row * folds : (row + 1) * folds]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class TeacherScore:
    """The RGB teachers of a family; see `score_of_teachers`."""

    backbone: str
    ids: tuple[str, ...]
    scores: Mapping[Measure, Score]
    family: Family


@dataclass(frozen=True)
class Row:
    """One row of a table, with an arm, a teacher or neither of ours.

    `printed` is None outside the paper, `family` for other work.
    """

    method: str
    family: Family | None
    labels: tuple[str, ...]
    printed: Mapping[str, float | None] | None = None
    gflops: float | None = None
    cost: CostCell | None = None
    measured: ArmResult | None = None
    teacher: TeacherScore | None = None


@dataclass(frozen=True)
class Table:
    """Everything a renderer needs.

    Attributes:
        command: trains missing trials.
        store: of the runs; figures read metrics and artifacts from it.
        server: address of the MLflow pages of the runs; None if unknown.
    """

    spec: TableSpec
    published: PublishedTable
    evidence: Evidence
    rows: tuple[Row, ...]
    command: str
    store: RunReader | None = None
    server: str | None = None

    @property
    def sweep(self) -> Sweep:
        """The sweep whose arms are the rows."""
        return self.evidence.sweep

    @property
    def measured(self) -> tuple[ArmResult, ...]:
        """The arms that are rows, in their order."""
        return tuple(row.measured for row in self.rows if row.measured is not None)


def arm_result(evidence: Evidence, arm: Arm) -> ArmResult:
    """Pool the folds of every seed of an arm."""
    own = trials_of(evidence, arm)
    by_place = {(trial.seed, trial.fold): trial for trial in own}
    lacking = {
        seed: tuple(fold for fold in evidence.folds if (seed, fold) not in by_place)
        for seed in dict.fromkeys(trial.seed for trial in own)
    }
    seeds = tuple(seed for seed, folds in lacking.items() if not folds)
    kept = [by_place[seed, fold] for seed in seeds for fold in evidence.folds]
    is_ranked = own and all(trial.predictions.top5 is not None for trial in own)
    measures: tuple[Measure, ...] = (*EPOCHS, "top5") if is_ranked else EPOCHS

    def pooled(measure: Measure) -> np.ndarray:
        parts = [getattr(trial.predictions, measure) for trial in kept]
        flat = np.concatenate([np.zeros(0, bool), *parts])
        return flat.reshape(len(seeds), len(evidence.test.clips))

    return ArmResult(
        arm=arm,
        test=evidence.test,
        seeds=seeds,
        right={measure: pooled(measure) for measure in measures},
        partial={seed: folds for seed, folds in lacking.items() if folds},
        trials=tuple(trial.trial_id for trial in kept),
    )


def arm_results(evidence: Evidence, roles: Sequence[str] = ()) -> dict[str, ArmResult]:
    """Every arm of the sweep by name, with its differences to the references of `roles`."""
    sweep = evidence.sweep
    pooled = {arm.name: arm_result(evidence, arm) for arm in sweep.arms}
    references = {role: find_references(sweep, role) for role in roles}

    def difference(own: ArmResult, role: str, epoch: Epoch) -> Difference | None:
        reference = references[role].get(own.arm.name)
        if reference is None:
            return None
        # Arms that spell one setting differently are one arm.
        other = own if reference.setting == own.arm.setting else pooled[reference.name]
        gap = interpretation_gap(own.arm.setting, reference.setting) if role == "control" else ()
        return Difference(role, ((1.0, own), (-1.0, other)), epoch, gap=gap)

    best = {
        (epoch, setting_id)
        for family in families_of(sweep)
        for epoch in EPOCHS
        for setting_id in _best_settings(pooled.values(), family, epoch)
    }
    return {
        name: replace(
            own,
            differences={
                epoch: {role: difference(own, role, epoch) for role in roles} for epoch in EPOCHS
            },
            best=frozenset(epoch for epoch in EPOCHS if (epoch, own.arm.setting.id) in best),
        )
        for name, own in pooled.items()
    }


def _best_settings(results: Iterable[ArmResult], family: Family, epoch: Epoch) -> frozenset[str]:
    """Settings of `family` tied with the best at `epoch`, from 3 seeds on."""
    return tied_with_best(
        {
            own.arm.setting.id: 100 * float(own.right[epoch].mean())
            for own in results
            if family_of_arm(own.arm.setting) == family and len(own.seeds) >= LEAST_REPLICATES
        }
    )


def build_table(
    spec: TableSpec,
    evidence: Evidence,
    costs: Mapping[str, ModelCost] | None = None,
    *,
    command: str = "",
) -> Table:
    """Rows of the paper in its order, then further arms; by family if all rows are ours.

    Raises:
        ConfigError: no arm of the sweep is a row of the paper.
    """
    published, sweep = spec.load(), evidence.sweep
    wanted = [row.ours for row in published.rows if row.ours is not None and not row.ours.teacher]
    if wanted and not any(find_arm(sweep, query) for query in wanted):
        raise ConfigError(
            f"{sweep.path}: none of its arms is a row of table {spec.name}; "
            f"the sweep {spec.sweep!r} has them"
        )
    results = arm_results(evidence, spec.references)

    def found(row: PublishedRow) -> ArmResult | None:
        arm = find_arm(sweep, row.ours) if row.ours is not None and row.ours.family else None
        return results[arm.name] if arm is not None else None

    def outside(method: str, own: ArmResult) -> Row:
        """Row outside the paper, labelled by its setting."""
        labels = tuple(label_of(name, own.arm.setting) for name in published.labels)
        return Row(method, family_of_arm(own.arm.setting), labels, measured=own)

    rows = [
        Row(
            row.method,
            row.ours.family if row.ours else None,
            row.labels,
            row.printed,
            row.gflops,
            row_cost(row, costs or {}),
            found(row),
            _teacher_of(row, evidence),
        )
        for row in published.rows
    ]
    rows += [outside(row.method, own) for row in published.added if (own := found(row))]
    shown = {row.measured.arm.name for row in rows if row.measured is not None}
    rows += [
        outside(published.names.get(name, name), own)
        for name, own in results.items()
        if name not in shown
    ]
    rows += [
        Row(row.method, teacher.family, (NOT_OURS,) * len(published.labels), teacher=teacher)
        for row in published.added
        if (teacher := _teacher_of(row, evidence)) is not None
    ]
    if all(row.family is not None for row in rows):
        order = [*FAMILIES, *families_of(sweep)]
        rows.sort(key=lambda row: order.index(row.family or ""))
    return Table(spec, published, evidence, tuple(rows), command)


def _teacher_of(row: PublishedRow, evidence: Evidence) -> TeacherScore | None:
    """RGB teacher that `row` asks for; a printed one is a network that either family may use."""
    wanted = row.ours
    if wanted is None or not wanted.teacher:
        return None
    for family in evidence.teachers:
        teachers = [teacher for _, teacher in distinct_teachers(evidence, family)]
        networks = {family_of(teacher.backbone) for teacher in teachers}
        if (networks if row.printed is not None else {family}) == {wanted.family}:
            return TeacherScore(
                " and ".join(sorted({teacher.backbone for teacher in teachers})),
                tuple(dict.fromkeys(teacher.teacher_id for teacher in teachers)),
                {one: score_of_teachers(evidence, family, one) for one in get_args(Measure)},
                family,
            )
    return None


def score_of_teachers(evidence: Evidence, family: Family, measure: Measure) -> Score:
    """Accuracy of the distinct RGB teachers of `family`, clip-weighted over folds."""
    draws = {
        tuple(teacher.teacher_id for _, teacher in sorted(by_fold.items())): by_fold
        for by_fold in evidence.teachers.get(family, {}).values()
    }
    values = []
    for by_fold in draws.values():
        known = {fold: getattr(teacher, measure) for fold, teacher in by_fold.items()}
        if all(known.get(fold) is not None for fold in evidence.folds):
            by_clip = [known[fold] for fold in evidence.test.folds]
            values.append(sum(by_clip) / len(by_clip))
    mean = float(np.mean(values)) if values else None
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Score(mean, sd, None, tuple(values))
