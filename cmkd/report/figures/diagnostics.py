"""Figures of gates over motion, and of temporal graphs, from what trials keep of single clips."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cmkd.errors import InfrastructureError
from cmkd.report.arms import FAMILIES
from cmkd.report.comparisons import factorial_arms
from cmkd.report.evidence import Trial, trials_of
from cmkd.report.figures.style import (
    BLUE,
    GREY,
    MINUS,
    SMALL,
    draw_curves,
    legend,
    legend_room,
    panels,
    plain,
    style,
    whole_ticks,
)
from cmkd.report.predictions import FILE, ClipDiagnostics, Graphs, as_graphs, parse_diagnostics
from cmkd.report.tables import Table
from cmkd.tracking.reader import RunReader

GATE_CLIPS = 4
"""Clips side by side."""
MOST_SEEDS = 5
"""Read of every arm; a figure shows no more."""
TEACHER = "teacher"

Key = TypeVar("Key")
RunDiagnostics = tuple[ClipDiagnostics, ...]
Runs = Mapping[str, Sequence[RunDiagnostics]]
"""By arm, one `RunDiagnostics` per seed; all of the same clips."""


def diagnostics_of(table: Table) -> dict[str, Runs]:
    """By family, what trials of control, spatial, temporal and both keep of the first fold.

    A family whose trials keep nothing is left out.
    """
    found: dict[str, Runs] = {}
    for family in FAMILIES:
        runs = {}
        for arm in factorial_arms(table.evidence, family).values():
            trials = trials_of(table.evidence, arm)
            first = [trial for trial in trials if trial.fold == table.evidence.folds[0]]
            runs[arm.name] = [_read(table.store, trial) for trial in first[:MOST_SEEDS]]
        if kept := same_clips(runs):
            found[f"{family} family"] = kept
    return found


def _read(store: RunReader | None, trial: Trial) -> RunDiagnostics:
    """Diagnostics of a trial; none of students without a decoder.

    Raises:
        InputError: the file is damaged.
        InfrastructureError: the store does not answer.
    """
    if store is None:
        return ()
    try:
        text = store.read_text(trial.run_id, FILE)
    except InfrastructureError:
        # Raises if the store is down; otherwise there is no such file.
        store.find({"trial_id": trial.trial_id})
        return ()
    return parse_diagnostics(text, f"run {trial.run_id}")


def same_clips(runs: Runs) -> dict[str, list[RunDiagnostics]]:
    """The trials that kept the same clips as the first one; arms without any are left out."""

    def places(clips: RunDiagnostics) -> list[tuple[str, int]]:
        return [(clip.clip, len(clip.motion)) for clip in clips]

    first = next((places(clips) for seeds in runs.values() for clips in seeds if clips), None)
    found: dict[str, list[RunDiagnostics]] = {}
    for arm, seeds in runs.items():
        if kept := [clips for clips in seeds if places(clips) == first]:
            found[arm] = kept
    return found


def gated(runs: Runs) -> dict[str, np.ndarray]:
    """By arm, the weights of the gate, Float "S C T"; arms without a gate are left out."""
    with_gate = {
        arm: [clips for clips in seeds if all(clip.alpha is not None for clip in clips)]
        for arm, seeds in runs.items()
    }
    return {
        arm: np.array([[clip.alpha for clip in clips] for clips in seeds], float)
        for arm, seeds in same_clips(with_gate).items()
    }


def gate_correlations(runs: Runs) -> dict[str, float]:
    """By arm, the correlation of weight and motion over frames, mean over clips and seeds."""
    motion = [np.array(clip.motion) for clip in _first(runs)]
    found = {
        arm: _mean_correlation(
            (own, moved) for seed in alpha for own, moved in zip(seed, motion, strict=True)
        )
        for arm, alpha in gated(runs).items()
    }
    return _known(found)


def teacher_graphs(runs: Runs) -> list[Graphs]:
    """Graphs of the RGB teacher by clip; [] where no trial knows them."""
    taught = [clips for seeds in runs.values() for clips in seeds if clips[0].teacher is not None]
    return [as_graphs(clip.teacher or {}) for clip in taught[0]] if taught else []


def graph_correlations(runs: Runs) -> dict[str, dict[int, float]]:
    """By student and graph, the correlation of its edges with the teacher's.

    Over all pairs of frames; mean over clips and seeds.
    """
    teacher = teacher_graphs(runs)

    def correlations(seeds: Sequence[RunDiagnostics], number: int) -> float | None:
        return _mean_correlation(
            (_pairs(np.array(clip.student[number])), _pairs(theirs[number]))
            for clips in seeds
            for clip, theirs in zip(clips, teacher, strict=True)
        )

    numbers = list(teacher[0]) if teacher else []
    return {
        arm: _known({number: correlations(seeds, number) for number in numbers})
        for arm, seeds in runs.items()
    }


def draw_gates(families: Mapping[str, Runs]) -> Figure:
    """Per family: the motion of its clips, and below it the gate's weights of every arm."""
    weights = {family: gated(runs) for family, runs in families.items()}
    lines = [(family, name) for family, arms in weights.items() for name in ("motion", *arms)]
    across = min(GATE_CLIPS, max(len(_first(runs)) for runs in families.values()))
    handles = [
        Patch(color=GREY, alpha=0.5, label="mean length of the motion vectors (pixels)"),
        Line2D([], [], color=BLUE, marker="o", ms=3, lw=1.6, label="weight α (mean over seeds)"),
        Line2D([], [], color=BLUE, lw=0.6, alpha=0.6, label="one seed"),
    ]
    figure, grid = panels(
        [0.62] * len(lines),
        [1] * across,
        left=1.25,
        bottom=0.4 + legend_room(len(handles)),
        gap=(0.12, 0.28),
        sharey="row",
    )
    for line, (family, name) in zip(grid, lines, strict=True):
        clips = _first(families[family])[:GATE_CLIPS]
        for axes in line[len(clips) :]:
            axes.set_axis_off()
        for number, (axes, clip) in enumerate(zip(line, clips, strict=False)):
            frames = range(1, len(clip.motion) + 1)
            if name == "motion":
                axes.bar(frames, clip.motion, width=0.9, color=GREY, alpha=0.5)
                title = ": ".join(filter(None, (family, clip.label)))
                axes.set_title(plain(textwrap.shorten(title, 26)), fontsize=SMALL)
            else:
                draw_curves(axes, frames, weights[family][name][:, number], "o-")
            whole_ticks(axes)
            style(axes, grid="y")
        if name != "motion":
            # Arms are compared with one another, whatever line they stand on.
            line[0].set_ylim(0, 1.05 * max(float(a.max()) for a in weights[family].values()))
        _name_line(line[0], name, gate_correlations(families[family]).get(name))
    for axes in grid[-1]:
        axes.set_xlabel("frame", fontsize=SMALL)
    has_seeds = any(len(alpha) > 1 for arms in weights.values() for alpha in arms.values())
    legend(figure, handles if has_seeds else handles[:2])
    return figure


