"""Style of all figures: colours, sizes, axes at fixed places, kinds of plots, and saving."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure as Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cmkd.stats import Interval

# Okabe and Ito's palette: told apart with any common colour vision, and by marker in grey print.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
GREY = "#666666"

WIDTH = 7.2
"""Inches between the margins of a page, so that a printed letter is as large as stated."""
SMALL, NORMAL = 7.0, 8.0
"""Letters in points."""
DOTS = 150
"""Of a PNG, per inch."""
MANY = 100
"""From this many points of a kind on they are a picture inside an SVG, to save megabytes."""
MOST_LINES = 20
"""Lines of seeds in a panel; more hide each other."""
MINUS = "\N{MINUS SIGN}"


def panels(
    heights: Sequence[float],
    widths: Sequence[float],
    *,
    left: float,
    bottom: float,
    top: float = 0.5,
    right: float = 0.15,
    gap: tuple[float, float] = (0.15, 0.4),
    **share: Any,
) -> tuple[Figure, np.ndarray]:
    """Figure as wide as a page with a grid of axes at fixed places; lengths in inches.

    `widths` are ratios. A layout solver would take half of the drawing time, and differs in the
    last bits from run to run.
    """
    inner = WIDTH - left - right
    height = top + sum(heights) + gap[1] * (len(heights) - 1) + bottom
    figure = Figure(figsize=(WIDTH, height))
    places = {
        "left": left / WIDTH,
        "right": 1 - right / WIDTH,
        "top": 1 - top / height,
        "bottom": bottom / height,
        "wspace": gap[0] * len(widths) / (inner - gap[0] * (len(widths) - 1)),
        "hspace": gap[1] * len(heights) / sum(heights),
        "width_ratios": widths,
        "height_ratios": heights,
    }
    shape = len(heights), len(widths)
    return figure, figure.subplots(*shape, squeeze=False, gridspec_kw=places, **share)


def room(texts: Iterable[str], size: float = SMALL) -> float:
    """Inches that the longest line of `texts` needs beside an axis, with its ticks."""
    longest = max((len(line) for text in texts for line in text.splitlines()), default=0)
    return 0.64 * size * longest / 72 + 0.12


def legend(figure: Figure, handles: Sequence[Any], columns: int = 3, title: str = "") -> None:
    """Legend at the bottom; it needs `legend_room`."""
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=columns,
        frameon=False,
        fontsize=SMALL,
        title=title or None,
        title_fontsize=SMALL,
        borderaxespad=0.2,
    )


def legend_room(count: int, columns: int = 3) -> float:
    """Inches of a legend of `count` entries and a line of title."""
    return 0.28 + 0.16 * math.ceil(count / columns)


def marker(shape: str, colour: str, label: str, face: str | None = None) -> Line2D:
    """Entry of a legend."""
    return Line2D([], [], ls="", marker=shape, color=colour, mfc=face or colour, ms=5, label=label)


def style(axes: Axes, *, grid: Literal["x", "y", "both"]) -> None:
    """A light grid behind the data, small ticks, and no box around it."""
    axes.grid(axis=grid, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)


def whole_ticks(axes: Axes) -> None:
    """Ticks of the x axis at whole numbers alone: epochs, frames."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def is_clear(interval: Interval | None) -> bool:
    """True if an interval of a difference excludes 0."""
    return interval is not None and not interval.low <= 0 <= interval.high


def draw_estimate(
    axes: Axes,
    line: int,
    mean: float,
    interval: Interval | None,
    per_seed: Sequence[float],
    colour: str,
    *,
    text: str = "",
    face: str | None = None,
) -> None:
    """Mean and interval on a horizontal `line`, the seeds below, and `text` above."""
    if interval is not None:
        axes.hlines(line, interval.low, interval.high, color=colour, linewidth=2)
    axes.plot(mean, line, "D", color=colour, mfc=face or colour, markersize=5, zorder=3)
    # Seeds that are equal in the table stand one below the other.
    seen = Counter[float]()
    below = []
    for seed in per_seed:
        shown = round(seed, 1)
        below.append(line + 0.27 + 0.1 * min(seen[shown], 2))
        seen[shown] += 1
    many = len(per_seed) > MANY
    axes.plot(per_seed, below, "o", color=colour, alpha=0.55, ms=3, mew=0, rasterized=many)
    if text:
        axes.annotate(
            text,
            (mean, line),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=SMALL,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
        )


