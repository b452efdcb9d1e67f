"""Tables as values, without formatting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cmkd.config.sweep import Arm, Sweep
from cmkd.report.arms import Family
from cmkd.report.cells import ArmPredictions, Difference, Epoch, Score, TestSet
from cmkd.report.costs import CostCell
from cmkd.report.evidence import Evidence
from cmkd.report.paper import PublishedTable, TableSpec
from cmkd.report.predictions import ClipDiagnostics
from cmkd.tracking.store import History

FEW_SEEDS = 3
"""Cells with fewer seeds are marked."""


@dataclass(frozen=True)
class Measured:
    """Results of an arm.

    Attributes:
        differences: by epoch and reference; None without a reference in the sweep.
        level: epochs at which the arm is tied with the best of its family.
    """

    arm: Arm
    outcomes: ArmPredictions
    selected: Score
    last: Score
    differences: Mapping[Epoch, Mapping[str, Difference | None]]
    by_group: Mapping[str, float | None]
    level: frozenset[Epoch] = frozenset()


@dataclass(frozen=True)
class TeacherScore:
    """The RGB teachers of a family; see `rows.score_of_teachers`."""

    backbone: str
    ids: tuple[str, ...]
    selected: Score
    last: Score
    family: Family


@dataclass(frozen=True)
class Row:
    """One row; `printed` is None outside the paper, `family` for other work."""

    method: str
    family: Family | None
    labels: tuple[str, ...]
    printed: Mapping[str, float | None] | None
    gflops: float | None
    measured: Measured | TeacherScore | None
    cost: CostCell | None


def _no_history(_metric: str) -> Mapping[str, History]:
    return {}


def _no_diagnostics(_run_id: str) -> tuple[ClipDiagnostics, ...]:
    return ()


@dataclass(frozen=True)
class Table:
    """Everything a renderer needs.

    Attributes:
        command: trains missing trials.
        read_history: values per epoch of a metric, by run id; for figures.
        read_diagnostics: gate and graphs of a run; for figures.
        server: address of the MLflow pages of the runs; None if unknown.
    """

    spec: TableSpec
    published: PublishedTable
    evidence: Evidence
    test: TestSet
    rows: tuple[Row, ...]
    command: str
    read_history: Callable[[str], Mapping[str, History]] = _no_history
    read_diagnostics: Callable[[str], tuple[ClipDiagnostics, ...]] = _no_diagnostics
    server: str | None = None

    @property
    def sweep(self) -> Sweep:
        """The sweep whose arms are the rows."""
        return self.evidence.sweep

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The arms that are rows, in the order of the rows."""
        return tuple(row.measured for row in self.rows if isinstance(row.measured, Measured))
