"""A table as values: rows of cells, still without any formatting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cmkd.config.sweep import Arm, Sweep
from cmkd.report.arms import Family
from cmkd.report.cells import Difference, Epoch, Outcomes, Score, TestSet
from cmkd.report.costs import CostCell
from cmkd.report.evidence import Evidence
from cmkd.report.paper import PublishedTable, TableSpec
from cmkd.report.predictions import ClipDiagnostics
from cmkd.tracking.store import History

FEW_SEEDS = 3
"""Below this many seeds a spread says little, and the cell is marked."""


@dataclass(frozen=True)
class Measured:
    """What an arm gave; a difference is None where the sweep has no arm to compare with.

    `differences` maps an epoch to the table's references and the difference to each. `level` holds
    the epochs at which the arm is not established to lie below the best of its family.
    """

    arm: Arm
    outcomes: Outcomes
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
    """One row; `printed` is None outside the paper, `measured` where nothing of ours repeats it.

    `family` is None for rows of others.
    """

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
    """Everything a renderer needs; `command` is what fills the gaps.

    `read_history` gives what was logged after every epoch as one metric, by run id, and
    `read_diagnostics` gate and graphs of the student of a run. They are called for figures alone,
    since they are most of what a store holds. `server` is the address of the MLflow pages that
    show the runs, None where none is known.
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
