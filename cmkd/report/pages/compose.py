"""The page of a table: its grids, its circumstances and its notes put together."""

from __future__ import annotations

from collections.abc import Iterator

from cmkd.report.pages.details import arm_grid, group_grid, last_grid, run_grid
from cmkd.report.pages.grids import cost_grid, main_grid
from cmkd.report.pages.page import Page
from cmkd.report.paper.arms import half_of
from cmkd.report.paper.published import cited
from cmkd.report.values.tables import Table
from cmkd.report.values.wording import (
    COST_SCOPE,
    FEW_MARK,
    OPEN_MARK,
    OUTSIDE_MARK,
    absent_halves,
    commits_text,
    folds_text,
    heading,
    interval_text,
    missing_text,
    notice_text,
    seeds_text,
    uneven_text,
    unmeasured_text,
)


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
        yield f"95 % intervals: {interval_text(table)}. {FEW_MARK}: fewer than 3 seeds."
        if table.published.columns and any(row.printed is None for row in table.rows):
            yield f"{OUTSIDE_MARK}: not in the paper."
        unmeasured = unmeasured_text(table)
        if unmeasured is not None:
            yield unmeasured
        yield from _teacher_lines(table)
        yield from (f"Selected: {choice.describe()}." for choice in evidence.choices)
        for half in absent_halves(table):
            yield f"{half} half: no finished trial yet; run: {table.command}{_only(table, half)}."
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


def _only(table: Table, half: str) -> str:
    """The option that trains the arms of `half` alone, where their names allow one."""
    prefix = f"{half.lower()}_"
    own = {
        arm.name.startswith(prefix) == (half_of(arm.setting) == half) for arm in table.sweep.arms
    }
    return f" --only '{prefix}*'" if own == {True} else ""


def _teacher_lines(table: Table) -> Iterator[str]:
    for half, by_fold in sorted(table.evidence.teachers.items()):
        networks = ", ".join(sorted({one.backbone for one in by_fold.values()}))
        ids = ", ".join(dict.fromkeys(one.teacher_id for one in by_fold.values()))
        known = all(one.selected is not None for one in by_fold.values())
        lost = "" if known else "; its run is not in the store"
        yield f"RGB teacher of the {half} half: {networks} {ids}{lost}."


def _cost_lines(table: Table) -> Iterator[str]:
    if not any(row.cost is not None for row in table.rows):
        yield "GMACs of ours: not measured; run: cmkd cost."
        return
    yield COST_SCOPE
    if any(row.cost is not None and row.cost.is_open for row in table.rows):
        yield (
            f"{OPEN_MARK}: the paper does not say enough to identify what it counted; ours is one "
            "reading of several."
        )