def _name_line(axes: Axes, name: str, correlation: float | None) -> None:
    text = plain(textwrap.fill(name, 16))
    text += f"\n{_correlation_text(correlation)}" if correlation is not None else ""
    axes.set_ylabel(text, fontsize=SMALL, rotation=0, ha="right", va="center", labelpad=8)


def draw_graphs(families: Mapping[str, Runs]) -> Figure:
    """Per family: a line of maps for each graph of the first clip, on one scale; light is far."""
    columns: dict[str, dict[str, Graphs]] = {}
    for family, runs in families.items():
        students = {arm: as_graphs(seeds[0][0].student) for arm, seeds in runs.items()}
        teacher = teacher_graphs(runs)
        columns[family] = {TEACHER: teacher[0], **students} if teacher else students
    across = max(map(len, columns.values()))
    side = min(1.3, (6.6 - 0.15 * across) / across - 0.2)
    lines = [
        (family, number) for family, maps in columns.items() for number in next(iter(maps.values()))
    ]
    figure, grid = panels(
        [side] * len(lines),
        [*[side] * across, 0.09],
        left=0.55,
        bottom=0.4,
        top=0.75,
        right=max(0.45, 6.5 - across * (side + 0.2) - 0.1),
        gap=(0.2, 0.6),
    )
    for line, (family, number) in zip(grid, lines, strict=True):
        maps = {name: graphs[number] for name, graphs in columns[family].items()}
        correlations = graph_correlations(families[family])
        most = max(float(edges.max()) for edges in maps.values()) or 1.0
        # The root of a squared edge is the distance: near pairs stay apart.
        scale = PowerNorm(0.5, 0, most)
        for axes, (name, edges) in zip(line, maps.items(), strict=False):
            end = len(edges) + 0.5
            # Dark to light in even steps, in grey print and to colour-blind eyes too.
            shown = axes.imshow(edges, norm=scale, cmap="cividis", extent=(0.5, end, end, 0.5))
            axes.tick_params(labelsize=SMALL, length=2)
            axes.set(xticks=[1, len(edges)], yticks=[1, len(edges)])
            # A map far below the scale looks empty; its own largest edge says what it is.
            title = _most_text(edges)
            known = correlations.get(name, {}).get(number)
            title += f", {_correlation_text(known)}" if known is not None else ""
            if number == next(iter(columns[family][name])):
                title = f"{textwrap.shorten(name, 18)}\n{title}"
            axes.set_title(plain(title), fontsize=SMALL, pad=3)
        for axes in line[len(maps) : -1]:
            axes.set_axis_off()
        where = f"{family}\n" if family else ""
        line[0].set_ylabel(f"{where}TG$_{number}$, frame", fontsize=SMALL)
        bar = figure.colorbar(shown, cax=line[-1])
        ends = [0.0, most / 4, most]
        bar.ax.set_yticks(ends, [f"{end:.2g}" for end in ends], fontsize=SMALL)
    for axes in grid[-1][:-1]:
        axes.set_xlabel("frame", fontsize=SMALL)
    return figure


def _first(runs: Runs) -> RunDiagnostics:
    return next(iter(runs.values()))[0]


def _most_text(edges: np.ndarray) -> str:
    most = float(edges.max())
    return f"max {most:.2g}" if most == 0 or most >= 0.01 else f"max {most:.0e}"


def _correlation_text(value: float) -> str:
    return f"r = {value:.2f}".replace("-", MINUS)


def _pairs(edges: np.ndarray) -> np.ndarray:
    upper: np.ndarray = edges[np.triu_indices(len(edges), 1)]
    return upper


def _mean_correlation(sides: Iterable[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """Mean of Pearson's over those where neither side is constant; None without any."""
    known = [np.corrcoef(*pair)[0, 1] for pair in sides if all(np.ptp(side) for side in pair)]
    return float(np.mean(known)) if known else None


def _known(values: Mapping[Key, float | None]) -> dict[Key, float]:
    return {key: value for key, value in values.items() if value is not None}
