"""Figures of what students do: confusions, gains per class, gate weights, temporal graphs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cmkd.report.confusions import ClassView, Compared
from cmkd.report.diagnostics import GateView, GraphView, gate_view, graph_view
from cmkd.report.figures.style import (
    BLUE,
    GREY,
    MANY,
    NORMAL,
    SMALL,
    VERMILLION,
    legend,
    legend_room,
    marker,
    note,
    panels,
    plain,
    room,
    save,
    style,
    whole_ticks,
)
from cmkd.report.predictions import FILE, Predictions, parse_diagnostics, parse_predictions
from cmkd.report.text import plural

COLOURS = "cividis"
"""From dark to light in even steps, in grey print and to colour-blind eyes too."""
MOST_NAMES = 30
"""Classes whose names fit beside a matrix."""
_LONGEST = 16
"""Letters of a class name on an axis."""
TRUE, PREDICTED = "true class", "predicted class"


def draw_confusions(view: ClassView) -> Figure:
    """Confusion matrix of the reference in per cent, and those of its arms as differences."""
    names, rows = [_name(name) for name in view.said], [_name(name) for name in view.classes]
    down = -(-(1 + len(view.arms)) // 2)
    figure, grid = panels(
        [0.2 * len(rows)] * down,
        [1, 1],
        left=room(rows) + 0.2,
        bottom=room(names) + 0.25,
        gap=(0.2, 0.45),
        sharex=True,
        sharey=True,
    )
    first, *others = grid.flat
    _draw_matrix(first, view.reference_shares, low=0, high=100)
    first.set_title(_title(view.reference, view.reference_seeds, "%"), fontsize=NORMAL)
    changes = [arm.shares - view.reference_shares for arm in view.arms]
    most = max(1.0, *(float(np.abs(change).max()) for change in changes))
    for axes, arm, change in zip(others, view.arms, changes, strict=False):
        _draw_matrix(axes, change, low=-most, high=most)
        against = f"{arm.arm} \N{MINUS SIGN} {view.reference}"
        axes.set_title(_title(against, arm.seeds, "points"), fontsize=NORMAL)
    for axes in others[len(view.arms) :]:
        axes.set_axis_off()
    places = np.arange(len(names)) + 0.5
    for number, axes in enumerate(grid.flat):
        axes.set_xticks(places, names, rotation=90)
        # An empty panel leaves the names of its column to the one above it.
        is_lowest = number in (len(view.arms), len(view.arms) - 1)
        axes.tick_params(labelbottom=is_lowest, labelsize=SMALL, length=0)
        if is_lowest:
            axes.set_xlabel(PREDICTED, fontsize=NORMAL)
    for line in grid:
        line[0].set_yticks(np.arange(len(rows)) + 0.5, rows)
        line[0].set_ylabel(TRUE, fontsize=NORMAL)
    return figure


def _title(arm: str, seeds: int, unit: str) -> str:
    return plain(textwrap.shorten(f"{arm}, {unit} ({plural(seeds, 'seed')})", 60))


def _draw_matrix(axes: Axes, shares: np.ndarray, *, low: float, high: float) -> None:
    colours = "PuOr" if low < 0 else "Blues"
    axes.pcolormesh(shares, vmin=low, vmax=high, cmap=colours, edgecolors="white", linewidth=0.5)
    for (row, column), share in np.ndenumerate(shares):
        value = round(float(share))
        if value:
            text = f"{value:+d}".replace("-", "\N{MINUS SIGN}") if low < 0 else str(value)
            colour = "white" if abs(share) > 0.6 * high else "black"
            centre = column + 0.5, row + 0.5
            axes.text(*centre, text, ha="center", va="center", fontsize=SMALL, color=colour)
    axes.set_ylim(len(shares), 0)
    axes.spines[:].set_visible(False)


def draw_gains(view: ClassView) -> Figure:
    """Accuracy of each class minus that of the reference: mean, 95 % interval, and every seed."""
    clips = [plural(count, "clip") for count in view.clips]
    labels = [f"{_name(name)} ({count})" for name, count in zip(view.classes, clips, strict=True)]
    across = min(4, len(view.arms))
    down = -(-len(view.arms) // across)
    handles = [
        marker("D", BLUE, "mean; 95 % interval holds 0, or none", "white"),
        marker("D", VERMILLION, "95 % interval does not hold 0"),
        marker("o", GREY, "one seed"),
    ]
    figure, grid = panels(
        [0.24 * len(labels)] * down,
        [1] * across,
        left=room(labels),
        bottom=0.35 + legend_room(len(handles)),
        gap=(0.12, 0.55),
        sharex=True,
        sharey=True,
    )
    for axes, arm in zip(grid.flat, view.arms, strict=False):
        _draw_gains(axes, arm)
        axes.set_title(plain(arm.arm.replace("[", "\n[")), fontsize=NORMAL)
        axes.tick_params(labelbottom=True)
    for axes in grid.flat[len(view.arms) :]:
        axes.set_visible(False)
    grid[0][0].set_yticks(range(len(labels)), labels)
    grid[0][0].set_ylim(len(labels) - 0.4, -0.6)
    legend(figure, handles, title=plain(f"class accuracy minus that of {view.reference} (points)"))
    return figure


def _draw_gains(axes: Axes, arm: Compared) -> None:
    axes.axvline(0, color=GREY, linewidth=0.8)
    for place, gain in enumerate(arm.gains):
        if gain.mean is None:
            continue
        span = gain.interval
        is_clear = span is not None and not span.low <= 0 <= span.high
        colour = VERMILLION if is_clear else BLUE
        if span is not None:
            axes.hlines(place, span.low, span.high, color=colour, linewidth=1.5)
        face = colour if is_clear else "white"
        axes.plot(gain.mean, place, "D", color=colour, mfc=face, markersize=4, zorder=3)
    seeds, classes = arm.per_seed.shape
    below = np.tile(np.arange(classes) + 0.27, (seeds, 1)).ravel()
    values, many = arm.per_seed.ravel(), seeds > MANY
    axes.plot(values, below, "o", color=GREY, alpha=0.6, ms=2.5, mew=0, rasterized=many)
    style(axes, grid="both")


def _name(text: str) -> str:
    return plain(
        text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    )


def draw_gates(views: Sequence[GateView]) -> Figure:
    """Per view: the motion of its clips, and below it the gate's weights of every arm."""
    lines = [(view, name) for view in views for name in ("motion", *view.alpha)]
    most = max(len(by_seed) for view in views for by_seed in view.alpha.values())
    handles = [
        Patch(color=GREY, alpha=0.5, label="mean length of the motion vectors (pixels)"),
        Line2D([], [], color=BLUE, marker="o", ms=3, lw=1.6, label="weight α (mean over seeds)"),
        Line2D([], [], color=BLUE, lw=0.6, alpha=0.6, label="one seed"),
    ]
    figure, grid = panels(
        [0.62] * len(lines),
        [1] * max(len(view.labels) for view in views),
        left=1.25,
        bottom=0.4 + legend_room(len(handles)),
        gap=(0.12, 0.28),
        sharey="row",
    )
    for line, (view, name) in zip(grid, lines, strict=True):
        for axes in line[len(view.labels) :]:
            axes.set_axis_off()
        shown = line[: len(view.labels)]
        _draw_gate(shown, view, name)
        known = view.follows.get(name)
        follows = f"\n{_correlation_text(known)}" if known is not None else ""
        line[0].set_ylabel(
            plain(textwrap.fill(name, 16)) + follows,
            fontsize=SMALL,
            rotation=0,
            ha="right",
            va="center",
            labelpad=8,
        )
    for axes in grid[-1]:
        axes.set_xlabel("frame", fontsize=SMALL)
    legend(figure, handles if most > 1 else handles[:2])
    return figure


