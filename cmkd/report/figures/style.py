"""What all figures share: colours that any eye tells apart, sizes for print, and saving."""

from __future__ import annotations

import io
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure

# Okabe and Ito's palette: told apart with any common colour vision, and by marker in grey print.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
GREY = "#666666"

WIDTH = 7.2
"""Inches between the margins of a page, so that a printed letter is as large as stated."""
SMALL, NORMAL, LARGE = 7.0, 8.0, 10.0
"""Letters in points."""


DOTS = 150
"""Of a PNG, per inch."""
MANY = 100
"""Points of a kind from which on they are a picture in an SVG too, which else takes megabytes."""


def style(axes: Axes, *, grid: Literal["x", "y", "both"]) -> None:
    """A light grid behind the data, and no box around it."""
    axes.grid(axis=grid, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def save(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """The picture; equal figures give equal bytes with one matplotlib version."""
    engine = figure.get_layout_engine()
    if engine is not None:
        # Here for both kinds: left in place it would be run again, twice for each. At the dots of
        # the PNG, since the width of letters depends on them.
        figure.set_dpi(DOTS)
        engine.execute(figure)
        figure.set_layout_engine(None)
        # Its solver may differ in the last bit from run to run, and an SVG names clips by all bits.
        for axes in figure.axes:
            bounds = axes.get_position(original=True).bounds
            axes.set_position(tuple(round(one, 9) for one in bounds))
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "cmkd"}):
        figure.savefig(buffer, format=kind, dpi=DOTS, metadata=metadata)
    return buffer.getvalue()
