"""The figure of a table of arms."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cmkd.report.arms import FAMILIES, Family
from cmkd.report.figures.style import BLUE, GREEN, GREY, MANY, VERMILLION, plain, style
from cmkd.report.tables import Measured, Row, Table, TeacherScore
from cmkd.report.text import (
    absent_families,
    comparable_columns,
    folds_text,
    heading,
    interval_text,
    kd_text,
    notice_text,
    seeds_text,
)

IN_PAPER, OUTSIDE, TEACHER = BLUE, VERMILLION, GREEN
LETTERS = 9.3
"""Points of the smallest letters: 7 where the figure is as wide as a page."""


def draw_arms(table: Table) -> Figure:
    """Seeds, means and intervals of all arms, beside the printed values on an axis of their own.

    The families stand one below the other, each with its teacher.
    """
    families = {
        family: [row for row in _students(table) if row.family == family] for family in FAMILIES
    }
    families = {family: rows for family, rows in families.items() if rows}
    counts = [len(rows) for rows in families.values()]
    columns = _paper_columns(table)
    figure = Figure(figsize=(9.5, 2.4 + 0.5 * len(counts) + 0.55 * sum(counts)))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    panels = figure.subplots(
        len(counts),
        1 + len(columns),
        sharex="col",
        squeeze=False,
        width_ratios=[2.6, *(1 for _ in columns)],
        height_ratios=[count + 0.4 for count in counts],
    )
    for (ours, *paper), (family, rows) in zip(panels, families.items(), strict=True):
        _draw_ours(ours, rows, _teacher(table, family), table)
        ours.set_title(_family_title(table, family), fontsize=10)
        for axes in paper:
            _draw_paper(axes, rows, columns[0])
            axes.set_title(plain(f"in the paper, {columns[0]}"), fontsize=10)
            axes.set_ylim(ours.get_ylim())
            axes.set_yticks(range(len(rows)), labels=[""] * len(rows))
    _name_axes(panels[-1], table)
    headline, text = notice_text(table)
    title = plain(f"{heading(table)}\n{headline}")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.legend(
        handles=_legend(table),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=LETTERS,
        title=textwrap.fill(plain(text), 110),
        title_fontsize=LETTERS,
    )
    return figure


def _students(table: Table) -> list[Row]:
    return [row for row in table.rows if isinstance(row.measured, Measured)]


def _teacher(table: Table, family: Family) -> float | None:
    for row in table.rows:
        if isinstance(row.measured, TeacherScore) and row.family == family:
            return row.measured.selected
    return None


def _family_title(table: Table, family: Family) -> str:
    if family in absent_families(table):
        return f"{family} students: not run yet"
    teacher = _teacher(table, family)
    taught = f", teacher {teacher:.1f} %" if teacher is not None else ""
    return f"{family} students, measured here{taught}"


def _draw_ours(axes: Axes, rows: list[Row], teacher: float | None, table: Table) -> None:
    for position, row in enumerate(rows):
        assert isinstance(row.measured, Measured)
        _draw_arm(axes, position, row.measured, IN_PAPER if row.printed else OUTSIDE)
    if teacher is not None:
        axes.axvline(teacher, color=TEACHER, linestyle="--", linewidth=1.5)
    axes.set_yticks(range(len(rows)), [_label(row, table) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    # Room for the value of the least accuracy, which stands above its point.
    axes.margins(x=0.1)
    style(axes, grid="x")


def _name_axes(lowest: Sequence[Axes], table: Table) -> None:
    lines = [
        f"accuracy on {table.evidence.data} (%)",
        f"{len(table.test.clips)} test clips, {folds_text(table)}",
        seeds_text(table),
    ]
    lowest[0].set_xlabel(plain("\n".join(line for line in lines if line is not None)))
    what = "the same data set" if comparable_columns(table) else "other data, other scale"
    for axes, column in zip(lowest[1:], _paper_columns(table), strict=True):
        axes.set_xlabel(plain(f"accuracy on {column} (%)\n{what}"))


def _paper_columns(table: Table) -> tuple[str, ...]:
    """The one column of the paper that is drawn: of the same data set where there is one."""
    return (comparable_columns(table) or table.published.columns)[:1]


def _draw_arm(axes: Axes, position: int, measured: Measured, colour: str) -> None:
    score = measured.selected
    if score.mean is None:
        axes.text(0.02, position, "0 seeds", transform=axes.get_yaxis_transform(), color=GREY)
        return
    if score.interval is not None:
        low, high = score.interval.low, score.interval.high
        axes.hlines(position, low, high, color=colour, linewidth=2.5)
        axes.vlines([low, high], position - 0.1, position + 0.1, color=colour, linewidth=1.5)
    axes.plot(score.mean, position, "D", color=colour, markersize=7, zorder=3)
    below = [position + 0.27] * len(score.per_seed)
    many = len(score.per_seed) > MANY
    axes.plot(
        score.per_seed, below, "o", color=colour, alpha=0.55, markersize=4.5, mew=0, rasterized=many
    )
    seeds = "deterministic" if score.deterministic else f"n = {len(score.per_seed)}"
    _write_value(axes, score.mean, position, f"{score.mean:.1f}  {seeds}")


def _draw_paper(axes: Axes, rows: list[Row], column: str) -> None:
    for position, row in enumerate(rows):
        if row.printed is None:
            place = axes.get_yaxis_transform()
            axes.text(
                0.5,
                position,
                "not in the paper",
                transform=place,
                color=GREY,
                fontsize=LETTERS,
                ha="center",
                va="center",
                backgroundcolor="white",
            )
            continue
        value = row.printed[column]
        if value is None:
            continue
        axes.plot(value, position, "D", color=GREY, markerfacecolor="white", markersize=7)
        _write_value(axes, value, position, f"{value:.1f}")
    axes.margins(x=0.15)
    axes.tick_params(axis="y", length=0)
    style(axes, grid="x")


def _write_value(axes: Axes, value: float, position: int, text: str) -> None:
    axes.annotate(
        text,
        (value, position),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=LETTERS,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )


def _label(row: Row, table: Table) -> str:
    assert isinstance(row.measured, Measured)
    setting = row.measured.arm.setting
    if row.printed is not None:
        pairs = zip(table.published.labels, row.labels, strict=True)
        weights = ", ".join(f"{name} = {value}" for name, value in pairs)
        is_search = "λ1" in table.published.labels
        return plain(f"{row.method}\n{weights if is_search else kd_text(row)}")
    # Names of arms, gates[gate=off], have no blank to be broken at.
    name = textwrap.fill(row.method.replace("[", "\n["), 28, replace_whitespace=False)
    student = setting.model == "student"
    return plain(f"{name}\n{setting.training.epochs} epochs" if student else name)


def _legend(table: Table) -> list[Line2D]:
    def marker(shape: str, colour: str, label: str, face: str | None = None) -> Line2D:
        face = face or colour
        return Line2D([], [], ls="", marker=shape, color=colour, mfc=face, label=plain(label))

    interval = textwrap.fill(f"95 % interval: {interval_text(table)}", 56)
    handles = [
        marker("D", OUTSIDE, "not in the paper, mean over seeds"),
        marker("o", GREY, "one seed"),
        Line2D([], [], color=GREY, linewidth=2.5, label=interval),
    ]
    if table.published.columns:
        handles.insert(0, marker("D", IN_PAPER, "row of the paper, mean over seeds"))
        handles.insert(2, marker("D", GREY, "value printed in the paper", "white"))
    if any(_teacher(table, family) is not None for family in FAMILIES):
        handles.append(Line2D([], [], color=TEACHER, ls="--", label="RGB teacher of the family"))
    return handles
