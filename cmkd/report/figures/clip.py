"""The figure of a clip: a table of pictures with a legend."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

_Rgb = UInt8[np.ndarray, "H W 3"]
_INCHES = 2.2
"""Width of a picture; the others are the room for row names, title and legend."""
_SIDE, _HEAD, _FOOT = 0.9, 0.8, 1.2


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
    line = _INCHES * height / width + 0.05
    heights = (line * len(rows) + _HEAD, _FOOT)
    figure = Figure(figsize=(_SIDE + _INCHES * len(columns), sum(heights)))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    panels = above.subplots(len(rows), len(columns), squeeze=False)
    for line_of_panels, (name, pictures) in zip(panels, rows, strict=True):
        for axes, picture in zip(line_of_panels, pictures, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        line_of_panels[0].set_ylabel(name, fontsize=8)
    for axes, name in zip(panels[0], columns, strict=True):
        axes.set_title(name, fontsize=9)
    above.suptitle(title.replace("$", r"\$"), fontsize=11, fontweight="bold")
    disc, words = below.subplots(1, 2, width_ratios=[1, 6])
    disc.imshow(legend)
    for axes in (disc, words):
        axes.set_axis_off()
    words.text(0, 0.5, legend_text, fontsize=9, va="center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
