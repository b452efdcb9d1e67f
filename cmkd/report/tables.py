"""Table 4 as values: rows of cells computed from the store, still without any formatting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cmkd.config.sweep import Arm, Sweep
from cmkd.config.trial import Setting
from cmkd.errors import ConfigError
from cmkd.report.cells import (
    Difference,
    Epoch,
    Outcomes,
    Score,
    TestSet,
    difference,
    fold_weighted,
    group_accuracies,
    outcomes,
    score,
    shared_test_set,
)
from cmkd.report.evidence import Evidence
from cmkd.report.published import PublishedRow, PublishedTable

FEW_SEEDS = 3
"""Below this many seeds a spread says little, and the cell is marked."""


@dataclass(frozen=True)
class Measured:
    """What an arm gave. A difference is None where the sweep has no arm to compare with.

    Differences are of the selected epoch unless their names say `last`.
    """

    arm: Arm
    outcomes: Outcomes
    selected: Score
    last: Score
    to_baseline: Difference | None
    to_control: Difference | None
    last_to_baseline: Difference | None
    last_to_control: Difference | None
    by_group: Mapping[str, float | None]


@dataclass(frozen=True)
class Row:
    """One row; `printed` is None outside the paper, `measured` where no arm repeats the row."""

    method: str
    spatial_kd: str
    temporal_kd: str
    printed: Mapping[str, float] | None
    measured: Measured | None


@dataclass(frozen=True)
class TeacherRow:
    """The RGB teacher, clip-weighted over folds; None where a fold's teacher run is missing."""

    ids: tuple[str, ...]
    selected: float | None
    last: float | None


@dataclass(frozen=True)
class Table:
    """Everything a renderer needs."""

    published: PublishedTable
    sweep: Sweep
    evidence: Evidence
    test: TestSet
    rows: tuple[Row, ...]
    teacher: TeacherRow | None


def build_table(published: PublishedTable, sweep: Sweep, evidence: Evidence) -> Table:
    """The rows of the paper in its order, then the arms of `sweep` that are not in the paper.

    Raises:
        ConfigError: the sweep has none of the paper's arms, or gives one of their names to a
            setting that is not what the paper's row says.
    """
    test = shared_test_set(evidence)
    pooled = {arm.name: outcomes(evidence, arm.setting.id) for arm in sweep.arms}
    measured = {arm.name: _measure(arm, published, sweep, pooled, test) for arm in sweep.arms}
    paper = {row.arm for row in published.rows if row.arm is not None}
    if not paper & measured.keys():
        raise ConfigError(
            f"{sweep.path}: none of its arms is in the table; it needs {', '.join(sorted(paper))}"
        )
    rows = [
        _paper_row(row, measured.get(row.arm) if row.arm else None, sweep) for row in published.rows
    ]
    extra = [arm for arm in sweep.arms if arm.name not in paper]
    extra.sort(key=lambda arm: arm.name != published.control)
    rows += [_extra_row(arm, published, measured[arm.name]) for arm in extra]
    return Table(published, sweep, evidence, test, tuple(rows), _teacher(evidence, test))


def _measure(
    arm: Arm,
    published: PublishedTable,
    sweep: Sweep,
    pooled: Mapping[str, Outcomes],
    test: TestSet,
) -> Measured:
    def against(reference: str, epoch: Epoch) -> Difference | None:
        other = _same_schedule(sweep, reference, arm.setting)
        return difference(own, pooled[other.name], other.name, test, epoch) if other else None

    own, seedless = pooled[arm.name], arm.setting.model == "motion_svm"
    return Measured(
        arm=arm,
        outcomes=own,
        selected=score(own.selected, test, seedless=seedless),
        last=score(own.last, test, seedless=seedless),
        to_baseline=against(published.baseline, "selected"),
        to_control=against(published.control, "selected"),
        last_to_baseline=against(published.baseline, "last"),
        last_to_control=against(published.control, "last"),
        by_group=group_accuracies(own, test) if test.grouped else {},
    )


def _same_schedule(sweep: Sweep, reference: str, setting: Setting) -> Arm | None:
    """The arm that is `reference` trained as long as `setting`: a longer schedule is no gain."""
    for arm in sweep.arms:
        if arm.name == reference:
            wanted = arm.setting.model_copy(update={"training": setting.training})
            return next((one for one in sweep.arms if one.setting == wanted), None)
    return None


def _paper_row(row: PublishedRow, measured: Measured | None, sweep: Sweep) -> Row:
    if measured is not None:
        _check_counterpart(row, measured.arm, sweep)
    return Row(row.method, row.spatial_kd, row.temporal_kd, row.printed, measured)


def _check_counterpart(row: PublishedRow, arm: Arm, sweep: Sweep) -> None:
    method = arm.setting.method
    distils = "Yes" in (row.spatial_kd, row.temporal_kd)
    fits = (
        arm.setting.model == "student"
        and (_yes(method.lambda_1), _yes(method.lambda_2)) == (row.spatial_kd, row.temporal_kd)
        and method.decoder == distils
        and method.logits == "off"
    )
    if not fits:
        raise ConfigError(
            f"{sweep.path}: arm {arm.name!r} (decoder {method.decoder}, lambda_1 "
            f"{method.lambda_1}, lambda_2 {method.lambda_2}, logits {method.logits}) is not the "
            f"row {row.method!r} with spatial KD {row.spatial_kd} and temporal KD "
            f"{row.temporal_kd}; rename the arm or correct it"
        )


def _extra_row(arm: Arm, published: PublishedTable, measured: Measured) -> Row:
    method = arm.setting.method
    student = arm.setting.model == "student"
    spatial, temporal = (
        _yes(weight) if student else "n/a" for weight in (method.lambda_1, method.lambda_2)
    )
    return Row(published.names.get(arm.name, arm.name), spatial, temporal, None, measured)


def _yes(weight: float) -> str:
    return "Yes" if weight > 0 else "No"


def _teacher(evidence: Evidence, test: TestSet) -> TeacherRow | None:
    if not evidence.teachers:
        return None
    teachers = evidence.teachers
    return TeacherRow(
        tuple(dict.fromkeys(teacher.teacher_id for teacher in teachers.values())),
        fold_weighted({fold: teacher.selected for fold, teacher in teachers.items()}, test),
        fold_weighted({fold: teacher.last for fold, teacher in teachers.items()}, test),
    )
