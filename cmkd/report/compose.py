"""Page of a table: its grids, circumstances and notes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cmkd.report.arms import (
    NOT_OURS,
    departures,
    family_of_arm,
    marked_departures,
    standard_reference,
)
from cmkd.report.evidence import distinct_teachers, trials_of
from cmkd.report.page import Cell, Grid, Line, Page
from cmkd.report.paper import CostCell, cited
from cmkd.report.provenance import run_url, teachers_name
from cmkd.report.tables import ArmResult, Difference, Epoch, Row, Score, Table
from cmkd.report.text import (
    COST_SCOPE,
    DASH,
    DEPARTS_MARK,
    OUTSIDE_MARK,
    circumstances,
    cost_text,
    difference_text,
    heading,
    how_to_read,
    notice_text,
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
    """Group of a row: its family, or its block in a table outside the paper."""
    if table.spec.published is None and row.measured is not None:
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
    if row.printed is not None and row.measured is not None:
        marks += [DEPARTS_MARK] if departing[row.measured.arm.name] else []
    yield Cell(" ".join((row.method, *marks)))
    yield from (Cell(label) for label in row.labels)
    for column in published.columns:
        value = row.printed.get(column) if row.printed is not None else None
        absent = DASH if row.printed is None else "-"
        yield Cell(f"{value:.1f}" if value is not None else absent, "published", value)
    if published.has_gflops:
        yield from _cost_cells(row)
    if row.measured is not None:
        measured = row.measured
        yield _count_cell(measured, table) if table.spec.is_own else Cell(measured.arm.name)
        yield score_cell(measured, "selected", table)
        yield score_cell(measured, "last", table)
        yield from difference_cells(measured, "selected", table)
    else:
        yield from _teacher_cells(row, table)
        yield from [Cell(DASH)] * len(table.spec.references)


def _teacher_cells(row: Row, table: Table) -> Iterator[Cell]:
    """Network and accuracies of a teacher, or what is there without any of ours."""
    teacher = row.teacher
    if teacher is None:
        text = DASH if row.family is None else f"{DASH} (not measured)"
        yield from (Cell(DASH), Cell(text), Cell(text))
        return
    yield Cell(DASH if table.spec.is_own else f"teacher {teacher.backbone}")
    for score in (teacher.selected, teacher.last):
        yield Cell(
            teacher_text(score),
            "measured",
            score.mean,
            score.sd,
            n=len(score.per_seed) or None,
            trials=teacher.ids,
            arm=teachers_name(teacher.family) if score.mean is not None else "",
        )


def _cost_cells(row: Row) -> Iterator[Cell]:
    absent = DASH if row.printed is None else "-"
    printed = f"{row.gflops:g}" if row.gflops is not None else absent
    yield Cell(printed, "published", row.gflops)
    cost = row.cost
    yield Cell(cost_text(cost), "measured", cost.total) if cost else Cell(DASH)
    delta = cost.delta if cost else None
    yield Cell(signed(delta), "measured", delta) if delta is not None else Cell(DASH)


def _count_cell(measured: ArmResult, table: Table) -> Cell:
    """Numbers of complete and incomplete seeds of an arm."""
    done, partial = len(measured.seeds), len(measured.partial)
    of = f" of {len(table.evidence.folds)} folds"
    text = f"{done} + {partial} without all{of}" if partial else str(done)
    return Cell(text, value=done)


def score_cell(measured: ArmResult, epoch: Epoch, table: Table) -> Cell:
    """The accuracy of an arm at `epoch`."""
    score: Score = measured.selected if epoch == "selected" else measured.last
    text = score_text(score, usual_seeds(table))
    if score.mean is None and measured.partial:
        text = partial_text(table, measured.arm, epoch)
    return Cell(
        text,
        "measured",
        score.mean,
        score.sd,
        score.interval.low if score.interval else None,
        score.interval.high if score.interval else None,
        len(score.per_seed),
        measured.trials,
        epoch in measured.best,
        measured.arm.name,
    )


def difference_heads(table: Table) -> list[str]:
    """Headings of `difference_cells`."""
    return [f"Δ to {role} [95 % CI]" for role in table.spec.references]


def difference_cells(measured: ArmResult, epoch: Epoch, table: Table) -> Iterator[Cell]:
    """The differences of an arm at `epoch` to the references of `table`."""
    for role, difference in measured.differences[epoch].items():
        standard = standard_reference(table.sweep, role, family_of_arm(measured.arm.setting))
        name = standard.name if standard else None
        text = difference_text(difference, measured.arm.name, name, usual_seeds(table))
        yield _difference_cell(text, difference, measured.arm.name)


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
        n=len(difference.seeds),
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


def last_grid(table: Table) -> Grid:
    """Accuracies and differences at the last epoch."""
    lines = [
        Line(
            (
                Cell(measured.arm.name),
                score_cell(measured, "last", table),
                *difference_cells(measured, "last", table),
            ),
            family_of_arm(measured.arm.setting),
        )
        for measured in table.measured
    ]
    columns = ("Arm", "Last epoch", *difference_heads(table))
    caption = (
        f"Top-1 accuracy in % on {table.evidence.data} after the last epoch, mean ± SD over "
        f"{seeds_caption(table)} [95 % interval]; nothing is selected."
    )
    return Grid("last", "Differences at the last epoch", caption, columns, tuple(lines))


def group_grid(table: Table) -> Grid:
    """Accuracy of every arm on each group of clips."""
    lines = []
    groups = np.array(table.evidence.test.groups)
    for group in table.evidence.test.group_names:
        clips = groups == group
        count = int(clips.sum())
        cells = [Cell(group), Cell(str(count), value=count)]
        for measured in table.measured:
            right = measured.right["selected"]
            value = 100 * float(right[:, clips].mean()) if measured.seeds else None
            shown = f"{value:.1f}" if value is not None else DASH
            cells.append(Cell(shown, "measured", value, trials=measured.trials))
        lines.append(Line(tuple(cells)))
    columns = ("Group", "Clips", *(measured.arm.name for measured in table.measured))
    caption = (
        f"Top-1 accuracy in %, mean over seeds, on {table.evidence.data}; selected epoch: "
        f"{table.evidence.selection}."
    )
    return Grid("groups", "Accuracy per group", caption, columns, tuple(lines))


def arm_grid(table: Table) -> Grid:
    """Settings of the arms, and where each departs from the plain method or from its family."""
    lines = []
    known = departures(table.sweep)
    for arm in (measured.arm for measured in table.measured):
        setting, method = arm.setting, arm.setting.method
        details = [
            setting.student.backbone,
            setting.teacher.backbone,
            str(setting.training.epochs),
            "yes" if method.decoder else "no",
            f"{method.lambda_1:g}",
            f"{method.lambda_2:g}",
            method.logits,
        ]
        if setting.model != "student":
            details = [NOT_OURS] * len(details)
        others = ", ".join(f"{key}={json.dumps(value)}" for key, value in known[arm.name].items())
        texts = [arm.name, setting.id, setting.model, *details, others or DASH]
        lines.append(Line(tuple(Cell(text) for text in texts), family_of_arm(setting)))
    columns = ("Arm", "setting_id", "Model", "Student", "Teacher", "Epochs", "Decoder")
    caption = f"What each arm of the sweep {table.sweep.spec.name} is."
    return Grid(
        "arms", "Arms", caption, (*columns, "λ1", "λ2", "Logits KD", "Departs in"), tuple(lines)
    )


def run_grid(table: Table) -> Grid:
    """Start of each run id by seed and fold."""
    evidence, lines = table.evidence, []
    for measured in table.measured:
        trials = trials_of(table.evidence, measured.arm)
        runs = [f"{trial.seed}/{trial.fold} {trial.run_id[:8]}" for trial in trials]
        urls = [run_url(table.server, trial) for trial in trials] if table.server else []
        cell = Cell(
            ", ".join(runs) or DASH,
            trials=tuple(trial.trial_id for trial in trials),
            links=tuple(zip(runs, urls, strict=False)),
        )
        lines.append(Line((Cell(measured.arm.name), cell), family_of_arm(measured.arm.setting)))
    for family in evidence.teachers:
        known = [
            (fold, teacher)
            for fold, teacher in distinct_teachers(evidence, family)
            if teacher.run_id
        ]
        runs = [f"{fold} {(teacher.run_id or '')[:8]}" for fold, teacher in known]
        urls = [run_url(table.server, teacher) for _, teacher in known] if table.server else []
        if known:
            cell = Cell(
                ", ".join(runs),
                trials=tuple(dict.fromkeys(teacher.teacher_id for _, teacher in known)),
                links=tuple(zip(runs, urls, strict=False)),
            )
            lines.append(Line((Cell(teachers_name(family)), cell), family))
    columns = ("Arm", "Runs (seed/fold, start of the run id)")
    shown = (
        f"They are shown at {table.server}."
        if table.server
        else "cmkd ui shows them, cmkd report trace lists them whole."
    )
    caption = f"Finished runs on {evidence.data}. {shown}"
    return Grid("runs", "Runs", caption, columns, tuple(lines))


def build_page(table: Table, *, version: str) -> Page:
    """Page of `table`; `version` names the writer of the report."""
    headline, notice = notice_text(table)
    grids = [main_grid(table)]
    if any(row.cost is not None for row in table.rows):
        grids.append(cost_grid(table))
    if table.evidence.trials:
        if table.spec.references:
            grids.append(last_grid(table))
        if table.evidence.test.sessions is not None:
            grids.append(group_grid(table))
        grids += [arm_grid(table), run_grid(table)]
    notes = table.published.notes
    if table.published.source:
        notes = (f"Printed numbers: {table.published.source}.", *notes)
    works = [f"[{number}] {work}" for number, work in cited(table.published).items()]
    if works:
        notes = (*notes, f"Works in brackets: {'; '.join(works)}.")
    return Page(
        name=table.spec.name,
        heading=heading(table),
        headline=headline,
        notice=notice,
        grids=tuple(grids),
        circumstances=tuple(circumstances(table, version)),
        notes=notes,
        how=how_to_read(table),
        data=table.evidence.data,
    )
