"""The figure of Table 4; the only module that imports matplotlib."""

from __future__ import annotations

import io
import textwrap
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cmkd.report.tables import Measured, Row, Table
from cmkd.report.wording import folds_text, interval_text, kd_text, notice_text, seeds_text

# Okabe and Ito's palette: told apart with any common colour vision, and by marker in grey print.
IN_PAPER = "#0072B2"
OUTSIDE = "#D55E00"
TEACHER = "#009E73"
GREY = "#666666"


def render_figure(table: Table, kind: Literal["svg", "png"]) -> bytes:
    """Seeds, means and intervals of all arms, beside the printed values on an axis of their own.

    Equal tables give equal bytes with one matplotlib version: neither date nor random ids.
    """
    rows = [row for row in table.rows if row.measured is not None]
    figure = Figure(figsize=(9.5, 2.6 + 0.55 * len(rows)))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    ours, paper = figure.subplots(1, 2, sharey=True, width_ratios=[2.6, 1])
    _draw_ours(ours, rows, table)
    _draw_paper(paper, rows, table.published.columns[0])
    ours.set_yticks(range(len(rows)), [_label(row) for row in rows])
    ours.set_ylim(len(rows) - 0.4, -0.6)
    headline, text = notice_text(table)
    figure.suptitle(
        _plain(f"Table 4 on {table.evidence.data}\n{headline}"), fontsize=12, fontweight="bold"
    )
    figure.legend(
        handles=_legend(table),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
        title=textwrap.fill(_plain(text), 125),
        title_fontsize=8,
    )
    return _save(figure, kind)


def _draw_ours(axes: Axes, rows: list[Row], table: Table) -> None:
    for position, row in enumerate(rows):
        assert row.measured is not None
        _draw_arm(axes, position, row.measured, IN_PAPER if row.printed else OUTSIDE)
    if table.teacher is not None and table.teacher.selected is not None:
        axes.axvline(table.teacher.selected, color=TEACHER, linestyle="--", linewidth=1.5)
    lines = [
        f"accuracy on {table.evidence.data} (%)",
        f"{len(table.test.clips)} test clips, {folds_text(table)}",
        seeds_text(table),
    ]
    axes.set_title("measured here", fontsize=10)
    axes.set_xlabel(_plain("\n".join(line for line in lines if line is not None)))
    _style(axes)


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
    axes.plot(score.per_seed, below, "o", color=colour, alpha=0.55, markersize=4.5, mew=0)
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
                fontsize=8,
                ha="center",
                va="center",
                backgroundcolor="white",
            )
            continue
        value = row.printed[column]
        axes.plot(value, position, "D", color=GREY, markerfacecolor="white", markersize=7)
        _write_value(axes, value, position, f"{value:.1f}")
    axes.set_title(_plain(f"in the paper, {column}"), fontsize=10)
    axes.set_xlabel(_plain(f"accuracy on {column} (%)\nother data, other scale"))
    axes.margins(x=0.15)
    axes.tick_params(axis="y", length=0)
    _style(axes)


def _write_value(axes: Axes, value: float, position: int, text: str) -> None:
    axes.annotate(
        text,
        (value, position),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )


def _style(axes: Axes) -> None:
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label(row: Row) -> str:
    if row.printed is not None:
        return _plain(f"{row.method}\n{kd_text(row)}")
    name = textwrap.fill(row.method, 26)
    assert row.measured is not None
    setting = row.measured.arm.setting
    student = setting.model == "student"
    return _plain(f"{name}\n{setting.training.epochs} epochs" if student else name)


def _legend(table: Table) -> list[Line2D]:
    def marker(shape: str, colour: str, label: str, face: str | None = None) -> Line2D:
        face = face or colour
        return Line2D([], [], ls="", marker=shape, color=colour, mfc=face, label=_plain(label))

    interval = textwrap.fill(f"95 % interval: {interval_text(table)}", 56)
    handles = [
        marker("D", IN_PAPER, "row of the paper, mean over seeds"),
        marker("D", OUTSIDE, "not in the paper, mean over seeds"),
        marker("D", GREY, "value printed in the paper", "white"),
        marker("o", GREY, "one seed"),
        Line2D([], [], color=GREY, linewidth=2.5, label=interval),
    ]
    if table.teacher is not None and table.teacher.selected is not None:
        label = f"RGB teacher, {table.teacher.selected:.1f} %"
        handles.append(Line2D([], [], color=TEACHER, linestyle="--", label=label))
    return handles


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def _save(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "cmkd"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()