def _draw_gate(line: Sequence[Axes], view: GateView, name: str) -> None:
    frames = np.arange(1, view.motion.shape[1] + 1)
    if name == "motion":
        for axes, label, motion in zip(line, view.labels, view.motion, strict=True):
            axes.bar(frames, motion, width=0.9, color=GREY, alpha=0.5)
            title = f"{view.name}: {label}" if view.name else label
            axes.set_title(plain(textwrap.shorten(title, 26)), fontsize=SMALL)
    else:
        for axes, by_seed in zip(line, np.moveaxis(view.alpha[name], 1, 0), strict=True):
            if len(by_seed) > 1:
                axes.plot(frames, by_seed.T, color=BLUE, linewidth=0.6, alpha=0.6)
            axes.plot(frames, by_seed.mean(axis=0), "o-", color=BLUE, ms=2.5, linewidth=1.6)
        # Arms are compared with one another, whatever line they stand on.
        line[0].set_ylim(0, 1.05 * max(float(alpha.max()) for alpha in view.alpha.values()))
    for axes in line:
        whole_ticks(axes)
        style(axes, grid="y")


def draw_graphs(views: Sequence[GraphView]) -> Figure:
    """Per view: a line of maps for each graph, all on one scale; light is far apart."""
    across = max(len(view.columns) for view in views)
    side = min(1.3, (6.6 - 0.15 * across) / across - 0.2)
    lines = [(view, number) for view in views for number in next(iter(view.columns.values()))]
    figure, grid = panels(
        [side] * len(lines),
        [*[side] * across, 0.09],
        left=0.55,
        bottom=0.4,
        top=0.75,
        right=max(0.45, 6.5 - across * (side + 0.2) - 0.1),
        gap=(0.2, 0.6),
    )
    for line, (view, number) in zip(grid, lines, strict=True):
        maps = {name: graphs[number] for name, graphs in view.columns.items()}
        most = max(float(edges.max()) for edges in maps.values()) or 1.0
        # The root of a squared edge is the distance: near pairs stay apart.
        scale = PowerNorm(0.5, 0, most)
        for axes, (name, edges) in zip(line, maps.items(), strict=False):
            end = len(edges) + 0.5
            shown = axes.imshow(edges, norm=scale, cmap=COLOURS, extent=(0.5, end, end, 0.5))
            axes.tick_params(labelsize=SMALL, length=2)
            axes.set_xticks([1, len(edges)])
            axes.set_yticks([1, len(edges)])
            like = view.likeness.get(name, {}).get(number)
            # A map far below the scale looks empty; its own largest edge says what it is.
            said = [_most_text(edges), *([_correlation_text(like)] if like is not None else [])]
            whose = [textwrap.shorten(name, 18)] if number == next(iter(view.columns[name])) else []
            axes.set_title(plain("\n".join([*whose, ", ".join(said)])), fontsize=SMALL, pad=3)
        for axes in line[len(maps) : -1]:
            axes.set_axis_off()
        where = f"{view.name}\n" if view.name else ""
        line[0].set_ylabel(f"{where}TG$_{number}$, frame", fontsize=SMALL)
        bar = figure.colorbar(shown, cax=line[-1])
        ends = [0.0, most / 4, most]
        bar.ax.set_yticks(ends, [f"{end:.2g}" for end in ends], fontsize=SMALL)
    for axes in grid[-1][:-1]:
        axes.set_xlabel("frame", fontsize=SMALL)
    return figure


