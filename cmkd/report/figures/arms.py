"""Figures of a table: accuracy of arms, differences to a reference, accuracy and computation."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cmkd.report.arms import FAMILIES, Family
from cmkd.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    MANY,
    NORMAL,
    SMALL,
    VERMILLION,
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

IN_PAPER, OUTSIDE, TEACHER = BLUE, VERMILLION, GREEN
_KINDS = {
    "RD": ("o", GREY, "white", "literature, raw domain (RD)"),
    "CD": ("s", GREY, GREY, "literature, compressed domain (CD)"),
    "ours": ("D", BLUE, BLUE, "the paper's method (CD)"),
}
"""Marker, colour, face and name of each kind of printed row."""


def _pitch(labels: Sequence[str]) -> float:
    """Inches from one arm to the next."""
    return max(0.36, 0.13 * max(label.count("\n") + 1 for label in labels))


def draw_arms(table: Table) -> Figure:
    """Seeds, mean and interval of every arm; beside them the printed value, on its own axis.

    Families stand one below the other, each with its teacher.
    """
    found: dict[Family, list[tuple[Row, ArmResult]]] = {family: [] for family in FAMILIES}
    for row in table.rows:
        if row.measured is not None and row.family is not None:
            found.setdefault(row.family, []).append((row, row.measured))
    families = {family: rows for family, rows in found.items() if rows}
    columns = (comparable_columns(table) or table.published.columns)[:1]
    labels = [_label(row, compared, table) for rows in families.values() for row, compared in rows]
    handles = _legend(table, bool(columns))
    figure, grid = panels(
        [_pitch(labels) * len(rows) for rows in families.values()],
        [2.6, *(1 for _ in columns)],
        left=room(labels),
        bottom=0.55 + legend_room(len(handles)),
        gap=(0.2, 0.45),
        sharex="col",
    )
    for (ours, *paper), (family, rows) in zip(grid, families.items(), strict=True):
        for position, (row, one) in enumerate(rows):
            _draw_arm(ours, position, one, IN_PAPER if row.printed else OUTSIDE)
        teacher = _teacher(table, family)
        if teacher is not None:
            ours.axvline(teacher, color=TEACHER, linestyle="--", linewidth=1.5)
        ours.set_title(_family_title(table, family), fontsize=NORMAL)
        ours.set_yticks(range(len(rows)), [_label(row, compared, table) for row, compared in rows])
        # Room for the value of the least accuracy, which stands above its point.
        ours.margins(x=0.14)
        for axes in paper:
            _draw_paper(axes, [row for row, _ in rows], columns[0])
            axes.set_title(plain(f"in the paper, {columns[0]}"), fontsize=NORMAL)
            axes.set_yticks(range(len(rows)), labels=[""] * len(rows))
        for axes in (ours, *paper):
            axes.set_ylim(len(rows) - 0.4, -0.6)
            style(axes, grid="x")
    other = "the same data set" if comparable_columns(table) else "other data, other scale"
    grid[-1][0].set_xlabel(plain(f"accuracy on {table.evidence.data} (%)"), fontsize=NORMAL)
    for axes in grid[-1][1:]:
        axes.set_xlabel(f"accuracy (%)\n{other}", fontsize=NORMAL)
    legend(figure, handles)
    return figure


def _teacher(table: Table, family: Family) -> float | None:
    for row in table.rows:
        if row.teacher is not None and row.family == family:
            return row.teacher.selected.mean
    return None


def _family_title(table: Table, family: Family) -> str:
    if family in absent_families(table):
        return f"{family} students: not run yet"
    teacher = _teacher(table, family)
    return f"{family} students" + (f", teacher {teacher:.1f} %" if teacher is not None else "")


def _draw_arm(axes: Axes, position: int, measured: ArmResult, colour: str) -> None:
    score = measured.selected
    if score.mean is None:
        where = axes.get_yaxis_transform()
        axes.text(0.02, position, "0 seeds", transform=where, color=GREY, fontsize=SMALL)
        return
    if score.interval is not None:
        axes.hlines(position, score.interval.low, score.interval.high, color=colour, linewidth=2)
    axes.plot(score.mean, position, "D", color=colour, markersize=5, zorder=3)
    _draw_seeds(axes, list(score.per_seed), position, colour)
    seeds = "deterministic" if score.deterministic else f"n = {len(score.per_seed)}"
    _write_value(axes, score.mean, position, f"{score.mean:.1f}  {seeds}")


def _draw_seeds(axes: Axes, values: list[float], position: int, colour: str) -> None:
    below = [position + 0.27] * len(values)
    many = len(values) > MANY
    axes.plot(values, below, "o", color=colour, alpha=0.55, ms=3, mew=0, rasterized=many)


def _draw_paper(axes: Axes, rows: list[Row], column: str) -> None:
    for position, row in enumerate(rows):
        value = row.printed[column] if row.printed is not None else None
        if value is not None:
            axes.plot(value, position, "D", color=GREY, markerfacecolor="white", markersize=5)
            _write_value(axes, value, position, f"{value:.1f}")
    axes.margins(x=0.2)
    axes.tick_params(axis="y", length=0)


def _write_value(axes: Axes, value: float, position: int, text: str) -> None:
    axes.annotate(
        text,
        (value, position),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        fontsize=SMALL,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )


def _label(row: Row, measured: ArmResult, table: Table) -> str:
    setting = measured.arm.setting
    if row.printed is not None:
        pairs = zip(table.published.labels, row.labels, strict=True)
        weights = ", ".join(f"{name} = {value}" for name, value in pairs)
        is_search = "λ1" in table.published.labels
        return plain(f"{row.method}\n{weights if is_search else kd_text(row)}")
    name = _wrapped(row.method)
    return plain(
        f"{name}\n{setting.training.epochs} epochs" if setting.model == "student" else name
    )


def _wrapped(name: str) -> str:
    # Names of arms, gates[gate=off], have no blank to be broken at.
    return textwrap.fill(name.replace("[", "\n["), 28, replace_whitespace=False)


def _legend(table: Table, has_paper: bool) -> list[Line2D]:
    interval = textwrap.fill(f"95 % interval: {interval_text(table)}", 56)
    handles = [
        marker("D", OUTSIDE, "mean over seeds" + (", not in the paper" if has_paper else "")),
        marker("o", GREY, "one seed"),
        Line2D([], [], color=GREY, linewidth=2, label=plain(interval)),
    ]
    if has_paper:
        handles.insert(0, marker("D", IN_PAPER, "mean over seeds, row of the paper"))
        handles.insert(2, marker("D", GREY, "printed in the paper", "white"))
    if any(_teacher(table, family) is not None for family in FAMILIES):
        handles.append(Line2D([], [], color=TEACHER, ls="--", label="RGB teacher of the family"))
    return handles


def differences(table: Table) -> tuple[tuple[str, ArmResult, Difference], ...]:
    """Method, arm and difference of every setting that departs from its reference, once each."""
    found: dict[str, tuple[str, ArmResult, Difference]] = {}
    by_name = {measured.arm.name: measured for measured in table.measured}
    for row in table.rows:
        one = row.measured
        if one is None:
            continue
        known = next((d for d in one.differences["selected"].values() if d is not None), None)
        if known is None or known.mean is None or known.reference not in by_name:
            continue
        setting = one.arm.setting
        if by_name[known.reference].arm.setting.id != setting.id:
            found.setdefault(setting.id, (row.method, one, known))
    return tuple(found.values())


def draw_differences(table: Table) -> Figure:
    """Difference of every arm to its reference, which is the line: mean, interval, seeds."""
    rows = differences(table)
    by_name = {measured.arm.name: measured for measured in table.measured}
    labels = [plain(_wrapped(method)) for method, _, _ in rows]
    figure, ((axes,),) = panels(
        [_pitch(labels) * len(rows)], [1], left=room(labels), bottom=0.45 + legend_room(3), top=0.3
    )
    axes.axvline(0, color=GREY, linewidth=1.2)
    for position, (_, _, known) in enumerate(rows):
        assert known.mean is not None
        span = known.interval
        is_clear = span is not None and not span.low <= 0 <= span.high
        colour = VERMILLION if is_clear else BLUE
        if span is not None:
            axes.hlines(position, span.low, span.high, color=colour, linewidth=2)
        axes.plot(known.mean, position, "D", color=colour, markersize=5, zorder=3)
        _draw_seeds(axes, list(known.per_seed), position, colour)
        text = f"{known.mean:+.1f}  n = {len(known.seeds)}".replace("-", "\N{MINUS SIGN}")
        _write_value(axes, known.mean, position, text)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.1)
    style(axes, grid="x")
    names = sorted({known.reference for _, _, known in rows})
    means = [by_name[name].selected.mean or 0.0 for name in names]
    of = ", ".join(f"{name} ({mean:.1f} %)" for name, mean in zip(names, means, strict=True))
    axes.set_xlabel(plain(f"accuracy minus that of {of} (points)"), fontsize=NORMAL)
    handles = [
        marker("D", BLUE, "mean; 95 % interval holds 0, or none"),
        marker("D", VERMILLION, "mean; 95 % interval does not hold 0"),
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
        (row, row.gflops, value)
        for row in table.rows
        if row.printed is not None
        and row.gflops is not None
        and (value := row.printed[column]) is not None
    ]
    rows.sort(key=lambda entry: entry[2])
    labels = [plain(f"{row.method}, {row.labels[1]}") for row, _, _ in rows]
    handles = [marker(shape, colour, name, face) for shape, colour, face, name in _KINDS.values()]
    if any(row.cost for row, _, _ in rows):
        handles.append(marker("^", VERMILLION, "GMACs measured here"))
    figure, ((accuracy, computation),) = panels(
        [0.19 * len(rows)],
        [1, 1.4],
        left=room(labels),
        bottom=0.45 + legend_room(len(handles), 2),
        top=0.3,
        sharey=True,
    )
    for position, (row, gflops, value) in enumerate(rows):
        is_ours = row.family is not None and row.method.endswith("+ours")
        kind = "ours" if is_ours else "RD" if "RD" in row.labels else "CD"
        shape, colour, face, _ = _KINDS[kind]
        for axes, place in ((accuracy, value), (computation, gflops)):
            axes.plot(place, position, shape, color=colour, mfc=face, markersize=5)
        if row.cost is not None:
            computation.plot(row.cost.total, position, "^", color=VERMILLION, markersize=5)
    computation.set_xscale("log")
    low, high = (end(gflops for _, gflops, _ in rows) for end in (min, max))
    computation.set_xlim(low / 1.5, high * 1.5)
    ticks = [step * 10.0**power for power in range(6) for step in (1, 3)]
    computation.set_xticks([tick for tick in ticks if low / 1.5 < tick < high * 1.5])
    computation.xaxis.set_major_formatter("{x:g}")
    accuracy.set_yticks(range(len(rows)), labels)
    for axes in (accuracy, computation):
        style(axes, grid="both")
    accuracy.set_xlabel(plain(f"{column} as printed (%)"), fontsize=NORMAL)
    computation.set_xlabel("GFLOPs as printed, GMACs here; all views", fontsize=NORMAL)
    legend(figure, handles, 2)
    return figure
