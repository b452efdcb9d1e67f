"""The figure of the searches for the weights of the losses: ours beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cmkd.report.cells import Score
from cmkd.report.figures.style import BLUE, GREY, LARGE, MANY, NORMAL, SMALL, WIDTH, plain, style
from cmkd.report.searches import SYMBOLS, Search, Searches
from cmkd.report.tables import Table
from cmkd.report.text import heading

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
        zero = _zero(search)
        _draw_ours(ours, search, found.plain if symbol == SYMBOLS[0] else None, zero)
        _finish(ours, symbol, search, zero)
        ours.set_ylabel(plain(f"accuracy on\n{table.evidence.data} (%)"), fontsize=NORMAL)
        for axes, column in zip(paper, columns, strict=True):
            printed = found.printed[column].get(symbol)
            if printed is None:
                axes.set_axis_off()
                continue
            plain_value = found.printed_plain.get(column) if symbol == SYMBOLS[0] else None
            zero = _zero(printed)
            _draw_paper(axes, printed, plain_value, zero)
            _finish(axes, symbol, printed, zero)
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


def _zero(search: Search[Any]) -> float:
    return min(math.log10(weight) for weight, _ in search.points if weight > 0) - _DECADE


def _at(weight: float, zero: float) -> float:
    return math.log10(weight) if weight > 0 else zero


def _draw_ours(axes: Axes, search: Search[Score], without: Score | None, zero: float) -> None:
    places = [_at(weight, zero) for weight, _ in search.points]
    scores = [score for _, score in search.points]
    means = [fmean(score.per_seed) for score in scores]
    bounds = [
        (score.interval.low, score.interval.high) if score.interval else (math.nan, math.nan)
        for score in scores
    ]
    low, high = zip(*bounds, strict=True)
    axes.fill_between(places, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.vlines(places, low, high, color=BLUE, linewidth=1.2)
    _line(axes, search, zero, means, colour=BLUE, face=BLUE)
    for place, score in zip(places, scores, strict=True):
        beside = [place + 0.09] * len(score.per_seed)
        axes.plot(
            beside,
            score.per_seed,
            "o",
            color=BLUE,
            alpha=0.6,
            markersize=3,
            mew=0,
            rasterized=len(beside) > MANY,
        )
    if without is not None:
        place = zero - 0.2
        if without.interval is not None:
            axes.vlines(place, without.interval.low, without.interval.high, color=GREY)
        axes.plot(place, fmean(without.per_seed), "s", color=GREY, markersize=5)
        beside = [place + 0.09] * len(without.per_seed)
        axes.plot(beside, without.per_seed, "o", color=GREY, alpha=0.6, markersize=3, mew=0)


def _draw_paper(axes: Axes, search: Search[float], without: float | None, zero: float) -> None:
    values = [value for _, value in search.points]
    _line(axes, search, zero, values, colour=GREY, face="white")
    if without is not None:
        axes.plot(zero - 0.2, without, "s", color=GREY, markerfacecolor="white", markersize=5)


def _line(
    axes: Axes,
    search: Search[Any],
    zero: float,
    values: Sequence[float],
    *,
    colour: str,
    face: str,
) -> None:
    """A line through all points, dashed where it crosses the break."""
    places = [_at(weight, zero) for weight, _ in search.points]
    first = 1 if search.points[0][0] == 0 else 0
    axes.plot(places[first:], values[first:], "-", color=colour, linewidth=1.4)
    axes.plot(places[: first + 1], values[: first + 1], "--", color=colour, linewidth=1.0)
    axes.plot(places, values, "D", color=colour, markerfacecolor=face, markersize=5, zorder=3)


def _finish(axes: Axes, symbol: str, search: Search[Any], zero: float) -> None:
    """Ticks at the weights that were tried, and the break before the least positive one."""
    weights = [0.0, *(weight for weight, _ in search.points if weight > 0)]
    axes.set_xticks([_at(one, zero) for one in weights], [f"{one:g}" for one in weights])
    axes.set_xlim(zero - 0.5, _at(weights[-1], zero) + 0.35)
    axes.tick_params(labelsize=SMALL)
    held = SYMBOLS[1] if symbol == SYMBOLS[0] else SYMBOLS[0]
    axes.set_xlabel(f"{symbol}, at {held} = {search.held:g}", fontsize=NORMAL)
    style(axes, grid="y")
    axes.text(
        zero + _DECADE / 2,
        0,
        "//",
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="center",
        fontsize=NORMAL,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )


def _legend() -> list[Line2D | Patch]:
    def marker(shape: str, colour: str, label: str, face: str) -> Line2D:
        return Line2D([], [], ls="", marker=shape, color=colour, mfc=face, ms=5, label=label)

    return [
        marker("D", BLUE, "mean over seeds", BLUE),
        marker("o", BLUE, "one seed", BLUE),
        Patch(color=BLUE, alpha=0.18, label="95 % interval"),
        marker("D", GREY, "printed in the paper", "white"),
        marker("s", GREY, "no pseudo-decoder, no KD (ours filled): another network", GREY),
    ]
