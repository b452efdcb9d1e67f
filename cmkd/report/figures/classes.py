"""The figures of classes: confusion matrices, and the gain of every class over the reference."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cmkd.report.confusions import ClassView, Compared
from cmkd.report.figures.style import (
    BLUE,
    GREY,
    LARGE,
    MANY,
    NORMAL,
    SMALL,
    VERMILLION,
    WIDTH,
    plain,
    style,
)
from cmkd.report.tables import Table
from cmkd.report.text import heading, plural

_ACROSS, _PANELS = 2, 4
"""Matrices, and panels of gains, side by side."""
_LONGEST = 16
"""Letters of a class name on an axis."""


def draw_confusions(table: Table, view: ClassView) -> Figure:
    """The matrix of the reference in per cent, and those of its arms as differences in points."""
    down = -(-(1 + len(view.arms)) // _ACROSS)
    side = 0.9 + 0.24 * len(view.classes)
    figure = Figure(figsize=(WIDTH, 1.2 + side * down))
    figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.06)
    panels = figure.subplots(down, _ACROSS, sharex=True, sharey=True, squeeze=False)
    first, *others = panels.flat
    _draw_matrix(first, view.reference_shares, low=0, high=100, colours="Blues")
    first.set_title(_title(view.reference, view.reference_seeds, "%"), fontsize=NORMAL)
    differences = [one.shares - view.reference_shares for one in view.arms]
    most = max(1.0, *(float(np.abs(one).max()) for one in differences))
    for axes, one, difference in zip(others, view.arms, differences, strict=False):
        _draw_matrix(axes, difference, low=-most, high=most, colours="PuOr")
        against = f"{one.arm} \N{MINUS SIGN} {view.reference}"
        axes.set_title(_title(against, one.seeds, "points"), fontsize=NORMAL)
    places, names = np.arange(len(view.said)) + 0.5, [_name(one) for one in view.said]
    for axes in panels[-1]:
        axes.set_xticks(places, names, rotation=90)
    for axes in others[len(view.arms) :]:
        _name_above(axes, places, names)
    for line in panels:
        line[0].set_yticks(np.arange(len(view.classes)) + 0.5, [_name(one) for one in view.classes])
        line[0].set_ylabel("class of the clip", fontsize=NORMAL)
    figure.supxlabel("class it was taken for", fontsize=NORMAL)
    title = f"{heading(table)}: what clips are taken for"
    figure.suptitle(plain(title), fontsize=LARGE, fontweight="bold")
    return figure


def _name_above(axes: Axes, places: np.ndarray, names: Sequence[str]) -> None:
    """Names of the columns above, in a panel that is empty: beneath them they would part lines."""
    axes.set_axis_off()
    for place, name in zip(places, names, strict=True):
        axes.text(
            place,
            1,
            name,
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="center",
            va="top",
            fontsize=SMALL,
        )


def _title(arm: str, seeds: int, unit: str) -> str:
    return plain(textwrap.fill(f"{arm}, {unit} ({plural(seeds, 'seed')})", 46))


def _draw_matrix(axes: Axes, shares: np.ndarray, *, low: float, high: float, colours: str) -> None:
    axes.pcolormesh(shares, vmin=low, vmax=high, cmap=colours, edgecolors="white", linewidth=0.5)
    for (row, column), share in np.ndenumerate(shares):
        value = round(float(share))
        if value:
            signed = f"{value:+d}".replace("-", "\N{MINUS SIGN}") if low < 0 else str(value)
            dark = abs(share) > 0.6 * high
            axes.text(
                column + 0.5,
                row + 0.5,
                signed,
                ha="center",
                va="center",
                fontsize=SMALL,
                color="white" if dark else "black",
            )
    axes.set_ylim(len(shares), 0)
    axes.tick_params(labelsize=SMALL, length=0)
    axes.spines[:].set_visible(False)


def draw_gains(table: Table, view: ClassView) -> Figure:
    """Each class's accuracy minus that of the reference: mean, 95 % interval, and every seed."""
    across = min(_PANELS, len(view.arms))
    down = -(-len(view.arms) // across)
    figure = Figure(figsize=(WIDTH, 1.2 + down * (0.5 + 0.27 * len(view.classes))))
    figure.set_layout_engine("constrained", w_pad=0.04, h_pad=0.05)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes, one in zip(panels.flat, view.arms, strict=False):
        _draw_gains(axes, one)
        axes.set_title(plain(one.arm.replace("[", "\n[")), fontsize=NORMAL)
    for axes in panels.flat[len(view.arms) :]:
        axes.set_visible(False)
    for axes in panels.flat[: len(view.arms)][-across:]:
        axes.tick_params(labelbottom=True)
    clips = [plural(count, "clip") for count in view.clips]
    labels = [f"{_name(name)} ({count})" for name, count in zip(view.classes, clips, strict=True)]
    panels[0][0].set_yticks(range(len(labels)), labels)
    panels[0][0].set_ylim(len(labels) - 0.4, -0.6)
    title = f"{heading(table)}: gain of every class"
    figure.suptitle(plain(title), fontsize=LARGE, fontweight="bold")
    figure.legend(
        handles=[
            _marker("D", BLUE, "mean over seeds; 95 % interval, if any, holds 0", "white"),
            _marker("D", VERMILLION, "interval does not hold 0", VERMILLION),
            _marker("o", GREY, "one seed", GREY),
        ],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=SMALL,
        title=plain(f"accuracy on the clips of a class minus that of {view.reference} (points)"),
        title_fontsize=NORMAL,
    )
    return figure


def _draw_gains(axes: Axes, one: Compared) -> None:
    axes.axvline(0, color=GREY, linewidth=0.8)
    for place, gain in enumerate(one.gains):
        if gain.mean is None:
            continue
        span = gain.interval
        is_clear = span is not None and not span.low <= 0 <= span.high
        colour = VERMILLION if is_clear else BLUE
        if span is not None:
            axes.hlines(place, span.low, span.high, color=colour, linewidth=1.5)
        face = colour if is_clear else "white"
        axes.plot(gain.mean, place, "D", color=colour, mfc=face, markersize=5, zorder=3)
    seeds, classes = one.per_seed.shape
    below = np.tile(np.arange(classes) + 0.27, (seeds, 1))
    axes.plot(
        one.per_seed.ravel(),
        below.ravel(),
        "o",
        color=GREY,
        alpha=0.6,
        ms=2.5,
        mew=0,
        rasterized=seeds > MANY,
    )
    axes.tick_params(labelsize=SMALL)
    style(axes, grid="both")


def _marker(shape: str, colour: str, label: str, face: str) -> Line2D:
    return Line2D([], [], ls="", marker=shape, color=colour, mfc=face, ms=5, label=label)


def _name(text: str) -> str:
    return plain(
        text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    )
