"""The figures of what goes on inside students: of a table's arms, or of one trial by its files."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cmkd.report.diagnostics import GateView, GraphView, gate_view, graph_view
from cmkd.report.figures.style import BLUE, GREY, LARGE, NORMAL, SMALL, WIDTH, plain, style
from cmkd.report.predictions import FILE, Predictions, parse_inside, parse_predictions

COLOURS = "cividis"
"""From dark to light in even steps, in grey print and to colour-blind eyes too."""
MOST_NAMES = 30
"""Classes whose names fit beside a matrix."""
DOTS = 100
"""Per inch, of the pictures of one trial."""


def draw_gates(title: str, views: Sequence[GateView]) -> Figure:
    """Per view: the motion of its clips, and below it the gate's weights of every arm."""
    heights = [0.75 + 0.72 * (1 + len(view.alpha)) for view in views]
    figure = Figure(figsize=(WIDTH, 0.8 + sum(heights)))
    figure.set_layout_engine("constrained", w_pad=0.04, h_pad=0.03)
    parts = figure.subfigures(len(views), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, view in zip(parts, views, strict=True):
        _draw_gate(part, view)
    figure.suptitle(plain(title), fontsize=LARGE, fontweight="bold")
    most = max(len(by_seed) for view in views for by_seed in view.alpha.values())
    mean = "weight α, mean over seeds" if most > 1 else "weight α"
    handles = [
        Patch(color=GREY, alpha=0.5, label="mean length of the motion vectors (pixels)"),
        Line2D([], [], color=BLUE, marker="o", ms=3, lw=1.6, label=mean),
        *([Line2D([], [], color=BLUE, lw=0.6, alpha=0.6, label="one seed")] if most > 1 else []),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=SMALL
    )
    return figure


def _draw_gate(part: SubFigure, view: GateView) -> None:
    arms = list(view.alpha)
    panels = part.subplots(
        1 + len(arms), len(view.labels), sharex=True, sharey="row", squeeze=False
    )
    # Arms are compared with one another, whatever line they stand on.
    for line in panels[2:]:
        line[0].sharey(panels[1, 0])
    frames = np.arange(1, view.motion.shape[1] + 1)
    for axes, label, motion in zip(panels[0], view.labels, view.motion, strict=True):
        axes.bar(frames, motion, width=0.9, color=GREY, alpha=0.5)
        axes.set_title(plain(textwrap.shorten(label, 24)), fontsize=NORMAL)
    for line, arm in zip(panels[1:], arms, strict=True):
        for axes, by_seed in zip(line, np.moveaxis(view.alpha[arm], 1, 0), strict=True):
            if len(by_seed) > 1:
                axes.plot(frames, by_seed.T, color=BLUE, linewidth=0.6, alpha=0.6)
            axes.plot(frames, by_seed.mean(axis=0), "o-", color=BLUE, ms=2.5, linewidth=1.6)
    for line, name in zip(panels, ["motion", *arms], strict=True):
        known = view.follows.get(name)
        follows = f"\n{_correlation_text(known)}" if known is not None else ""
        line[0].set_ylabel(plain(textwrap.fill(name, 14)) + follows, fontsize=SMALL)
        for axes in line:
            axes.tick_params(labelsize=SMALL)
            style(axes, grid="y")
    for axes in panels[-1]:
        axes.set_xlabel("frame", fontsize=SMALL)
    if view.name:
        part.suptitle(plain(view.name), fontsize=NORMAL, fontweight="bold")


def draw_graphs(title: str, views: Sequence[GraphView]) -> Figure:
    """Per view: a line of maps for each graph, all on one scale; light is far apart."""
    across = max(len(view.columns) for view in views)
    side = min(1.6, (WIDTH - 1.9) / across)
    downs = [len(next(iter(view.columns.values()))) for view in views]
    heights = [0.9 + (side + 0.3) * down for down in downs]
    figure = Figure(figsize=(1.9 + side * max(across, 3), 0.4 + sum(heights)))
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, rect=(0, 0, 0.96, 1))
    parts = figure.subfigures(len(views), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, view in zip(parts, views, strict=True):
        _draw_graphs(part, view)
    figure.suptitle(plain(title), fontsize=LARGE, fontweight="bold")
    return figure


def _draw_graphs(part: SubFigure, view: GraphView) -> None:
    numbers = list(next(iter(view.columns.values())))
    panels = part.subplots(len(numbers), len(view.columns), squeeze=False)
    for name, axes in zip(view.columns, panels[0], strict=True):
        axes.annotate(
            plain(textwrap.fill(name, 16)),
            (0.5, 1.14),
            xycoords="axes fraction",
            ha="center",
            va="bottom",
            fontsize=NORMAL,
        )
    for line, number in zip(panels, numbers, strict=True):
        maps = {name: graphs[number] for name, graphs in view.columns.items()}
        most = max(float(edges.max()) for edges in maps.values()) or 1.0
        # The root of a squared edge is the distance: near pairs stay apart.
        scale = PowerNorm(0.5, 0, most)
        for axes, (name, edges) in zip(line, maps.items(), strict=True):
            frames = len(edges)
            shown = axes.imshow(
                edges, norm=scale, cmap=COLOURS, extent=(0.5, frames + 0.5, frames + 0.5, 0.5)
            )
            axes.tick_params(labelsize=SMALL, length=2)
            axes.set_xticks([1, frames])
            axes.set_yticks([1, frames])
            like = view.likeness.get(name, {}).get(number)
            # A map far below the scale looks empty; its own largest edge says what it is.
            said = [_most_text(edges), *([_correlation_text(like)] if like is not None else [])]
            axes.set_title(", ".join(said), fontsize=SMALL, pad=3)
        line[0].set_ylabel(f"TG$_{number}$\nframe", fontsize=NORMAL)
        bar = part.colorbar(shown, ax=list(line), aspect=12, pad=0.02)
        ends = [0.0, most / 4, most]
        bar.ax.set_yticks(ends, [f"{end:.2g}" for end in ends], fontsize=SMALL)
    for axes in panels[-1]:
        axes.set_xlabel("frame", fontsize=SMALL)
    where = f"clip {view.clip}, class {view.label}"
    heading = f"{view.name}: {where}" if view.name else where
    part.suptitle(plain(textwrap.shorten(heading, 90)), fontsize=NORMAL, fontweight="bold")


def _most_text(edges: np.ndarray) -> str:
    most = float(edges.max())
    return f"max {most:.2g}" if most == 0 or most >= 0.01 else f"max {most:.0e}"


def _correlation_text(value: float) -> str:
    return f"r = {value:.2f}".replace("-", "\N{MINUS SIGN}")


def draw_confusion(title: str, one: Predictions) -> Figure:
    """What the clips of each class were taken for at the selected epoch, in per cent."""
    shares = _shares(one)
    count = len(one.classes)
    is_named = count <= MOST_NAMES
    side = 0.24 * count + 1.6 if is_named else 5.0
    figure = Figure(figsize=(side + 0.6, side))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    mesh = axes.pcolormesh(shares, vmin=0, vmax=100, cmap="Blues", rasterized=True)
    axes.set_ylim(count, 0)
    axes.set_aspect("equal")
    axes.set_xlabel("class it was taken for", fontsize=NORMAL)
    axes.set_ylabel("class of the clip", fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL, length=0)
    if is_named:
        places = np.arange(count) + 0.5
        names = [plain(textwrap.shorten(name, 18)) for name in one.classes]
        axes.set_xticks(places, names, rotation=90)
        axes.set_yticks(places, names)
    figure.colorbar(mesh, ax=axes, shrink=0.7).ax.tick_params(labelsize=SMALL)
    figure.suptitle(plain(title), fontsize=NORMAL, fontweight="bold")
    return figure


def _shares(one: Predictions) -> np.ndarray:
    index = {name: number for number, name in enumerate(one.classes)}
    count = len(one.classes)
    pairs = np.array([index[label] for label in one.labels]) * count + one.said
    counts = np.bincount(pairs, minlength=count * count).reshape(count, count)
    # A class that occurs as an answer alone has no clips to share.
    shares: np.ndarray = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def pictures_of(files: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """PNGs of one trial, drawn from its files and written into `folder`, which is there.

    ``confusion.png`` comes from ``predictions.csv``, ``gate.png`` and ``graphs.png`` from
    ``inside.json``, the title from ``config.json``; what `files` do not hold is not drawn.

    Raises:
        InputError: a file that is there is not what its name says.
        OSError: `folder` cannot be written to.
    """
    texts = {path.name: path.read_text(encoding="utf-8") for path in files if path.suffix != ".png"}
    name = str(json.loads(texts.get("config.json", "{}")).get("trial_id", "one trial"))
    figures: dict[str, Figure] = {}
    if "predictions.csv" in texts:
        one = parse_predictions(texts["predictions.csv"], name)
        accuracy = 100 * float(one.selected.mean())
        title = f"{name}, selected epoch: {accuracy:.1f} % of {len(one.clips)} clips"
        figures["confusion.png"] = draw_confusion(title, one)
    if FILE in texts:
        clips = parse_inside(texts[FILE], name)
        gate = gate_view("", {"weight α": [clips]})
        if gate is not None:
            figures["gate.png"] = draw_gates(f"{name}: gate", [gate])
        graphs = graph_view("", {"student": [clips]})
        if graphs is not None:
            figures["graphs.png"] = draw_graphs(f"{name}: temporal graphs", [graphs])
    return tuple(_write(figure, folder / end) for end, figure in figures.items())


def _write(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
    path.write_bytes(buffer.getvalue())
    return path
