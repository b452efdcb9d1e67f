"""Figures of curves: accuracy along the weights of the losses, and training over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cmkd.report.figures.style import (
    BLUE,
    GREY,
    MANY,
    NORMAL,
    legend,
    legend_room,
    marker,
    panels,
    plain,
    style,
    whole_ticks,
)
from cmkd.report.searches import METRICS, SYMBOLS, Curve, Search, Searches
from cmkd.report.tables import Score, Table

DECADE = 1.0
"""Distance of the weight 0 from the least positive one on the log axis, in decades."""
_ACROSS = 5
"""Arms side by side, at most."""
MOST_LINES = 20
"""Lines of seeds in a panel; more hide each other."""


def draw_searches(table: Table, found: Searches) -> Figure:
    """One line of panels per weight: ours, and each printed column on an axis of its own.

    The weights lie on a logarithmic axis, on which 0 has a place behind a break.
    """
    symbols = [symbol for symbol in SYMBOLS if symbol in found.ours]
    columns = list(found.printed)
    handles = [
        marker("D", BLUE, "mean over seeds"),
        marker("o", BLUE, "one seed"),
        Patch(color=BLUE, alpha=0.18, label="95 % interval"),
        marker("D", GREY, "printed in the paper", "white"),
        marker("s", GREY, "no pseudo-decoder, no KD (ours filled)"),
    ]
    figure, grid = panels(
        [1.6] * len(symbols),
        [2.2, *(1 for _ in columns)],
        left=0.6,
        bottom=0.5 + legend_room(len(handles)),
        top=0.55,
        gap=(0.42, 0.5),
        sharey="col",
    )
    for (ours, *paper), symbol in zip(grid, symbols, strict=True):
        search = found.ours[symbol]
        _draw_ours(ours, search, found.plain if symbol == SYMBOLS[0] else None)
        _finish(ours, symbol, search)
        ours.set_ylabel(plain(f"accuracy on {table.evidence.data} (%)"), fontsize=NORMAL)
        for axes, column in zip(paper, columns, strict=True):
            printed = found.printed[column].get(symbol)
            if printed is None:
                axes.set_axis_off()
                continue
            values = [value for _, value in printed.points]
            _line(axes, printed, values, colour=GREY, face="white")
            without = found.printed_plain.get(column)
            if symbol == SYMBOLS[0] and without is not None:
                axes.plot(_zero(printed) - 0.2, without, "s", color=GREY, mfc="white", ms=5)
            _finish(axes, symbol, printed)
    grid[0][0].set_title("measured here", fontsize=NORMAL)
    for axes, column in zip(grid[0][1:], columns, strict=True):
        axes.set_title(plain(f"paper,\n{column}"), fontsize=NORMAL)
    legend(figure, handles)
    return figure


def _zero(search: Search[Any]) -> float:
    return min(math.log10(weight) for weight, _ in search.points if weight > 0) - DECADE


def _places(search: Search[Any], weights: Sequence[float]) -> list[float]:
    return [math.log10(weight) if weight > 0 else _zero(search) for weight in weights]


def _draw_ours(axes: Axes, search: Search[Score], without: Score | None) -> None:
    places = _places(search, [weight for weight, _ in search.points])
    scores = [score for _, score in search.points]
    ends = [(s.interval.low, s.interval.high) if s.interval else (math.nan,) * 2 for s in scores]
    low, high = zip(*ends, strict=True)
    axes.fill_between(places, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.vlines(places, low, high, color=BLUE, linewidth=1.2)
    _line(axes, search, [fmean(score.per_seed) for score in scores], colour=BLUE, face=BLUE)
    for place, score in zip(places, scores, strict=True):
        _draw_seeds(axes, place, score, BLUE)
    if without is not None:
        place = _zero(search) - 0.2
        if without.interval is not None:
            axes.vlines(place, without.interval.low, without.interval.high, color=GREY)
        axes.plot(place, fmean(without.per_seed), "s", color=GREY, markersize=5)
        _draw_seeds(axes, place, without, GREY)


def _draw_seeds(axes: Axes, place: float, score: Score, colour: str) -> None:
    beside = [place + 0.09] * len(score.per_seed)
    many = len(beside) > MANY
    axes.plot(beside, score.per_seed, "o", color=colour, alpha=0.6, ms=3, mew=0, rasterized=many)


def _line(
    axes: Axes, search: Search[Any], values: Sequence[float], *, colour: str, face: str
) -> None:
    """A line through all points, dashed where it crosses the break."""
    places = _places(search, [weight for weight, _ in search.points])
    first = 1 if search.points[0][0] == 0 else 0
    axes.plot(places[first:], values[first:], "-", color=colour, linewidth=1.4)
    axes.plot(places[: first + 1], values[: first + 1], "--", color=colour, linewidth=1.0)
    axes.plot(places, values, "D", color=colour, markerfacecolor=face, markersize=5, zorder=3)


def _finish(axes: Axes, symbol: str, search: Search[Any]) -> None:
    """Ticks at the weights that were tried, and the break before the least positive one."""
    weights = [0.0, *(weight for weight, _ in search.points if weight > 0)]
    places = _places(search, weights)
    axes.set_xticks(places, [f"{weight:g}" for weight in weights])
    axes.set_xlim(places[0] - 0.5, places[-1] + 0.35)
    style(axes, grid="y")
    held = SYMBOLS[1] if symbol == SYMBOLS[0] else SYMBOLS[0]
    axes.set_xlabel(f"{symbol}, at {held} = {search.held:g}", fontsize=NORMAL)
    axes.text(
        places[0] + DECADE / 2,
        0,
        "//",
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="center",
        fontsize=NORMAL,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )


def draw_training(
    table: Table, curves: Mapping[str, Mapping[str, Curve]], references: Mapping[str, str]
) -> Figure:
    """Validation accuracy and training loss of every arm, each beside its reference.

    Args:
        curves: by metric and arm.
        references: arm -> the arm drawn behind it.
    """
    arms = [
        measured.arm.name for measured in table.measured if measured.arm.name in curves["val_acc"]
    ]
    # As many arms on every line, as far as their number allows.
    across = math.ceil(len(arms) / math.ceil(len(arms) / _ACROSS))
    bands = [arms[start : start + across] for start in range(0, len(arms), across)]
    most = max(len(curve.per_seed) for curve in curves["val_acc"].values())
    handles = [
        Line2D([], [], color=BLUE, linewidth=1.8, label="mean over seeds"),
        Line2D([], [], color=BLUE, linewidth=0.6, alpha=0.6, label="one seed"),
        Line2D([], [], color=GREY, linestyle="--", linewidth=1.2, label="control, mean"),
    ]
    if most > MOST_LINES:
        handles[1].set_label(f"one seed (the first {MOST_LINES})")
    figure, grid = panels(
        [1.1] * (len(METRICS) * len(bands)),
        [1] * across,
        left=0.65,
        bottom=0.5 + legend_room(len(handles)),
        top=0.55,
        gap=(0.12, 0.8 if len(bands) > 1 else 0.4),
        sharex=True,
    )
    for number, (name, label) in enumerate(METRICS.items()):
        shown = []
        for band, line in zip(bands, grid[number :: len(METRICS)], strict=True):
            for axes, arm in zip(line, band, strict=False):
                _draw_arm(axes, arm, references.get(arm), curves[name])
                shown.append(axes)
                axes.tick_params(labelleft=axes is line[0], labelbottom=True)
                if number == 0:
                    axes.set_title(plain(arm.replace("[", "\n[")), fontsize=NORMAL)
                else:
                    axes.set_xlabel("epoch", fontsize=NORMAL)
            line[0].set_ylabel(label.replace(" ", "\n", 1), fontsize=NORMAL)
            for axes in line[len(band) :]:
                axes.set_axis_off()
        # One scale for all arms, whatever line they stand on.
        ends = [axes.get_ylim() for axes in shown]
        for axes in shown:
            axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    legend(figure, handles)
    return figure


def _draw_arm(axes: Axes, arm: str, reference: str | None, curves: Mapping[str, Curve]) -> None:
    if arm in curves:
        curve = curves[arm]
        axes.plot(curve.epochs, curve.per_seed[:MOST_LINES].T, color=BLUE, lw=0.6, alpha=0.45)
        axes.plot(curve.epochs, curve.per_seed.mean(axis=0), color=BLUE, linewidth=1.8)
    if reference is not None and reference != arm and reference in curves:
        behind = curves[reference]
        mean = behind.per_seed.mean(axis=0)
        axes.plot(behind.epochs, mean, color=GREY, linestyle="--", linewidth=1.2)
    whole_ticks(axes)
    style(axes, grid="both")
