"""Rows of a table: those of the paper with our results, and further ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cmkd.config.sweep import Arm
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
from cmkd.report.cells import (
    EPOCHS,
    ArmPredictions,
    Difference,
    Epoch,
    Score,
    TestSet,
    best_arms,
    difference,
    fold_weighted,
    group_accuracies,
    outcomes,
    score,
    shared_test_set,
)
from cmkd.report.costs import ModelCost, row_cost
from cmkd.report.evidence import Evidence, distinct_teachers
from cmkd.report.paper import PublishedRow, PublishedTable, TableSpec
from cmkd.report.tables import Measured, Row, Table, TeacherScore


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
    test = shared_test_set(evidence)
    measured = _measure_all(spec, evidence, test)
    rows = [
        Row(
            row.method,
            row.ours.family if row.ours else None,
            row.labels,
            row.printed,
            row.gflops,
            _counterpart(row, measured, evidence, test),
            row_cost(row, costs or {}),
        )
        for row in published.rows
    ]
    added, teachers = _added_rows(published, measured, evidence, test)
    shown = {one.measured.arm.name for one in rows + added if isinstance(one.measured, Measured)}
    rest = [
        _outside(published.names.get(name, name), one, published)
        for name, one in measured.items()
        if name not in shown
    ]
    ordered = [*rows, *added, *rest, *teachers]
    if all(row.family is not None for row in ordered):
        order = [*FAMILIES, *families_of(sweep)]
        ordered.sort(key=lambda row: order.index(row.family or ""))
    return Table(spec, published, evidence, test, tuple(ordered), command)


def _added_rows(
    published: PublishedTable,
    measured: Mapping[str, Measured],
    evidence: Evidence,
    test: TestSet,
) -> tuple[list[Row], list[Row]]:
    """Further students and teachers of the table."""
    students, teachers = [], []
    for row in published.added:
        found = _counterpart(row, measured, evidence, test)
        if isinstance(found, Measured):
            students.append(_outside(row.method, found, published))
        elif found is not None and row.ours is not None:
            labels = tuple(NOT_OURS for _ in published.labels)
            teachers.append(Row(row.method, row.ours.family, labels, None, None, found, None))
    return students, teachers


def _measure_all(spec: TableSpec, evidence: Evidence, test: TestSet) -> dict[str, Measured]:
    sweep = evidence.sweep
    pooled = {arm.name: outcomes(evidence, arm.setting.id) for arm in sweep.arms}
    references = {role: find_references(sweep, role) for role in spec.references}
    measured = {arm.name: _measure(arm, references, pooled, test) for arm in sweep.arms}
    for family in families_of(sweep):
        # Arms that spell one setting differently are one arm.
        arms = {a.name: a.setting.id for a in sweep.arms if family_of_arm(a.setting) == family}
        own = {setting_id: pooled[name] for name, setting_id in arms.items()}
        level = {epoch: best_arms(own, epoch) for epoch in EPOCHS}
        for name, setting_id in arms.items():
            at = frozenset(epoch for epoch in EPOCHS if setting_id in level[epoch])
            measured[name] = replace(measured[name], level=at)
    return measured


def _measure(
    arm: Arm,
    references: Mapping[str, Mapping[str, Arm]],
    pooled: Mapping[str, ArmPredictions],
    test: TestSet,
) -> Measured:
    def against(role: str, epoch: Epoch) -> Difference | None:
        other = references[role].get(arm.name)
        if other is None:
            return None
        # Arms that spell one setting differently are one arm.
        name = arm.name if other.setting == arm.setting else other.name
        found = difference(own, pooled[other.name], name, test, epoch)
        is_control = role == "control"
        gap = interpretation_gap(arm.setting, other.setting) if is_control else ()
        return replace(found, gap=gap)

    own, seedless = pooled[arm.name], arm.setting.model == "motion_svm"
    return Measured(
        arm=arm,
        outcomes=own,
        selected=score(own.selected, test, seedless=seedless),
        last=score(own.last, test, seedless=seedless),
        differences={e: {role: against(role, e) for role in references} for e in EPOCHS},
        by_group=group_accuracies(own, test) if test.grouped else {},
    )


def _counterpart(
    row: PublishedRow, measured: Mapping[str, Measured], evidence: Evidence, test: TestSet
) -> Measured | TeacherScore | None:
    wanted = row.ours
    if wanted is None or wanted.family is None:
        return None
    if not wanted.teacher:
        arm = find_arm(evidence.sweep, wanted)
        return measured[arm.name] if arm else None
    if row.printed is None:
        return _teacher(wanted.family, evidence, test)
    # A printed teacher is a network; either family may use it.
    for family in evidence.teachers:
        networks = {
            family_of(teacher.backbone) for _, teacher in distinct_teachers(evidence, family)
        }
        if networks == {wanted.family}:
            return _teacher(family, evidence, test)
    return None


def _teacher(family: Family, evidence: Evidence, test: TestSet) -> TeacherScore | None:
    teachers = [teacher for _, teacher in distinct_teachers(evidence, family)]
    if not teachers:
        return None
    return TeacherScore(
        " and ".join(sorted({teacher.backbone for teacher in teachers})),
        tuple(dict.fromkeys(teacher.teacher_id for teacher in teachers)),
        score_of_teachers(evidence, family, test, "selected"),
        score_of_teachers(evidence, family, test, "last"),
        family,
    )


def score_of_teachers(evidence: Evidence, family: Family, test: TestSet, epoch: Epoch) -> Score:
    """Accuracy of the distinct RGB teachers of `family`, clip-weighted over folds."""
    draws = {
        tuple(one.teacher_id for _, one in sorted(by_fold.items())): by_fold
        for by_fold in evidence.teachers.get(family, {}).values()
    }
    found = [
        fold_weighted(
            {
                n: teacher.selected if epoch == "selected" else teacher.last
                for n, teacher in by_fold.items()
            },
            test,
        )
        for by_fold in draws.values()
    ]
    values = tuple(value for value in found if value is not None)
    mean = float(np.mean(values)) if values else None
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Score(mean, sd, None, values)


def _outside(method: str, measured: Measured, published: PublishedTable) -> Row:
    """Row outside the paper, labelled by its setting."""
    setting = measured.arm.setting
    labels = tuple(label_of(name, setting) for name in published.labels)
    return Row(method, family_of_arm(setting), labels, None, None, measured, None)
