"""The further grids of a page: last epoch, groups of clips, arms, runs."""

from __future__ import annotations

from collections.abc import Sequence

from cmkd.report.pages.grids import difference_cells, difference_heads, score_cell
from cmkd.report.pages.page import Cell, Grid, Line
from cmkd.report.paper.arms import NOT_OURS, half_of
from cmkd.report.store.evidence import trials_of
from cmkd.report.values.tables import Table
from cmkd.report.values.tracing import run_url, teachers_name
from cmkd.report.values.wording import DASH, seeds_caption


def last_grid(table: Table) -> Grid:
    """Accuracies and differences at the last epoch."""
    lines = [
        _line(
            [
                Cell(one.arm.name),
                score_cell(one, "last", table),
                *difference_cells(one, "last", table),
            ],
            half_of(one.arm.setting),
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
    """What the arms are."""
    lines = []
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
        texts = [arm.name, setting.id, setting.model, *details]
        lines.append(_line([Cell(text) for text in texts], half_of(setting)))
    columns = ("Arm", "setting_id", "Model", "Student", "Teacher", "Epochs", "Decoder")
    caption = f"What each arm of the sweep {table.sweep.spec.name} is."
    return Grid("arms", "Arms", caption, (*columns, "λ1", "λ2", "Logits KD"), tuple(lines))


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
        lines.append(_line([Cell(one.arm.name), cell], half_of(one.arm.setting)))
    for half, by_fold in evidence.teachers.items():
        known = {fold: one for fold, one in by_fold.items() if one.run_id}
        runs = [f"{fold} {(one.run_id or '')[:8]}" for fold, one in known.items()]
        urls = [run_url(table.server, one) for one in known.values()] if table.server else []
        if known:
            cell = Cell(
                ", ".join(runs),
                trials=tuple(dict.fromkeys(one.teacher_id for one in known.values())),
                links=tuple(zip(runs, urls, strict=False)),
            )
            lines.append(_line([Cell(teachers_name(half)), cell], half))
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
