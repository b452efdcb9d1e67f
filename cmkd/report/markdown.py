"""A table as Markdown. Every name is escaped; equal tables give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cmkd.report.tables import Row, Table, TeacherRow
from cmkd.report.wording import (
    DASH,
    FEW_MARK,
    difference_text,
    folds_text,
    interval_text,
    missing_text,
    notice_text,
    score_text,
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
    ]
    if table.test.grouped:
        parts += ["## Accuracy per group", _group_table(table)]
    parts += ["## Arms", _arm_table(table), "## About the paper's table"]
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
        f"Δ to {table.published.baseline} [95 % CI]",
        f"Δ to {table.published.control} [95 % CI]",
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
    name = row.measured.arm.name
    return [
        *cells,
        name,
        score_text(row.measured.selected, table),
        score_text(row.measured.last, table),
        difference_text(row.measured.to_baseline, name, table.published.baseline),
        difference_text(row.measured.to_control, name, table.published.control),
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
        "Differences are of the selected epoch, by seed, to the arm trained equally long."
    )
    yield f"- 95 % intervals: {interval_text(table)}. {FEW_MARK}: fewer than 3 seeds."
    if table.teacher is not None:
        value = table.teacher.selected
        accuracy = f"{value:.1f} %" if value is not None else "its run is not in the store"
        yield f"- RGB teacher: {escape(', '.join(table.teacher.ids))} ({accuracy})."
    missing = missing_text(table)
    yield f"- Missing: {escape('. '.join(missing)) if missing else 'nothing'}."
    if evidence.unfinished:
        counts = ", ".join(f"{count} {status}" for status, count in evidence.unfinished.items())
        yield f"- Runs not counted: {counts}."
    commits, spec = escape(", ".join(evidence.commits)), escape(table.sweep.spec.name)
    yield f"- Sweep {spec}; trials of commit {commits}; report by {version}."


def _group_table(table: Table) -> str:
    measured = [row.measured for row in table.rows if row.measured is not None]
    rows = []
    for group in sorted(set(table.test.groups)):
        values = [one.by_group[group] for one in measured]
        accuracies = [f"{value:.1f}" if value is not None else DASH for value in values]
        rows.append([group, str(table.test.groups.count(group)), *accuracies])
    return _grid(["Group", "Clips", *(one.arm.name for one in measured)], rows)


def _arm_table(table: Table) -> str:
    rows = []
    for arm in (row.measured.arm for row in table.rows if row.measured is not None):
        setting, method = arm.setting, arm.setting.method
        student = [str(setting.training.epochs), "yes" if method.decoder else "no"]
        weights = [f"{method.lambda_1:g}", f"{method.lambda_2:g}"]
        details = student + weights if setting.model == "student" else [DASH] * 4
        rows.append([arm.name, setting.id, setting.model, *details])
    return _grid(["Arm", "setting_id", "Model", "Epochs", "Decoder", "λ1", "λ2"], rows)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[escape(cell) for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
