"""Figures by class: confusion matrices of arms and of one trial, and gains over a reference."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cmkd.report.arms import find_references
from cmkd.report.evidence import trials_of
from cmkd.report.figures.style import (
    BLUE,
    GREY,
    MINUS,
    NORMAL,
    SMALL,
    VERMILLION,
    draw_estimate,
    draw_matrix,
    is_clear,
    legend,
    legend_room,
    marker,
    panels,
    plain,
    room,
    style,
)
from cmkd.report.predictions import Predictions
from cmkd.report.tables import ArmResult, Difference, Table
from cmkd.report.text import plural

LEGIBLE = 12
"""Most classes of a figure of arms."""
MOST_NAMES = 30
"""Classes whose names fit beside the matrix of one trial."""
_LONGEST = 16
"""Letters of a class name on an axis."""
TRUE, PREDICTED = "true class", "predicted class"

Group = tuple[ArmResult, list[ArmResult]]
"""A reference, and the arms that are compared with it."""


def compared_groups(table: Table, role: str) -> list[Group]:
    """References of `role` and their arms that have a complete seed; none of a single class."""
    if len(set(table.evidence.test.labels)) < 2:
        return []
    known = {own.arm.setting.id: own for own in table.measured if own.seeds}
    references = find_references(table.sweep, role)
    groups: dict[str, list[ArmResult]] = {}
    for own in known.values():
        reference = references.get(own.arm.name)
        if reference is not None and reference.setting != own.arm.setting:
            groups.setdefault(reference.setting.id, []).append(own)
    return [(known[setting_id], arms) for setting_id, arms in groups.items() if setting_id in known]


def shown_classes(reference: ArmResult, arms: Sequence[ArmResult]) -> tuple[str, ...]:
    """Classes that differ most from the reference, by ascending recall of the reference."""
    labels = np.array(reference.test.labels)

    def recall(own: ArmResult, name: str) -> float:
        return float(own.right["selected"][:, labels == name].mean())

    def change(name: str) -> float:
        return max(abs(recall(own, name) - recall(reference, name)) for own in arms)

    most = sorted(sorted(set(labels.tolist())), key=change, reverse=True)[:LEGIBLE]
    return tuple(sorted(most, key=lambda name: (recall(reference, name), name)))


def confusion(table: Table, own: ArmResult, classes: Sequence[str]) -> np.ndarray:
    """Float "C C+1": percent of a true class over all seeds; the last column is other classes."""
    others = len(classes)
    index = {name: number for number, name in enumerate(classes)}
    cells = np.zeros((others + 1) ** 2, int)
    true: dict[int, np.ndarray] = {}
    complete = set(own.seeds)
    for trial in trials_of(table.evidence, own.arm):
        predictions, fold = trial.predictions, trial.fold
        if trial.seed in complete:
            if fold not in true:
                true[fold] = np.array([index.get(name, others) for name in predictions.labels])
            said = np.array([index.get(name, others) for name in predictions.classes])
            places = true[fold] * (others + 1) + said[predictions.said]
            cells += np.bincount(places, minlength=len(cells))
    counts = cells.reshape(others + 1, others + 1)
    shares: np.ndarray = 100 * counts[:others] / counts[:others].sum(axis=1, keepdims=True)
    return shares


def other_classes(table: Table, classes: Sequence[str]) -> int:
    """Number of classes, true or predicted, beside `classes`."""
    named = {name for trial in table.evidence.trials for name in trial.predictions.classes}
    return len(named - set(classes))


def class_gains(
    own: ArmResult, reference: ArmResult, classes: Sequence[str]
) -> tuple[Difference, ...]:
    """Accuracy of each class minus that of the reference."""
    labels = np.array(own.test.labels)
    return tuple(
        Difference(name, ((1.0, own.of_clips(clips)), (-1.0, reference.of_clips(clips))))
        for name in classes
        for clips in [labels == name]
    )


def draw_confusions(table: Table, reference: ArmResult, arms: Sequence[ArmResult]) -> Figure:
    """Confusion matrix of the reference in per cent, and those of its arms as differences."""
    classes = shown_classes(reference, arms)
    others = other_classes(table, classes)
    rows = [_name(name) for name in classes]
    names = [*rows, f"{others} others"] if others else rows
    figure, grid = panels(
        [0.2 * len(rows)] * -(-(1 + len(arms)) // 2),
        [1, 1],
        left=room(rows) + 0.2,
        bottom=room(names) + 0.25,
        gap=(0.2, 0.45),
        sharex=True,
        sharey=True,
    )
    shares = confusion(table, reference, classes)[:, : len(names)]
    changes = [confusion(table, own, classes)[:, : len(names)] - shares for own in arms]
    most = max(1.0, *(float(np.abs(change).max()) for change in changes))
    drawn = [(reference.arm.name, "%", reference, shares, 0.0, 100.0)]
    for own, change in zip(arms, changes, strict=True):
        title = f"{own.arm.name} {MINUS} {reference.arm.name}"
        drawn.append((title, "points", own, change, -most, most))
    for number, axes in enumerate(grid.flat):
        if number == len(drawn):
            axes.set_axis_off()
            continue
        name, unit, own, values, low, high = drawn[number]
        draw_matrix(axes, values, low, high)
        title = textwrap.shorten(f"{name}, {unit} ({plural(len(own.seeds), 'seed')})", 60)
        axes.set_title(plain(title), fontsize=NORMAL)
        axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90)
        # An empty panel leaves the names of its column to the one above it.
        is_lowest = number >= len(drawn) - 2
        axes.tick_params(labelbottom=is_lowest)
        axes.set_xlabel(PREDICTED if is_lowest else "", fontsize=NORMAL)
    for line in grid:
        line[0].set_yticks(np.arange(len(rows)) + 0.5, rows)
        line[0].set_ylabel(TRUE, fontsize=NORMAL)
    return figure


def draw_gains(reference: ArmResult, arms: Sequence[ArmResult]) -> Figure:
    """Accuracy of each class minus that of the reference: mean, 95 % interval, and every seed."""
    classes = shown_classes(reference, arms)
    counts = [plural(reference.test.labels.count(name), "clip") for name in classes]
    labels = [f"{_name(name)} ({count})" for name, count in zip(classes, counts, strict=True)]
    across = min(4, len(arms))
    handles = [
        marker("D", BLUE, "mean; 95 % interval includes 0 or is unknown", "white"),
        marker("D", VERMILLION, "mean; 95 % interval excludes 0"),
        marker("o", GREY, "one seed"),
    ]
    figure, grid = panels(
        [0.24 * len(labels)] * -(-len(arms) // across),
        [1] * across,
        left=room(labels),
        bottom=0.35 + legend_room(len(handles)),
        gap=(0.12, 0.55),
        sharex=True,
        sharey=True,
    )
    for axes, own in zip(grid.flat, arms, strict=False):
        axes.axvline(0, color=GREY, linewidth=0.8)
        for line, gain in enumerate(class_gains(own, reference, classes)):
            if gain.mean is not None:
                colour = VERMILLION if is_clear(gain.interval) else BLUE
                face = None if is_clear(gain.interval) else "white"
                seeds = gain.per_seed
                draw_estimate(axes, line, gain.mean, gain.interval, seeds, colour, face=face)
        style(axes, grid="both")
        axes.set_title(plain(own.arm.name.replace("[", "\n[")), fontsize=NORMAL)
        axes.tick_params(labelbottom=True)
    for axes in grid.flat[len(arms) :]:
        axes.set_visible(False)
    grid[0][0].set_yticks(range(len(labels)), labels)
    grid[0][0].set_ylim(len(labels) - 0.4, -0.6)
    title = f"class accuracy minus that of {reference.arm.name} (points)"
    legend(figure, handles, title=plain(title))
    return figure


def draw_confusion(predictions: Predictions) -> Figure:
    """Confusion matrix of one trial at the selected epoch, in per cent."""
    count = len(predictions.classes)
    counts = np.zeros((count, count), int)
    true = np.array([predictions.classes.index(label) for label in predictions.labels])
    np.add.at(counts, (true, predictions.said), 1)
    # A class that occurs as an answer alone has no clips to share.
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [_name(name) for name in predictions.classes] if count <= MOST_NAMES else []
    side = min(5.0, max(1.5, 0.24 * count))
    left = room(names) + 0.3
    right = max(0.4, 6.7 - left - side)
    figure, ((axes, bar),) = panels(
        [side], [side, 0.1], left=left, bottom=left, right=right, gap=(0.1, 0)
    )
    mesh = draw_matrix(axes, shares, 0, 100, write=False)
    axes.set_xlabel(PREDICTED, fontsize=NORMAL)
    axes.set_ylabel(TRUE, fontsize=NORMAL)
    places = np.arange(len(names)) + 0.5
    axes.set_xticks(places, names, rotation=90)
    axes.set_yticks(places, names)
    figure.colorbar(mesh, cax=bar).ax.tick_params(labelsize=SMALL)
    return figure


def _name(text: str) -> str:
    return plain(
        text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    )
