"""A table as Markdown. Every name is escaped; equal tables give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cmkd.report.cells import Difference
from cmkd.report.tables import Measured, Row, Table, TeacherRow
from cmkd.report.wording import (
    DASH,
    FEW_MARK,
    commits_text,
    difference_text,
    folds_text,
    interval_text,
    missing_text,
    notice_text,
    score_text,
    seeds_text,
)

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_BACKSLASHED = set("\\`*[]|$~")


def escape(text: str) -> str:
    """Text that shows as itself on one line of Markdown, inside a table cell as well."""
    one_line = " ".join(text.split())
    shown = (char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in one_line)
    return "".join(
        f"\\{char}" if char in _BACKSLASHED else _ENTITIES.get(char, char) for char in shown
    )


def render_page(table: Table, *, version: str, figure: str) -> str:
    """The whole report of one table: notice, figure (a file name), table, circumstances, notes."""
    published = table.published
    parts = [
        f"# Table 4 on {escape(table.evidence.data)}",
        escape(published.title),
        render_notice(table),
        f"![Accuracy of every arm, seeds as points]({figure})",
        render_table(table),
        "\n".join(_circumstances(table, version)),
        "## Differences at the last epoch",
        _last_table(table),
    ]
    if table.test.grouped:
        parts += ["## Accuracy per group", _group_table(table)]
    parts += ["## Arms", _arm_table(table), "## Runs", _run_table(table)]
    parts.append("## About the paper's table")
    notes = [f"Printed numbers: {published.source}.", *published.notes]
    parts.append("\n".join(f"{index}. {escape(note)}" for index, note in enumerate(notes, 1)))
    return "\n\n".join(parts) + "\n"


def render_notice(table: Table) -> str:
    """What the numbers must not be taken for."""
    headline, text = notice_text(table)
    return f"> **{escape(headline)}** {escape(text)}"


def render_table(table: Table) -> str:
    """The rows of the paper, the rows outside it, and the teacher as reference."""
    columns = " / ".join(table.published.columns)
    head = [
        "Method",
        "Spatial KD",
        "Temporal KD",
        f"Paper: {columns}",
        "Arm",
        f"{table.evidence.data}: selected epoch",
        f"{table.evidence.data}: last epoch",
        *_difference_heads(table),
    ]
    rows = [_cells(row, table) for row in table.rows]
    if table.teacher is not None:
        rows.append(_teacher_cells(table.teacher))
    return _grid(head, rows)


def _cells(row: Row, table: Table) -> list[str]:
    printed = "not in the paper"
    if row.printed is not None:
        printed = " / ".join(f"{value:.1f}" for value in row.printed.values())
    cells = [row.method, row.spatial_kd, row.temporal_kd, printed]
    if row.measured is None:
        return [*cells, DASH, f"{DASH} (no arm)", f"{DASH} (no arm)", DASH, DASH]
    one = row.measured
    return [
        *cells,
        one.arm.name,
        score_text(one.selected, table),
        score_text(one.last, table),
        *_difference_cells(one, one.to_baseline, one.to_control, table),
    ]


def _difference_heads(table: Table) -> list[str]:
    return [
        f"Δ to {name} [95 % CI]" for name in (table.published.baseline, table.published.control)
    ]


def _difference_cells(
    one: Measured, to_baseline: Difference | None, to_control: Difference | None, table: Table
) -> list[str]:
    return [
        difference_text(to_baseline, one.arm.name, table.published.baseline),
        difference_text(to_control, one.arm.name, table.published.control),
    ]


def _teacher_cells(teacher: TeacherRow) -> list[str]:
    def shown(value: float | None) -> str:
        return f"{value:.1f} (one training per fold)" if value is not None else DASH

    name = ["RGB teacher (reference)", DASH, DASH, "not in the paper", DASH]
    return [*name, shown(teacher.selected), shown(teacher.last), DASH, DASH]


def _circumstances(table: Table, version: str) -> Iterable[str]:
    evidence = table.evidence
    yield (
        f"- Data: {escape(evidence.data)} ({escape(evidence.data_kind)}, data_id "
        f"{escape(evidence.data_id)}), {len(table.test.clips)} test clips, {folds_text(table)}."
    )
    yield (
        f"- Accuracy in %, mean ± SD over seeds; selected epoch: {escape(evidence.selection)}. "
        "Differences are by seed, to the arm trained equally long; those above are of the selected "
        "epoch."
    )
    yield f"- 95 % intervals: {interval_text(table)}. {FEW_MARK}: fewer than 3 seeds."
    if table.teacher is not None:
        value = table.teacher.selected
        accuracy = f"{value:.1f} %" if value is not None else "its run is not in the store"
        yield f"- RGB teacher: {escape(', '.join(table.teacher.ids))} ({accuracy})."
    seeds = seeds_text(table)
    if seeds is not None:
        yield f"- Seeds: {seeds}."
    missing = missing_text(table)
    yield f"- Missing: {escape('. '.join(missing)) if missing else 'nothing'}."
    if evidence.unfinished:
        counts = ", ".join(f"{count} {status}" for status, count in evidence.unfinished.items())
        yield f"- Runs not counted: {counts}."
    spec, commits = escape(table.sweep.spec.name), escape(commits_text(table))
    yield f"- Sweep {spec}; {commits}; report by {version}."


def _last_table(table: Table) -> str:
    rows = []
    for one in _measured(table):
        cells = _difference_cells(one, one.last_to_baseline, one.last_to_control, table)
        rows.append([one.arm.name, score_text(one.last, table), *cells])
    return _grid(["Arm", "Last epoch", *_difference_heads(table)], rows)


def _group_table(table: Table) -> str:
    measured = _measured(table)
    rows = []
    for group in table.test.group_names:
        values = [one.by_group[group] for one in measured]
        accuracies = [f"{value:.1f}" if value is not None else DASH for value in values]
        rows.append([group, str(table.test.groups.count(group)), *accuracies])
    return _grid(["Group", "Clips", *(one.arm.name for one in measured)], rows)


def _arm_table(table: Table) -> str:
    rows = []
    for arm in (one.arm for one in _measured(table)):
        setting, method = arm.setting, arm.setting.method
        student = [str(setting.training.epochs), "yes" if method.decoder else "no"]
        weights = [f"{method.lambda_1:g}", f"{method.lambda_2:g}"]
        details = student + weights if setting.model == "student" else [DASH] * 4
        rows.append([arm.name, setting.id, setting.model, *details])
    return _grid(["Arm", "setting_id", "Model", "Epochs", "Decoder", "λ1", "λ2"], rows)


def _run_table(table: Table) -> str:
    """Which runs the numbers rest on: the start of each run id, at its seed and fold."""
    evidence = table.evidence
    rows = []
    for arm in (one.arm for one in _measured(table)):
        trials = [one for one in evidence.trials if one.setting_id == arm.setting.id]
        runs = [f"{one.seed}/{one.fold} {one.run_id[:8]}" for one in trials]
        rows.append([arm.name, ", ".join(runs) or DASH])
    teachers = [f"{fold} {one.run_id[:8]}" for fold, one in evidence.teachers.items() if one.run_id]
    if teachers:
        rows.append(["RGB teacher (by fold)", ", ".join(teachers)])
    return _grid(["Arm", "Runs (seed/fold, start of the run id)"], rows)


def _measured(table: Table) -> list[Measured]:
    return [row.measured for row in table.rows if row.measured is not None]


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[escape(cell) for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
