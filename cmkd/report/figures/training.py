"""The figure of training curves: every arm in a panel of its own, beside its reference."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cmkd.report.figures.style import BLUE, GREY, LARGE, NORMAL, SMALL, WIDTH, plain, style
from cmkd.report.searches import METRICS, Curve
from cmkd.report.tables import Table
from cmkd.report.text import heading

_ACROSS = 5
"""Arms side by side, at most."""
_MOST = 20
"""Lines of seeds in a panel; more hide each other."""


def draw_training(
    table: Table, curves: Mapping[str, Mapping[str, Curve]], references: Mapping[str, str]
) -> Figure:
    """`curves` by metric and arm; `references` maps arms to the arm drawn behind them, if any."""
    arms = [one.arm.name for one in table.measured if one.arm.name in curves["val_acc"]]
    # As many arms on every line, as far as their number allows.
    width = math.ceil(len(arms) / math.ceil(len(arms) / _ACROSS))
    bands = [arms[start : start + width] for start in range(0, len(arms), width)]
    figure = Figure(figsize=(WIDTH, 1.1 + 2.9 * len(bands)))
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.05)
    across = max(map(len, bands))
    panels = figure.subplots(len(bands) * len(METRICS), across, sharey="row", squeeze=False)
    # One scale for all arms, whatever line they stand on.
    for metric_number, (name, label) in enumerate(METRICS.items()):
        lines = panels[metric_number :: len(METRICS)]
        for line, band in zip(lines, bands, strict=True):
            for axes, arm in zip(line, band, strict=False):
                _draw_arm(axes, arm, references.get(arm), curves[name])
                if metric_number == 0:
                    axes.set_title(plain(arm.replace("[", "\n[")), fontsize=NORMAL)
                else:
                    axes.set_xlabel("epoch", fontsize=NORMAL)
            line[0].set_ylabel(label.replace(" (", "\n(", 1), fontsize=NORMAL)
            for axes in line[len(band) :]:
                axes.set_axis_off()
        _share_scale([axes for line in lines for axes in line if axes.axison])
    figure.suptitle(plain(f"{heading(table)}: training"), fontsize=LARGE, fontweight="bold")
    drawn = max(len(curve.per_seed) for curve in curves["val_acc"].values())
    seed = "one seed" if drawn <= _MOST else f"one seed (the first {_MOST})"
    handles = [
        Line2D([], [], color=BLUE, linewidth=1.8, label="mean over seeds"),
        Line2D([], [], color=BLUE, linewidth=0.6, alpha=0.6, label=seed),
        Line2D([], [], color=GREY, linestyle="--", linewidth=1.2, label="control, mean"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=SMALL
    )
    return figure


def _draw_arm(axes: Axes, arm: str, reference: str | None, curves: Mapping[str, Curve]) -> None:
    if arm in curves:
        curve = curves[arm]
        axes.plot(curve.epochs, curve.per_seed[:_MOST].T, color=BLUE, linewidth=0.6, alpha=0.45)
        axes.plot(curve.epochs, curve.per_seed.mean(axis=0), color=BLUE, linewidth=1.8)
    if reference is not None and reference != arm and reference in curves:
        behind = curves[reference]
        mean = behind.per_seed.mean(axis=0)
        axes.plot(behind.epochs, mean, color=GREY, linestyle="--", linewidth=1.2)
    axes.tick_params(labelsize=SMALL)
    style(axes, grid="both")


def _share_scale(panels: list[Axes]) -> None:
    bounds = np.array([axes.get_ylim() for axes in panels])
    for axes in panels:
        axes.set_ylim(bounds[:, 0].min(), bounds[:, 1].max())
