"""The page of a table: its grids, its circumstances and its notes put together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from cmkd.report.arms import NOT_OURS, departures, family_of_arm
from cmkd.report.evidence import distinct_teachers, trials_of
from cmkd.report.grids import cost_grid, difference_cells, difference_heads, main_grid, score_cell
from cmkd.report.page import Cell, Grid, Line, Page
from cmkd.report.paper import cited
from cmkd.report.provenance import run_url, teachers_name
from cmkd.report.tables import Table
from cmkd.report.text import (
    DASH,
    OPEN_MARK,
    absent_families,
    commits_text,
    folds_text,
    heading,
    how_to_read,
    marked_text,
    missing_text,
    notice_text,
    seeds_caption,
    seeds_text,
    uneven_text,
    unmeasured_text,
)


def last_grid(table: Table) -> Grid:
    """Accuracies and differences at the last epoch."""
    lines = [
        _line(
            [
                Cell(one.arm.name),
                score_cell(one, "last", table),
                *difference_cells(one, "last", table),
            ],
            family_of_arm(one.arm.setting),
        )
        for one in table.measured
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
    for group in table.test.group_names:
        count = table.test.groups.count(group)
        cells = [Cell(group), Cell(str(count), value=count)]
        for one in table.measured:
            value = one.by_group[group]
            shown = f"{value:.1f}" if value is not None else DASH
            cells.append(Cell(shown, "measured", value, trials=one.outcomes.trials))
        lines.append(_line(cells))
    columns = ("Group", "Clips", *(one.arm.name for one in table.measured))
    caption = (
        f"Top-1 accuracy in %, mean over seeds, on {table.evidence.data}; selected epoch: "
        f"{table.evidence.selection}."
    )
    return Grid("groups", "Accuracy per group", caption, columns, tuple(lines))


def arm_grid(table: Table) -> Grid:
    """Settings of the arms, and where each departs from the plain method or from its family."""
    lines = []
    known = departures(table.sweep)
    for arm in (one.arm for one in table.measured):
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
        lines.append(_line([Cell(text) for text in texts], family_of_arm(setting)))
    columns = ("Arm", "setting_id", "Model", "Student", "Teacher", "Epochs", "Decoder")
    caption = f"What each arm of the sweep {table.sweep.spec.name} is."
    return Grid(
        "arms", "Arms", caption, (*columns, "λ1", "λ2", "Logits KD", "Departs in"), tuple(lines)
    )


def run_grid(table: Table) -> Grid:
    """Which runs the numbers rest on: the start of each run id, at its seed and fold."""
    evidence, lines = table.evidence, []
    for one in table.measured:
        trials = trials_of(table.evidence, one.arm)
        runs = [f"{trial.seed}/{trial.fold} {trial.run_id[:8]}" for trial in trials]
        urls = [run_url(table.server, trial) for trial in trials] if table.server else []
        cell = Cell(
            ", ".join(runs) or DASH,
            trials=tuple(trial.trial_id for trial in trials),
            links=tuple(zip(runs, urls, strict=False)),
        )
        lines.append(_line([Cell(one.arm.name), cell], family_of_arm(one.arm.setting)))
    for family in evidence.teachers:
        known = [(fold, one) for fold, one in distinct_teachers(evidence, family) if one.run_id]
        runs = [f"{fold} {(one.run_id or '')[:8]}" for fold, one in known]
        urls = [run_url(table.server, one) for _, one in known] if table.server else []
        if known:
            cell = Cell(
                ", ".join(runs),
                trials=tuple(dict.fromkeys(one.teacher_id for _, one in known)),
                links=tuple(zip(runs, urls, strict=False)),
            )
            lines.append(_line([Cell(teachers_name(family)), cell], family))
    columns = ("Arm", "Runs (seed/fold, start of the run id)")
    shown = (
        f"They are shown at {table.server}."
        if table.server
        else "cmkd ui shows them, cmkd report trace lists them whole."
    )
    caption = f"Finished runs on {evidence.data}. {shown}"
    return Grid("runs", "Runs", caption, columns, tuple(lines))


def _line(cells: Sequence[Cell], group: str = "") -> Line:
    return Line(tuple(cells), group)


def build_page(table: Table, *, version: str) -> Page:
    """Put all of `table` into words; `version` names what wrote the report."""
    headline, notice = notice_text(table)
    grids = [main_grid(table)]
    if any(row.cost is not None for row in table.rows):
        grids.append(cost_grid(table))
    if table.evidence.trials:
        if table.spec.references:
            grids.append(last_grid(table))
        if table.test.grouped:
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
        circumstances=tuple(_circumstances(table, version)),
        notes=notes,
        how=how_to_read(table),
        data=table.evidence.data,
    )


def _circumstances(table: Table, version: str) -> Iterator[str]:
    evidence = table.evidence
    if not evidence.trials:
        yield f"Data: no finished trial on {evidence.data}; run: {table.command}."
    else:
        yield (
            f"Data: {evidence.data} ({evidence.data_kind}, data_id {evidence.data_id}), "
            f"{len(table.test.clips)} test clips, {folds_text(table)}."
        )
        yield from marked_text(table)
        unmeasured = unmeasured_text(table)
        if unmeasured is not None:
            yield unmeasured
        yield from _teacher_lines(table)
        yield from (f"Selected: {choice.describe()}." for choice in evidence.choices)
        for family in absent_families(table):
            command = f"{table.command}{_only(table, family)}"
            yield f"{family} family: no finished trial yet; run: {command}."
        if table.sweep.waiting:
            names = ", ".join(
                sorted({one for many in table.sweep.waiting.values() for one in many})
            )
            yield f"Rows that wait for the selection of {names}: run: {table.command}."
        seeds = seeds_text(table)
        if seeds is not None:
            yield f"Seeds: {seeds}."
        uneven = uneven_text(table)
        if uneven is not None:
            yield uneven
        missing = list(missing_text(table))
        yield f"Missing: {'. '.join(missing) if missing else 'nothing of what was begun'}."
        if evidence.unfinished:
            counts = ", ".join(f"{count} {status}" for status, count in evidence.unfinished.items())
            yield f"Runs not counted: {counts}."
    if table.published.has_gflops:
        yield from _cost_lines(table)
    made = f"{commits_text(table)}; " if evidence.trials else ""
    yield f"Sweep {table.sweep.spec.name}; {made}report by {version}."


def _only(table: Table, family: str) -> str:
    """The option that trains the arms of `family` alone, where their names allow one."""
    prefix = f"{family.lower()}_"
    own = {
        arm.name.startswith(prefix) == (family_of_arm(arm.setting) == family)
        for arm in table.sweep.arms
    }
    return f" --only '{prefix}*'" if own == {True} else ""


def _teacher_lines(table: Table) -> Iterator[str]:
    for family in sorted(table.evidence.teachers):
        teachers = [one for _, one in distinct_teachers(table.evidence, family)]
        networks = ", ".join(sorted({one.backbone for one in teachers}))
        ids = ", ".join(dict.fromkeys(one.teacher_id for one in teachers))
        known = all(one.selected is not None for one in teachers)
        lost = "" if known else "; its run is not in the store"
        yield f"RGB teacher of the {family} family: {networks} {ids}{lost}."


def _cost_lines(table: Table) -> Iterator[str]:
    if not any(row.cost is not None for row in table.rows):
        yield "GMACs of ours: not measured; run: cmkd cost."
        return
    if any(row.cost is not None and row.cost.is_open for row in table.rows):
        yield (
            f"{OPEN_MARK}: the paper does not say enough to identify what it counted; ours is one "
            "reading of several."
        )
