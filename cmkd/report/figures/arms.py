"""Figures of a table: accuracy of arms, differences to a reference, accuracy and computation."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from cmkd.report.arms import FAMILIES, Family
from cmkd.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    MINUS,
    NORMAL,
    SMALL,
    VERMILLION,
    draw_estimate,
    is_clear,
    legend,
    legend_room,
    marker,
    panels,
    plain,
    room,
    style,
)
from cmkd.report.tables import ArmResult, Difference, Row, Table
from cmkd.report.text import absent_families, comparable_columns, interval_text, kd_text
from cmkd.stats import without_outliers

IN_PAPER, OUTSIDE, TEACHER = BLUE, VERMILLION, GREEN
_KINDS = {
    "RD": ("o", GREY, "white", "literature, raw domain (RD)"),
    "CD": ("s", GREY, GREY, "literature, compressed domain (CD)"),
    "ours": ("D", BLUE, BLUE, "the paper's method (CD)"),
}
"""Marker, colour, face and name of each kind of printed row."""


def draw_arms(table: Table) -> Figure:
    """Seeds, mean and interval of every arm; beside them the printed value, on its own axis.

    Families stand one below the other, each with its teacher.
    """
    families: dict[Family, list[tuple[Row, ArmResult]]] = {}
    for family in dict.fromkeys([*FAMILIES, *(row.family for row in table.rows)]):
        rows = [(row, row.measured) for row in table.rows if row.measured is not None]
        own = [(row, result) for row, result in rows if row.family == family]
        if own and family is not None:
            families[family] = own
    teachers = {
        row.family: row.teacher.scores["selected"].mean
        for row in table.rows
        if row.teacher is not None
    }
    columns = (comparable_columns(table) or table.published.columns)[:1]
    labels = {
        family: [_label(row, result, table) for row, result in rows]
        for family, rows in families.items()
    }
    every = [label for names in labels.values() for label in names]
    has_teacher = any(mean is not None for mean in teachers.values())
    handles = _legend(table, has_paper=bool(columns), has_teacher=has_teacher)
    figure, grid = panels(
        [_pitch(every) * len(rows) for rows in families.values()],
        [2.6, *(1 for _ in columns)],
        left=room(every),
        bottom=0.55 + legend_room(len(handles)),
        gap=(0.2, 0.45),
        sharex="col",
    )
    means = [result.selected.mean for rows in families.values() for _, result in rows]
    measured = [mean for mean in (*means, *teachers.values()) if mean is not None]
    low = without_outliers(measured)[0] if measured else 0.0
    for (ours, *paper), (family, rows) in zip(grid, families.items(), strict=True):
        for line, (row, result) in enumerate(rows):
            _draw_arm(ours, line, result, IN_PAPER if row.printed else OUTSIDE, low)
            for axes in paper:
                _draw_printed(axes, line, row, columns[0])
        teacher = teachers.get(family)
        title = f"{family} students"
        if family in absent_families(table):
            title += ": not run yet"
        elif teacher is not None:
            title += f", teacher {teacher:.1f} %"
        if teacher is not None:
            ours.axvline(teacher, color=TEACHER, linestyle="--", linewidth=1.5)
        ours.set_title(title, fontsize=NORMAL)
        # Room for the value of the least accuracy, which stands above its point.
        ours.margins(x=0.14)
        _name_lines(ours, labels[family])
        for axes in paper:
            axes.set_title(plain(f"in the paper, {columns[0]}"), fontsize=NORMAL)
            axes.margins(x=0.2)
            _name_lines(axes, [""] * len(rows))
            axes.tick_params(axis="y", length=0)
    other = "the same data set" if comparable_columns(table) else "other data, other scale"
    grid[-1][0].set_xlabel(plain(f"accuracy on {table.evidence.data} (%)"), fontsize=NORMAL)
    for axes in grid[-1][1:]:
        axes.set_xlabel(f"accuracy (%)\n{other}", fontsize=NORMAL)
    legend(figure, handles)
    return figure


def _pitch(labels: Sequence[str]) -> float:
    """Inches from one arm to the next."""
    return max(0.36, 0.13 * max(label.count("\n") + 1 for label in labels))


def _name_lines(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    style(axes, grid="x")


def _draw_arm(axes: Axes, line: int, result: ArmResult, colour: str, low: float) -> None:
    """Estimate of an arm; an arrow and its numbers at `low` where it lies below."""
    score = result.selected
    if score.mean is None:
        where = axes.get_yaxis_transform()
        axes.text(0.02, line, "0 seeds", transform=where, color=GREY, fontsize=SMALL)
        return
    seeds = "deterministic" if score.deterministic else f"n = {len(score.per_seed)}"
    text = f"{score.mean:.1f}  {seeds}"
    if score.mean < low:
        edge = axes.get_yaxis_transform()
        axes.plot(0.02, line, "<", color=colour, markersize=6, transform=edge)
        axes.text(0.04, line, text, transform=edge, va="center", fontsize=SMALL)
        return
    draw_estimate(axes, line, score.mean, score.interval, score.per_seed, colour, text=text)


def _draw_printed(axes: Axes, line: int, row: Row, column: str) -> None:
    value = row.printed[column] if row.printed is not None else None
    if value is not None:
        draw_estimate(axes, line, value, None, (), GREY, text=f"{value:.1f}", face="white")


def _label(row: Row, result: ArmResult, table: Table) -> str:
    if row.printed is not None:
        pairs = zip(table.published.labels, row.labels, strict=True)
        weights = ", ".join(f"{name} = {value}" for name, value in pairs)
        is_search = "λ1" in table.published.labels
        return plain(f"{row.method}\n{weights if is_search else kd_text(row)}")
    setting, name = result.arm.setting, _wrapped(row.method)
    epochs = f"\n{setting.training.epochs} epochs" if setting.model == "student" else ""
    return plain(f"{name}{epochs}")


def _wrapped(name: str) -> str:
    # Names of arms, gates[gate=off], have no blank to be broken at.
    return textwrap.fill(name.replace("[", "\n["), 28, replace_whitespace=False)


def _legend(table: Table, *, has_paper: bool, has_teacher: bool) -> list[Line2D]:
    interval = textwrap.fill(f"95 % interval: {interval_text(table)}", 56)
    handles = [
        marker("D", OUTSIDE, "mean over seeds" + (", not in the paper" if has_paper else "")),
        marker("o", GREY, "one seed"),
        Line2D([], [], color=GREY, linewidth=2, label=plain(interval)),
    ]
    if has_paper:
        handles.insert(0, marker("D", IN_PAPER, "mean over seeds, row of the paper"))
        handles.insert(2, marker("D", GREY, "printed in the paper", "white"))
    if has_teacher:
        handles.append(Line2D([], [], color=TEACHER, ls="--", label="RGB teacher of the family"))
    return handles


def differences(table: Table) -> dict[str, Difference]:
    """By method, the difference of every setting that departs from its reference, once each."""
    found: dict[str, tuple[str, Difference]] = {}
    for row in table.rows:
        own = row.measured.differences["selected"].values() if row.measured is not None else ()
        known = next((difference for difference in own if difference is not None), None)
        if known is not None and known.seeds:
            setting, reference = (result.arm.setting for _, result in known.parts)
            if setting != reference:
                found.setdefault(setting.id, (row.method, known))
    return dict(found.values())


def draw_differences(table: Table) -> Figure:
    """Difference of every arm to its reference, which is the line: mean, interval, seeds."""
    rows = differences(table)
    labels = [plain(_wrapped(method)) for method in rows]
    figure, ((axes,),) = panels(
        [_pitch(labels) * len(rows)], [1], left=room(labels), bottom=0.45 + legend_room(3), top=0.3
    )
    axes.axvline(0, color=GREY, linewidth=1.2)
    references: dict[str, str] = {}
    for line, known in enumerate(rows.values()):
        mean, reference = known.mean or 0.0, known.parts[-1][1]
        references[reference.arm.name] = f"{reference.selected.mean:.1f} %"
        colour = VERMILLION if is_clear(known.interval) else BLUE
        text = f"{mean:+.1f}  n = {len(known.seeds)}".replace("-", MINUS)
        draw_estimate(axes, line, mean, known.interval, known.per_seed, colour, text=text)
    _name_lines(axes, labels)
    axes.margins(x=0.1)
    of = ", ".join(f"{name} ({mean})" for name, mean in sorted(references.items()))
    axes.set_xlabel(plain(f"accuracy minus that of {of} (points)"), fontsize=NORMAL)
    handles = [
        marker("D", BLUE, "mean; 95 % interval includes 0 or is unknown"),
        marker("D", VERMILLION, "mean; 95 % interval excludes 0"),
        marker("o", GREY, "one seed, paired"),
    ]
    legend(figure, handles)
    return figure


def draw_cost(table: Table) -> Figure:
    """Printed accuracy of every row with GFLOPs, and beside it printed GFLOPs and GMACs of ours.

    One axis serves both, since GFLOPs of the paper are multiply-accumulates.
    """
    column = table.published.columns[0]
    rows = [
        (value, row.gflops, row)
        for row in table.rows
        if row.printed is not None
        and row.gflops is not None
        and (value := row.printed[column]) is not None
    ]
    rows.sort(key=lambda entry: entry[0])
    labels = [plain(f"{row.method}, {row.labels[1]}") for _, _, row in rows]
    handles = [marker(shape, colour, name, face) for shape, colour, face, name in _KINDS.values()]
    if any(row.cost for _, _, row in rows):
        handles.append(marker("^", VERMILLION, "GMACs measured here"))
    figure, ((accuracy, computation),) = panels(
        [0.19 * len(rows)],
        [1, 1.4],
        left=room(labels),
        bottom=0.45 + legend_room(len(handles), 2),
        top=0.3,
        sharey=True,
    )
    for line, (value, gflops, row) in enumerate(rows):
        is_ours = row.family is not None and row.method.endswith("+ours")
        kind = "ours" if is_ours else "RD" if "RD" in row.labels else "CD"
        shape, colour, face, _ = _KINDS[kind]
        for axes, place in ((accuracy, value), (computation, gflops)):
            axes.plot(place, line, shape, color=colour, mfc=face, markersize=5)
        if row.cost is not None:
            computation.plot(row.cost.total, line, "^", color=VERMILLION, markersize=5)
    computation.set_xscale("log")
    computation.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    computation.xaxis.set_major_formatter("{x:g}")
    computation.minorticks_off()
    accuracy.set_yticks(range(len(rows)), labels)
    for axes in (accuracy, computation):
        style(axes, grid="both")
    accuracy.set_xlabel(plain(f"{column} as printed (%)"), fontsize=NORMAL)
    computation.set_xlabel("GFLOPs as printed, GMACs here; all views", fontsize=NORMAL)
    legend(figure, handles, 2)
    return figure
