"""The grid of a table itself, and that of its computation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cmkd.report.arms import family_of_arm, marked_departures, standard_reference
from cmkd.report.cells import Difference, Epoch, Score
from cmkd.report.costs import CostCell
from cmkd.report.page import Cell, Grid, Line
from cmkd.report.provenance import teachers_name
from cmkd.report.tables import Measured, Row, Table, TeacherScore
from cmkd.report.text import (
    COST_SCOPE,
    DASH,
    DEPARTS_MARK,
    OUTSIDE_MARK,
    cost_text,
    difference_text,
    heading,
    partial_text,
    score_text,
    seeds_caption,
    signed,
    teacher_text,
    usual_seeds,
)


def main_grid(table: Table) -> Grid:
    """The rows of the paper beside ours, the rows outside it, and the teachers."""
    published, data = table.published, table.evidence.data
    costs = ["GFLOPs: paper", "GMACs: ours", "Δ %"] if published.has_gflops else []
    last = f"{data}: last epoch"
    columns = [
        "Method",
        *published.labels,
        *(f"Paper: {column}" for column in published.columns),
        *costs,
        *(["n"] if table.spec.is_own else ["Arm"]),
        f"{data}: selected epoch",
        last,
        *difference_heads(table),
    ]
    departing = marked_departures(table.sweep)
    lines = tuple(
        Line(tuple(_main_cells(row, table, departing)), _group(row, table)) for row in table.rows
    )
    spare = ("Arm", last) if table.spec.references or table.spec.is_own else ("Arm",)
    return Grid("main", heading(table), _main_caption(table), tuple(columns), lines, spare)


def _group(row: Row, table: Table) -> str:
    """What stands together: families, and in a table outside the paper what one block varies."""
    if table.spec.published is None and isinstance(row.measured, Measured):
        return row.measured.arm.block
    return row.family or ""


def _main_caption(table: Table) -> str:
    evidence, title = table.evidence, table.published.title
    if not evidence.trials:
        return f"{title} No finished trial on {evidence.data}."
    where = "" if evidence.data in title else f" on {evidence.data}"
    return (
        f"{title} Top-1 accuracy in %{where}, mean ± SD over {seeds_caption(table)} [95 % interval]"
        + ("; Δ: points by seed." if table.spec.references else ".")
    )


def _main_cells(
    row: Row, table: Table, departing: Mapping[str, Mapping[str, Any]]
) -> Iterator[Cell]:
    published = table.published
    outside = row.printed is None and published.columns
    marks = [OUTSIDE_MARK] if outside else []
    if row.printed is not None and isinstance(row.measured, Measured):
        marks += [DEPARTS_MARK] if departing[row.measured.arm.name] else []
    yield Cell(" ".join((row.method, *marks)))
    yield from (Cell(label) for label in row.labels)
    for column in published.columns:
        value = row.printed.get(column) if row.printed is not None else None
        absent = DASH if row.printed is None else "-"
        yield Cell(f"{value:.1f}" if value is not None else absent, "published", value)
    if published.has_gflops:
        yield from _cost_cells(row)
    measured = row.measured
    if measured is None:
        text = DASH if row.family is None else f"{DASH} (not measured)"
        yield from (Cell(DASH), Cell(text), Cell(text), *_blank(table))
    elif isinstance(measured, TeacherScore):
        yield Cell(DASH if table.spec.is_own else f"teacher {measured.backbone}")
        for score in (measured.selected, measured.last):
            where = teachers_name(measured.family) if score.mean is not None else ""
            shown = teacher_text(score)
            count = len(score.per_seed) or None
            yield Cell(
                shown, "measured", score.mean, score.sd, n=count, trials=measured.ids, arm=where
            )
        yield from _blank(table)
    else:
        yield _count_cell(measured, table) if table.spec.is_own else Cell(measured.arm.name)
        yield score_cell(measured, "selected", table)
        yield score_cell(measured, "last", table)
        yield from difference_cells(measured, "selected", table)


def _blank(table: Table) -> list[Cell]:
    return [Cell(DASH)] * len(table.spec.references)


def _cost_cells(row: Row) -> Iterator[Cell]:
    absent = DASH if row.printed is None else "-"
    printed = f"{row.gflops:g}" if row.gflops is not None else absent
    yield Cell(printed, "published", row.gflops)
    cost = row.cost
    yield Cell(cost_text(cost), "measured", cost.total) if cost else Cell(DASH)
    delta = cost.delta if cost else None
    yield Cell(signed(delta), "measured", delta) if delta is not None else Cell(DASH)


def _count_cell(one: Measured, table: Table) -> Cell:
    """How many complete seeds an arm has, and how many that lack folds."""
    done, partial = len(one.outcomes.seeds), len(one.outcomes.partial)
    of = f" of {len(table.evidence.folds)} folds"
    text = f"{done} + {partial} without all{of}" if partial else str(done)
    return Cell(text, value=done)


def score_cell(one: Measured, epoch: Epoch, table: Table) -> Cell:
    """The accuracy of an arm at `epoch`."""
    score: Score = one.selected if epoch == "selected" else one.last
    text = score_text(score, usual_seeds(table))
    if score.mean is None and one.outcomes.partial:
        text = partial_text(table, one.arm, epoch)
    return Cell(
        text,
        "measured",
        score.mean,
        score.sd,
        score.interval.low if score.interval else None,
        score.interval.high if score.interval else None,
        len(score.per_seed),
        one.outcomes.trials,
        epoch in one.level,
        one.arm.name,
    )


def difference_heads(table: Table) -> list[str]:
    """Headings of `difference_cells`."""
    return [f"Δ to {role} [95 % CI]" for role in table.spec.references]


def difference_cells(one: Measured, epoch: Epoch, table: Table) -> Iterator[Cell]:
    """The differences of an arm at `epoch` to the references of `table`."""
    for role, difference in one.differences[epoch].items():
        standard = standard_reference(table.sweep, role, family_of_arm(one.arm.setting))
        name = standard.name if standard else None
        text = difference_text(difference, one.arm.name, name, usual_seeds(table))
        yield _difference_cell(text, difference, one.arm.name)


def _difference_cell(text: str, difference: Difference | None, arm: str) -> Cell:
    if difference is None:
        return Cell(text)
    interval = difference.interval
    return Cell(
        text,
        "measured",
        difference.mean,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        n=difference.pairs,
        trials=difference.trials,
        arm=arm,
    )


def cost_grid(table: Table) -> Grid:
    """Computation per view and parameters of the rows that have a measured cost."""
    lines = [
        Line(tuple(_per_view_cells(row, row.cost)), row.family or "")
        for row in table.rows
        if row.cost is not None
    ]
    columns = (
        "Method",
        "Views",
        "Paper: GFLOPs per view",
        "Ours: GMACs per view",
        "Ours: million parameters",
        "Identifiable",
    )
    caption = (
        "Computation at 224 x 224; GFLOPs of the paper are multiply-accumulates (GMACs). "
        f"{COST_SCOPE}"
    )
    return Grid("cost", "Computation per view", caption, columns, tuple(lines))


def _per_view_cells(row: Row, cost: CostCell) -> Iterator[Cell]:
    printed = row.gflops / cost.views if row.gflops is not None else None
    yield Cell(", ".join((row.method, *row.labels[1:2])))
    yield Cell(str(cost.views), "published", cost.views)
    yield Cell(f"{printed:.1f}" if printed is not None else "-", "published", printed)
    yield Cell(f"{cost.per_view:.1f}", "measured", cost.per_view)
    yield Cell(f"{cost.parameters / 1e6:.1f}", "measured", cost.parameters)
    yield Cell("no" if cost.is_open else "yes")
