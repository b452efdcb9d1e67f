"""The figure of the searches for the weights of the losses: ours beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cmkd.report.cells import Score
from cmkd.report.figures_style import BLUE, GREY, LARGE, NORMAL, SMALL, WIDTH, plain, style
from cmkd.report.searches import SYMBOLS, Search, Searches
from cmkd.report.tables import Table
from cmkd.report.wording import heading

_DECADE = 1.0
"""How far left of the least positive weight the weight 0 is put, in decades."""


def draw_searches(table: Table, found: Searches) -> Figure:
    """One line of panels per weight: ours, and each printed column on an axis of its own.

    The weights lie on a logarithmic axis, on which 0 has a place behind a break.
    """
    symbols = [one for one in SYMBOLS if one in found.ours]
    columns = list(found.printed)
    figure = Figure(figsize=(WIDTH, 1.3 + 2.2 * len(symbols)))
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    panels = figure.subplots(
        len(symbols),
        1 + len(columns),
        sharey="col",
        squeeze=False,
        width_ratios=[2.2, *(1 for _ in columns)],
    )
    for (ours, *paper), symbol in zip(panels, symbols, strict=True):
        search = found.ours[symbol]
        zero = _zero(search.points)
        _draw_ours(ours, search, found.plain if symbol == SYMBOLS[0] else None, zero)
        _name(ours, symbol, search.held, zero, search.points)
        ours.set_ylabel(plain(f"accuracy on\n{table.evidence.data} (%)"), fontsize=NORMAL)
        for axes, column in zip(paper, columns, strict=True):
            printed = found.printed[column].get(symbol)
            if printed is None:
                axes.set_axis_off()
                continue
            plain_value = found.printed_plain.get(column) if symbol == SYMBOLS[0] else None
            zero = _zero(printed.points)
            _draw_paper(axes, printed, plain_value, zero)
            _name(axes, symbol, printed.held, zero, printed.points)
    panels[0][0].set_title("measured here", fontsize=LARGE)
    for axes, column in zip(panels[0][1:], columns, strict=True):
        axes.set_title(plain(f"paper,\n{column}"), fontsize=NORMAL)
    figure.suptitle(
        plain(f"{heading(table)}: weights of the losses"), fontsize=LARGE, fontweight="bold"
    )
    figure.legend(
        handles=_legend(), loc="outside lower center", ncols=3, frameon=False, fontsize=SMALL
    )
    return figure


def _zero(points: Sequence[tuple[float, object]]) -> float:
    return min(math.log10(weight) for weight, _ in points if weight > 0) - _DECADE


def _at(weight: float, zero: float) -> float:
    return math.log10(weight) if weight > 0 else zero


def _draw_ours(axes: Axes, search: Search[Score], without: Score | None, zero: float) -> None:
    places = [_at(weight, zero) for weight, _ in search.points]
    scores = [score for _, score in search.points]
    means = [score.mean for score in scores]
    bounds = [
        (score.interval.low, score.interval.high) if score.interval else (math.nan, math.nan)
        for score in scores
    ]
    low, high = zip(*bounds, strict=True)
    axes.fill_between(places, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.vlines(places, low, high, color=BLUE, linewidth=1.2)
    _draw_line(axes, places, means, colour=BLUE, face=BLUE)
    for place, score in zip(places, scores, strict=True):
        beside = [place + 0.09] * len(score.per_seed)
        axes.plot(beside, score.per_seed, "o", color=BLUE, alpha=0.6, markersize=3, mew=0)
    if without is not None:
        place = zero - 0.2
        if without.interval is not None:
            axes.vlines(place, without.interval.low, without.interval.high, color=GREY)
        axes.plot(place, without.mean, "s", color=GREY, markersize=5)
        beside = [place + 0.09] * len(without.per_seed)
        axes.plot(beside, without.per_seed, "o", color=GREY, alpha=0.6, markersize=3, mew=0)


def _draw_paper(axes: Axes, search: Search[float], without: float | None, zero: float) -> None:
    places = [_at(weight, zero) for weight, _ in search.points]
    _draw_line(axes, places, [value for _, value in search.points], colour=GREY, face="white")
    if without is not None:
        axes.plot(zero - 0.2, without, "s", color=GREY, markerfacecolor="white", markersize=5)


def _draw_line(
    axes: Axes, places: Sequence[float], values: Sequence[float | None], *, colour: str, face: str
) -> None:
    """A line through all points, dashed where it crosses the break."""
    start = 1 if len(places) > 1 and places[1] - places[0] >= _DECADE and places[0] < -2.5 else 0
    axes.plot(places[start:], values[start:], "-", color=colour, linewidth=1.4)
    axes.plot(places[: start + 1], values[: start + 1], "--", color=colour, linewidth=1.0)
    axes.plot(places, values, "D", color=colour, markerfacecolor=face, markersize=5, zorder=3)
