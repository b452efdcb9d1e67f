"""Page of a table: its grids, each with its caption."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cmkd.report.arms import (
    NOT_OURS,
    departures,
    family_of_arm,
    marked_departures,
    standard_reference,
)
from cmkd.report.evidence import Teacher, Trial, distinct_teachers, trials_of
from cmkd.report.page import Cell, Grid, Line, Page
from cmkd.report.paper import CostCell, all_works, cited
from cmkd.report.provenance import run_url, teachers_name
from cmkd.report.tables import ArmResult, Epoch, Measure, Row, Table
from cmkd.report.text import (
    COST_SCOPE,
    DASH,
    DEPARTS_MARK,
    OUTSIDE_MARK,
    circumstances,
    cost_text,
    difference_text,
    has_top5,
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


def build_page(table: Table, *, version: str) -> Page:
    """Page of `table`; `version` names the writer of the report."""
    headline, notice = notice_text(table)
    grids = [_main_grid(table)]
    if any(row.cost is not None for row in table.rows):
        grids.append(_cost_grid(table))
    if table.evidence.trials:
        if table.spec.references:
            grids.append(_last_grid(table))
        if table.evidence.test.sessions is not None:
            grids.append(_group_grid(table))
        grids += [_arm_grid(table), _run_grid(table)]
    notes = table.published.notes
    if table.published.source:
        notes = (f"Printed numbers: {table.published.source}.", *notes)
    works = cited(table.published)
    if works:
        listed = "; ".join(f"[{number}] {work}" for number, work in works.items())
        notes = (*notes, f"Works in brackets: {listed}.")
    return Page(
        name=table.spec.name,
        heading=heading(table),
        headline=headline,
        notice=notice,
        grids=tuple(grids),
        circumstances=tuple(circumstances(table, version)),
        notes=notes,
        how=tuple(how_to_read(table)),
        data=table.evidence.data,
        warnings=tuple(_warnings(table)),
        # A table of one's own may number other works.
        is_cited=bool(works) and works.items() <= all_works().items(),
    )


def _warnings(table: Table) -> Iterator[str]:
    """Reasons to doubt the numbers: groups of clips, and teachers that know little."""
    evidence = table.evidence
    if evidence.split_warning:
        yield f"{evidence.split_warning}."
    means = {measured.arm.name: measured.selected.mean for measured in table.measured}
    for row in table.rows:
        own = row.teacher.scores["selected"].mean if row.teacher is not None else None
        control = standard_reference(table.sweep, "control", row.family) if row.family else None
        reached = means.get(control.name) if control else None
        if own is not None and reached is not None and own <= reached:
            yield (
                f"The RGB teacher of the {row.family} family ({own:.1f} %) is not ahead of the "
                f"control ({reached:.1f} %): a gain of KD here need not be its knowledge. Compare "
                "with an arm of an untrained teacher (teacher.untrained), or train it from "
                "imported weights (teacher.weights), longer or on more clips: docs/tutorial.md."
            )
    by_fold = {trial.fold: trial.predictions.labels for trial in evidence.trials}
    labels = {fold: Counter(names) for fold, names in by_fold.items()}
    for family in sorted(evidence.teachers):
        weak: dict[int, list[str]] = {}
        for fold, teacher in distinct_teachers(evidence, family):
            total, most = labels[fold].total(), max(labels[fold].values())
            chance = most / total
            guessed = chance + 2 * math.sqrt(chance * (1 - chance) / total)
            if chance < 1 and teacher.selected is not None and teacher.selected <= 100 * guessed:
                weak.setdefault(fold, []).append(f"{teacher.selected:.1f} %")
        for fold, shown in weak.items():
            yield (
                f"The RGB teacher of the {family} family is near chance in fold {fold}: "
                f"{', '.join(shown)} of {labels[fold].total()} test clips."
            )


def _main_grid(table: Table) -> Grid:
    """The rows of the paper beside ours, the rows outside it, and the teachers."""
    evidence, published, data = table.evidence, table.published, table.evidence.data
    costs = ["GFLOPs: paper", "GMACs: ours", "Δ %"] if published.has_gflops else []
    measures = _measures(table)
    columns = (
        "Method",
        *published.labels,
        *(f"Paper: {column}" for column in published.columns),
        *costs,
        "n" if table.spec.is_own else "Arm",
        *measures.values(),
        *_difference_heads(table),
    )
    caption = f"{published.title} No finished trial on {data}."
    if evidence.trials:
        where = "" if data in published.title else f" on {data}"
        kinds, of = ("Top-1 and top-5", " of top-1") if "top5" in measures else ("Top-1", "")
        delta = f"; Δ: points{of} by seed" if table.spec.references else ""
        caption = (
            f"{published.title} {kinds} accuracy in %{where}, mean ± SD over "
            f"{seeds_caption(table)} [95 % interval]{delta}."
        )
    departing = marked_departures(table.sweep)
    lines = [
        Line(tuple(_main_cells(row, table, departing)), _group(row, table)) for row in table.rows
    ]
    # A table of the paper has no room for it, and a grid of its own.
    has_last = table.spec.references and not table.spec.is_own
    spare = ("Arm", measures["last"]) if has_last else ("Arm",)
    return Grid("main", heading(table), caption, columns, tuple(lines), spare)


def _measures(table: Table) -> dict[Measure, str]:
    """Headings of our accuracies."""
    data = table.evidence.data
    measures: dict[Measure, str] = {
        "selected": f"{data}: selected epoch",
        "last": f"{data}: last epoch",
    }
    return measures | ({"top5": f"{data}: top-5, selected epoch"} if has_top5(table) else {})


def _group(row: Row, table: Table) -> str:
    """Group of a row: its family, or its block in a table outside the paper."""
    if table.spec.published is None and row.measured is not None:
        return row.measured.arm.block
    return row.family or ""


def _main_cells(
    row: Row, table: Table, departing: Mapping[str, Mapping[str, Any]]
) -> Iterator[Cell]:
    published, measured, absent = table.published, row.measured, "-"
    marks = []
    if row.printed is None:
        absent = DASH
        marks += [OUTSIDE_MARK] if published.columns else []
    elif measured is not None and departing[measured.arm.name]:
        marks.append(DEPARTS_MARK)
    yield Cell(" ".join((row.method, *marks)))
    yield from (Cell(label) for label in row.labels)
    for column in published.columns:
        value = row.printed.get(column) if row.printed is not None else None
        yield Cell(f"{value:.1f}" if value is not None else absent, "published", value)
    if published.has_gflops:
        printed = f"{row.gflops:g}" if row.gflops is not None else absent
        yield Cell(printed, "published", row.gflops)
        cost, delta = row.cost, row.cost.delta if row.cost else None
        yield Cell(cost_text(cost), "measured", cost.total) if cost else Cell(DASH)
        yield Cell(signed(delta), "measured", delta) if delta is not None else Cell(DASH)
    if measured is None:
        yield from _teacher_cells(row, table)
        yield from [Cell(DASH)] * len(table.spec.references)
        return
    yield _count_cell(measured, table) if table.spec.is_own else Cell(measured.arm.name)
    yield from (_score_cell(measured, measure, table) for measure in _measures(table))
    yield from _difference_cells(measured, "selected", table)


def _teacher_cells(row: Row, table: Table) -> Iterator[Cell]:
    """Network and accuracies of a teacher, or dashes without any of ours."""
    teacher, measures = row.teacher, _measures(table)
    if teacher is None:
        text = DASH if row.family is None else f"{DASH} (not measured)"
        yield from (Cell(DASH), *[Cell(text)] * len(measures))
        return
    yield Cell(DASH if table.spec.is_own else f"teacher {teacher.backbone}")
    for score in (teacher.scores[measure] for measure in measures):
        yield Cell(
            teacher_text(score),
            "measured",
            score.mean,
            score.sd,
            n=len(score.per_seed) or None,
            trials=teacher.ids,
            arm=teachers_name(teacher.family) if score.mean is not None else "",
        )


def _count_cell(measured: ArmResult, table: Table) -> Cell:
    """Numbers of complete and incomplete seeds of an arm."""
    done, partial = len(measured.seeds), len(measured.partial)
    of = f" of {len(table.evidence.folds)} folds"
    return Cell(f"{done} + {partial} without all{of}" if partial else str(done), value=done)


def _score_cell(measured: ArmResult, measure: Measure, table: Table) -> Cell:
    score = measured.scores.get(measure)
    if score is None:
        return Cell(DASH)
    text = score_text(score, usual_seeds(table))
    if score.mean is None and measured.partial:
        text = partial_text(table, measured.arm, measure)
    return Cell(
        text,
        "measured",
        score.mean,
        score.sd,
        score.interval,
        len(score.per_seed),
        measured.trials,
        measure in measured.best,
        measured.arm.name,
    )


def _difference_heads(table: Table) -> list[str]:
    return [f"Δ to {role} [95 % CI]" for role in table.spec.references]


def _difference_cells(measured: ArmResult, epoch: Epoch, table: Table) -> Iterator[Cell]:
    """The differences of an arm at `epoch` to the references of `table`."""
    arm = measured.arm
    for role, difference in measured.differences[epoch].items():
        standard = standard_reference(table.sweep, role, family_of_arm(arm.setting))
        name = standard.name if standard else None
        text = difference_text(difference, arm.name, name, usual_seeds(table))
        if difference is None:
            yield Cell(text)
            continue
        yield Cell(
            text,
            "measured",
            difference.mean,
            interval=difference.interval,
            n=len(difference.seeds),
            trials=difference.trials,
            arm=arm.name,
        )


def _cost_grid(table: Table) -> Grid:
    """Computation per view and parameters of the rows that have a measured cost."""
    lines = [
        Line(tuple(_per_view_cells(row, row.cost)), row.family or "")
        for row in table.rows
        if row.cost is not None
    ]
    columns = (
        *("Method", "Views", "Paper: GFLOPs per view", "Ours: GMACs per view"),
        *("Ours: million parameters", "Identifiable"),
    )
    caption = "Computation at 224 x 224; GFLOPs of the paper are multiply-accumulates (GMACs)."
    return Grid("cost", "Computation per view", f"{caption} {COST_SCOPE}", columns, tuple(lines))


def _per_view_cells(row: Row, cost: CostCell) -> Iterator[Cell]:
    printed = row.gflops / cost.views if row.gflops is not None else None
    yield Cell(", ".join((row.method, *row.labels[1:2])))
    yield Cell(str(cost.views), "published", cost.views)
    yield Cell(f"{printed:.1f}" if printed is not None else "-", "published", printed)
    yield Cell(f"{cost.per_view:.1f}", "measured", cost.per_view)
    yield Cell(f"{cost.parameters / 1e6:.1f}", "measured", cost.parameters)
    yield Cell("no" if cost.is_open else "yes")


def _last_grid(table: Table) -> Grid:
    """Accuracies and differences at the last epoch."""
    lines = []
    for measured in table.measured:
        score = _score_cell(measured, "last", table)
        cells = (Cell(measured.arm.name), score, *_difference_cells(measured, "last", table))
        lines.append(Line(cells, family_of_arm(measured.arm.setting)))
    caption = (
        f"Top-1 accuracy in % on {table.evidence.data} after the last epoch, mean ± SD over "
        f"{seeds_caption(table)} [95 % interval]; nothing is selected."
    )
    columns = ("Arm", "Last epoch", *_difference_heads(table))
    return Grid("last", "Differences at the last epoch", caption, columns, tuple(lines))


def _group_grid(table: Table) -> Grid:
    """Accuracy of every arm on each group of clips."""
    test, lines = table.evidence.test, []
    for group in test.group_names:
        clips = np.array(test.groups) == group
        cells = [Cell(group), Cell(str(clips.sum()), value=int(clips.sum()))]
        for measured in table.measured:
            right = measured.right["selected"][:, clips]
            value = 100 * float(right.mean()) if measured.seeds else None
            shown = f"{value:.1f}" if value is not None else DASH
            cells.append(Cell(shown, "measured", value, trials=measured.trials))
        lines.append(Line(tuple(cells)))
    caption = (
        f"Top-1 accuracy in %, mean over seeds, on {table.evidence.data}; selected epoch: "
        f"{table.evidence.selection}."
    )
    columns = ("Group", "Clips", *(measured.arm.name for measured in table.measured))
    return Grid("groups", "Accuracy per group", caption, columns, tuple(lines))


def _arm_grid(table: Table) -> Grid:
    """Settings of the arms, and where each departs from the plain method or from its family."""
    lines, known = [], departures(table.sweep)
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
        lines.append(Line(tuple(map(Cell, texts)), family_of_arm(setting)))
    columns = (
        *("Arm", "setting_id", "Model", "Student", "Teacher", "Epochs", "Decoder"),
        *("λ1", "λ2", "Logits KD", "Departs in"),
    )
    caption = f"What each arm of the sweep {table.sweep.spec.name} is."
    return Grid("arms", "Arms", caption, columns, tuple(lines))


def _run_grid(table: Table) -> Grid:
    """Start of each run id: of arms by seed and fold, of teachers by fold."""
    evidence, lines = table.evidence, []
    for measured in table.measured:
        trials = trials_of(evidence, measured.arm)
        cell = _run_cell([(f"{trial.seed}/{trial.fold}", trial) for trial in trials], table)
        lines.append(Line((Cell(measured.arm.name), cell), family_of_arm(measured.arm.setting)))
    for family in evidence.teachers:
        known = [found for found in distinct_teachers(evidence, family) if found[1].run_id]
        if known:
            cell = _run_cell([(str(fold), teacher) for fold, teacher in known], table)
            lines.append(Line((Cell(teachers_name(family)), cell), family))
    shown = "cmkd ui shows them, cmkd report trace lists them whole."
    if table.server:
        shown = f"They are shown at {table.server}."
    columns = ("Arm", "Runs (seed/fold, start of the run id)")
    return Grid("runs", "Runs", f"Finished runs on {evidence.data}. {shown}", columns, tuple(lines))


def _run_cell(runs: Sequence[tuple[str, Trial | Teacher]], table: Table) -> Cell:
    texts = [f"{place} {(run.run_id or '')[:8]}" for place, run in runs]
    urls = [run_url(table.server, run) for _, run in runs] if table.server else []
    ids = [run.trial_id if isinstance(run, Trial) else run.teacher_id for _, run in runs]
    return Cell(
        ", ".join(texts) or DASH,
        trials=tuple(dict.fromkeys(ids)),
        links=tuple(zip(texts, urls, strict=False)),
    )