def _most_text(edges: np.ndarray) -> str:
    most = float(edges.max())
    return f"max {most:.2g}" if most == 0 or most >= 0.01 else f"max {most:.0e}"


def _correlation_text(value: float) -> str:
    return f"r = {value:.2f}".replace("-", "\N{MINUS SIGN}")


def draw_confusion(one: Predictions) -> Figure:
    """Confusion matrix of one trial at the selected epoch, in per cent."""
    index = {name: number for number, name in enumerate(one.classes)}
    count = len(index)
    pairs = np.array([index[label] for label in one.labels]) * count + one.said
    counts = np.bincount(pairs, minlength=count * count).reshape(count, count)
    # A class that occurs as an answer alone has no clips to share.
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [_name(name) for name in one.classes] if count <= MOST_NAMES else []
    side = min(5.0, max(1.5, 0.24 * count))
    left = room(names) + 0.3
    figure, ((axes, bar),) = panels(
        [side], [side, 0.1], left=left, bottom=left, right=max(0.4, 6.7 - left - side), gap=(0.1, 0)
    )
    mesh = axes.pcolormesh(shares, vmin=0, vmax=100, cmap="Blues", rasterized=True)
    axes.set_ylim(count, 0)
    axes.set_xlabel(PREDICTED, fontsize=NORMAL)
    axes.set_ylabel(TRUE, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL, length=0)
    if names:
        places = np.arange(count) + 0.5
        axes.set_xticks(places, names, rotation=90)
        axes.set_yticks(places, names)
    figure.colorbar(mesh, cax=bar).ax.tick_params(labelsize=SMALL)
    return figure


def pictures_of(files: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """PNGs of one trial, drawn from its files and written into `folder`, which is there.

    ``confusion.png`` comes from ``predictions.csv``, ``gate.png`` and ``graphs.png`` from
    ``inside.json``, the trial's id from ``config.json``; what `files` do not hold is not drawn.

    Raises:
        InputError: a file that is there is not what its name says.
        OSError: `folder` cannot be written to.
    """
    texts = {
        path.name: path.read_text(encoding="utf-8")
        for path in files
        if path.suffix in (".csv", ".json")
    }
    trial = str(json.loads(texts.get("config.json", "{}")).get("trial_id", "one trial"))
    figures: dict[str, tuple[Figure, str]] = {}
    if "predictions.csv" in texts:
        one = parse_predictions(texts["predictions.csv"], trial)
        accuracy = 100 * float(one.selected.mean())
        about = f"selected epoch, {accuracy:.1f} % of {len(one.clips)} clips"
        figures["confusion.png"] = draw_confusion(one), about
    if FILE in texts:
        clips = parse_diagnostics(texts[FILE], trial)
        gate, graphs = gate_view("", {"weight α": [clips]}), graph_view("", {"student": [clips]})
        if gate is not None:
            figures["gate.png"] = draw_gates([gate]), "gate"
        if graphs is not None:
            figures["graphs.png"] = draw_graphs([graphs]), f"temporal graphs, {graphs.clip}"
    return tuple(_write(folder / name, trial, drawn) for name, drawn in figures.items())


def _write(path: Path, trial: str, drawn: tuple[Figure, str]) -> Path:
    figure, about = drawn
    note(figure, f"{trial}: {about}")
    path.write_bytes(save(figure)[1])
    return path
