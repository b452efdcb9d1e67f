"""Style of all figures: colours, sizes, axes at fixed places, and saving."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

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


def note(figure: Figure, text: str) -> None:
    """One small line in the upper left corner."""
    places = 0.06 / figure.get_figwidth(), 1 - 0.05 / figure.get_figheight()
    figure.text(*places, plain(text), color=GREY, fontsize=SMALL, va="top")


def save(figure: Figure) -> tuple[bytes, bytes]:
    """SVG and PNG; equal figures give equal bytes with one matplotlib version."""
    svg, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "cmkd"}):
        figure.savefig(svg, format="svg", dpi=DOTS, metadata={"Date": None})
    figure.savefig(png, format="png", dpi=DOTS, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()