def draw_matrix(
    axes: Axes, shares: np.ndarray, low: float, high: float, *, write: bool = True
) -> QuadMesh:
    """Matrix in whole numbers, its first row on top; blue, or two colours around 0."""
    colours, edges = "PuOr" if low < 0 else "Blues", "white" if write else "none"
    # Without edges, a picture inside an SVG.
    mesh = axes.pcolormesh(
        shares, vmin=low, vmax=high, cmap=colours, edgecolors=edges, lw=0.5, rasterized=not write
    )
    for (row, column), share in np.ndenumerate(shares) if write else ():
        value = round(float(share))
        if value:
            text = f"{value:+d}".replace("-", MINUS) if low < 0 else str(value)
            colour = "white" if abs(share) > 0.6 * high else "black"
            centre = column + 0.5, row + 0.5
            axes.text(*centre, text, ha="center", va="center", fontsize=SMALL, color=colour)
    axes.set_ylim(len(shares), 0)
    axes.tick_params(labelsize=SMALL, length=0)
    axes.spines[:].set_visible(False)
    return mesh


def draw_curves(axes: Axes, x: Sequence[float], per_seed: np.ndarray, marked: str = "-") -> None:
    """Lines of the seeds, Float "S X", and of their mean; `marked` is the format of the mean."""
    if len(per_seed) > 1:
        axes.plot(x, per_seed[:MOST_LINES].T, color=BLUE, linewidth=0.6, alpha=0.45)
    axes.plot(x, per_seed.mean(axis=0), marked, color=BLUE, markersize=2.5, linewidth=1.7)


def note(figure: Figure, text: str) -> None:
    """One small line in the upper left corner."""
    places = 0.06 / figure.get_figwidth(), 1 - 0.05 / figure.get_figheight()
    figure.text(*places, plain(text), color=GREY, fontsize=SMALL, va="top")


_UNDATED = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}


def save(figure: Figure, kind: Literal["svg", "png", "pdf"]) -> bytes:
    """Figure as a file; equal figures give equal bytes with one matplotlib version."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "cmkd"}):
        figure.savefig(buffer, format=kind, dpi=DOTS, metadata=_UNDATED[kind])
    return buffer.getvalue()


_Rgb = UInt8[np.ndarray, "H W 3"]


def render_pictures(
    *,
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[_Rgb]]],
    legend: _Rgb,
    legend_text: str,
) -> bytes:
    """A PNG with a line of equally large pictures per row, each row with its name.

    Equal pictures give equal bytes with one matplotlib version.
    """
    height, width = rows[0][1][0].shape[:2]
    line = 2.2 * height / width + 0.05
    heights = (line * len(rows) + 0.8, 1.2)
    figure = Figure(figsize=(0.9 + 2.2 * len(columns), sum(heights)))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    grid = above.subplots(len(rows), len(columns), squeeze=False)
    for line_of_panels, (name, pictures) in zip(grid, rows, strict=True):
        for axes, picture in zip(line_of_panels, pictures, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        line_of_panels[0].set_ylabel(name, fontsize=8)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(name, fontsize=9)
    above.suptitle(plain(title), fontsize=11, fontweight="bold")
    disc, words = below.subplots(1, 2, width_ratios=[1, 6])
    disc.imshow(legend)
    for axes in (disc, words):
        axes.set_axis_off()
    words.text(0, 0.5, legend_text, fontsize=9, va="center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
