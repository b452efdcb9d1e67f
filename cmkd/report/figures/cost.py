"""The figure of accuracy and computation: printed points, and what we measured of the latter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cmkd.report.figures.style import (
    BLUE,
    GREY,
    LARGE,
    NORMAL,
    SMALL,
    VERMILLION,
    WIDTH,
    plain,
    style,
)
from cmkd.report.tables import Row, Table

_KINDS = {
    "RD": ("o", GREY, "white", "literature, raw domain (RD)"),
    "CD": ("s", GREY, GREY, "literature, compressed domain (CD)"),
    "ours": ("D", BLUE, BLUE, "the paper's own method (CD)"),
}
"""Marker, colour, face and name of each kind of printed row."""

_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Where a label may stand beside its point: right, left, above, below, and the corners."""
_GAP = 6.5
"""Points between a label and the middle of its point."""


@dataclass(frozen=True)
class _Box:
    """A rectangle on the page, in points."""

    left: float
    low: float
    right: float
    high: float

    def overlap(self, other: _Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.high, other.high) - max(self.low, other.low)
        return max(width, 0) * max(height, 0)

    def outside(self, page: _Box) -> float:
        """How far it reaches out of `page`."""
        across = max(page.left - self.left, self.right - page.right)
        return max(0, across, page.low - self.low, self.high - page.high)


def draw_cost(table: Table) -> Figure:
    """The first printed accuracy of all rows with GFLOPs; below, GMACs of ours for their rows.

    Both panels share the axis of computation, since GFLOPs of the paper are multiply-accumulates.
    """
    column = table.published.columns[0]
    points = [
        (row, row.gflops, row.printed[column]) for row in table.rows if row.printed is not None
    ]
    printed = [
        (row, gflops, accuracy)
        for row, gflops, accuracy in points
        if gflops is not None and accuracy is not None
    ]
    measured = [row for row in table.rows if row.cost is not None]
    height = 4.4 + 0.24 * len(measured)
    figure = Figure(figsize=(WIDTH, height))
    # No automatic layout: labels are put where the axes are known to be.
    strip = (0.24 * len(measured) + 0.1) / height
    plane = figure.add_axes((0.22, 0.85 / height + strip + 0.02, 0.75, 3.0 / height))
    low, high = (end(gflops for _, gflops, _ in printed) for end in (min, max))
    plane.set_xscale("log")
    plane.set_xlim(low / 1.6, high * 1.9)
    ticks = [step * 10.0**power for power in range(6) for step in (1, 3)]
    plane.set_xticks([one for one in ticks if low / 1.6 < one < high * 1.9])
    plane.xaxis.set_major_formatter("{x:g}")
    values = [accuracy for _, _, accuracy in printed]
    plane.set_ylim(min(values) - 2, max(values) + 2)
    for row, gflops, accuracy in printed:
        shape, colour, face, _ = _KINDS[_kind(row)]
        plane.plot(gflops, accuracy, shape, color=colour, mfc=face, markersize=6, zorder=3)
    _label_points(plane, [(row.method, gflops, accuracy) for row, gflops, accuracy in printed])
    plane.set_ylabel(plain(f"{column} accuracy as printed (%)"), fontsize=NORMAL)
    lowest = plane
    if measured:
        lowest = figure.add_axes((0.22, 0.85 / height, 0.75, strip), sharex=plane)
        _draw_measured(lowest, measured)
        plane.tick_params(labelbottom=False)
    for axes in {plane, lowest}:
        axes.tick_params(labelsize=SMALL)
        style(axes, grid="both")
    lowest.set_xlabel("GFLOPs as printed, GMACs as measured here; all views", fontsize=NORMAL)
    title = f"Table {table.spec.name}: {table.published.title.rstrip('.')}, and computation"
    figure.suptitle(plain(title), fontsize=LARGE, fontweight="bold", y=1 - 0.12 / height, va="top")
    handles = [
        Line2D([], [], ls="", marker=shape, color=colour, mfc=face, ms=6, label=name)
        for shape, colour, face, name in _KINDS.values()
    ]
    if measured:
        handles += [
            Line2D([], [], ls="", marker="^", color=VERMILLION, ms=6, label="GMACs measured here"),
            Line2D([], [], ls="", marker="|", color=GREY, ms=8, mew=2, label="GFLOPs as printed"),
        ]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=SMALL)
    return figure


def _kind(row: Row) -> str:
    if row.family is not None and row.method.endswith("+ours"):
        return "ours"
    return "RD" if "RD" in row.labels else "CD"


def _draw_measured(axes: Axes, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        assert row.cost is not None
        if row.gflops is not None:
            axes.plot([row.gflops, row.cost.total], [place, place], color=GREY, linewidth=1)
            axes.plot(row.gflops, place, "|", color=GREY, markersize=9, mew=2)
        axes.plot(row.cost.total, place, "^", color=VERMILLION, markersize=6, zorder=3)
    names = [plain(f"{row.method}, {row.labels[1]}") for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _label_points(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Names beside their points, where they cover least of what is already there."""
    scale = 72 / axes.figure.dpi
    places = [tuple(axes.transData.transform((x, y)) * scale) for _, x, y in points]
    taken = [_Box(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    page = _Box(*(float(value * scale) for value in axes.bbox.extents))
    for (name, x, y), (across, up) in zip(points, places, strict=True):
        width, height = 0.6 * SMALL * len(name), 1.2 * SMALL
        best, box = min(
            ((where, _box(where, across, up, width, height)) for where in _AROUND),
            key=lambda one: (
                sum(one[1].overlap(other) for other in taken) + 100 * one[1].outside(page)
            ),
        )
        taken.append(box)
        to_right, to_top = best
        axes.annotate(
            plain(name),
            (x, y),
            xytext=(_GAP * to_right, _GAP * to_top),
            textcoords="offset points",
            fontsize=SMALL,
            ha=("right", "center", "left")[to_right + 1],
            va=("top", "center", "bottom")[to_top + 1],
        )


def _box(where: tuple[int, int], across: float, up: float, width: float, height: float) -> _Box:
    """Of a label of a size, beside a point."""
    to_right, to_top = where
    left = across + _GAP * to_right + width * (to_right - 1) / 2
    low = up + _GAP * to_top + height * (to_top - 1) / 2
    return _Box(left, low, left + width, low + height)
