"""The figures of a table, with what has to be said about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cmkd.config.paths import slug
from cmkd.report.arms import find_reference
from cmkd.report.cells import Difference
from cmkd.report.confusions import ClassView, class_views
from cmkd.report.diagnostics import GATE_CLIPS, MOST_SEEDS, gate_view, graph_view, inside_of
from cmkd.report.page import Picture
from cmkd.report.searches import searches, training_curves
from cmkd.report.tables import Table
from cmkd.report.text import folds_text, heading, interval_text, plural, uneven_text

if TYPE_CHECKING:
    from cmkd.report.figures.style import Figure

ROLE = "control"
"""What arms are compared with epoch by epoch and class by class: the decoder alone, without KD."""


def draw_pictures(table: Table) -> tuple[Picture, ...]:
    """All figures of `table` that there are values for; that of its arms has no name."""
    # Matplotlib takes a second to load: only who wants figures waits for it.
    from cmkd.report.figures.style import save

    return tuple(
        Picture(name, title, alt, caption, save(figure, "svg"), save(figure, "png"))
        for name, title, alt, caption, figure in _all(table)
    )


def _all(table: Table) -> Iterator[tuple[str, str, str, str, Figure]]:
    figures = table.spec.figures
    if "arms" in figures and table.measured:
        yield _arms(table)
    if "search" in figures:
        yield from _search(table)
    if "cost" in figures:
        yield _cost(table)
    if "training" in figures:
        yield from _training(table)
    if "classes" in figures:
        for view in class_views(table, ROLE):
            yield from _classes(table, view)
    if "inside" in figures:
        yield from _inside(table)


def _arms(table: Table) -> tuple[str, str, str, str, Figure]:
    from cmkd.report.figures.scores import draw_arms

    title = f"{heading(table)}: accuracy of every arm"
    alt = f"{title}, seeds as points; the values are those of the table"
    caption = f"{_measured(table)} Intervals: {interval_text(table)}."
    return "", title, alt, caption, draw_arms(table)


def _search(table: Table) -> Iterator[tuple[str, str, str, str, Figure]]:
    from cmkd.report.figures.search import draw_searches

    found = searches(table)
    if not found.ours:
        return
    title = f"{heading(table)}: accuracy along the weights of the losses"
    best = "; ".join(
        f"{symbol} = {max(search.points, key=lambda one: one[1].mean or 0.0)[0]:g}"
        for symbol, search in found.ours.items()
    )
    alt = f"{title}; ours has its highest mean at {best}; the values are those of the table"
    caption = (
        f"{_measured(table)} Intervals: {interval_text(table)}. The axis of weights is logarithmic "
        "and broken before 0. The paper's values, of other data and networks, have axes of their "
        "own."
    )
    uneven = uneven_text(table)
    caption += f" {uneven}" if uneven is not None else ""
    yield "search", title, alt, caption, draw_searches(table, found)


def _cost(table: Table) -> tuple[str, str, str, str, Figure]:
    from cmkd.report.figures.cost import draw_cost

    title = f"Table {table.spec.name}: {table.published.title.rstrip('.')}, and computation"
    known = sum(row.cost is not None for row in table.rows)
    ours = f"and GMACs measured here for {plural(known, 'row')}" if known else "nothing of ours"
    alt = f"{title}, {ours}; the values are those of the table"
    caption = (
        "Accuracies are the paper's, of its own and of other work; rows without a printed figure "
        "of computation are not drawn. GFLOPs of the paper are multiply-accumulates. Accuracies of "
        f"ours are of {table.evidence.data}, other data, and have no place in this plane."
    )
    caption += " GMACs of ours are of the full-size networks at 224 x 224." if known else ""
    return "cost", title, alt, caption, draw_cost(table)


def _training(table: Table) -> Iterator[tuple[str, str, str, str, Figure]]:
    from cmkd.report.figures.training import draw_training

    curves = training_curves(table)
    if not curves["val_acc"]:
        return
    references = {
        one.arm.name: found.name
        for one in table.measured
        if (found := find_reference(table.sweep, ROLE, one.arm.setting)) is not None
    }
    title = f"{heading(table)}: accuracy and loss over the epochs"
    ends = ", ".join(
        f"{arm} {curve.per_seed[:, -1].mean():.1f} %" for arm, curve in curves["val_acc"].items()
    )
    alt = f"{title}, one panel per arm; mean validation accuracy after the last epoch: {ends}"
    folds = len(table.evidence.folds)
    over = f" (each the mean over {plural(folds, 'fold')})" if folds > 1 else ""
    caption = (
        f"Validation clips of {table.evidence.data}, {_seeds(table)}{over}; no epoch is selected. "
        "The loss is the cross-entropy alone, which arms with and without KD share."
    )
    yield "training", title, alt, caption, draw_training(table, curves, references)


def _classes(table: Table, view: ClassView) -> Iterator[tuple[str, str, str, str, Figure]]:
    from cmkd.report.figures.classes import draw_confusions, draw_gains

    end = slug(view.reference)
    chosen = (
        f" Shown are the {len(view.classes)} classes on which any arm differs most from "
        f"{view.reference}; {view.left_out} are left out."
        if view.left_out
        else ""
    )
    order = f"Classes that {view.reference} finds hardest come first."
    title = f"{heading(table)}: what clips are taken for, beside {view.reference}"
    arms = ", ".join(one.arm for one in view.arms)
    alt = f"{title}: confusion matrices of {view.reference} in per cent, differences of {arms}"
    caption = (
        f"{_measured(table)} Shares of the clips of a class, over all seeds; what rounds to 0 is "
        f"left blank. {order}{chosen}"
    )
    yield f"confusions_{end}", title, alt, caption, draw_confusions(table, view)
    title = f"{heading(table)}: gain of every class over {view.reference}"
    moved = "; ".join(
        f"{one.arm}: {sum(_is_clear(gain) for gain in one.gains)} of {len(one.gains)}"
        for one in view.arms
    )
    alt = f"{title}; classes whose 95 % interval does not hold 0: {moved}"
    caption = (
        f"{_measured(table)} Differences are paired by seed; intervals: {interval_text(table)}, "
        "not corrected for the number of classes, of which one in twenty leaves 0 by chance. "
        f"{order}{chosen}"
    )
    yield f"gains_{end}", title, alt, caption, draw_gains(table, view)


def _inside(table: Table) -> Iterator[tuple[str, str, str, str, Figure]]:
    from cmkd.report.figures.inside import draw_gates, draw_graphs

    found = dict(inside_of(table))
    whose = (
        f"Test clips of {table.evidence.data}, the first of every class, of fold "
        f"{min(table.evidence.folds)}; selected epoch: {table.evidence.selection}."
    )
    gates = tuple(
        filter(None, (gate_view(f"{family} family", arms) for family, arms in found.items()))
    )
    if gates:
        title = f"{heading(table)}: weights of the gate, and motion"
        follows = "; ".join(
            f"{arm} {value:.2f}" for one in gates for arm, value in one.follows.items()
        )
        alt = f"{title}, frame by frame; mean correlation of weight and motion: {follows}"
        caption = (
            f"{whose} At most {plural(GATE_CLIPS, 'clip')} and {plural(MOST_SEEDS, 'seed')} of an "
            "arm are drawn. r: correlation of weight and motion over the frames of a clip, mean "
            "over all clips that trials keep, and over seeds."
        )
        yield "gate", title, alt, caption, draw_gates(title, gates)
    graphs = tuple(
        filter(None, (graph_view(f"{family} family", arms) for family, arms in found.items()))
    )
    if graphs:
        title = f"{heading(table)}: temporal graphs"
        likeness = "; ".join(
            f"{arm} {', '.join(f'{like:.2f}' for like in by_graph.values())}"
            for one in graphs
            for arm, by_graph in one.likeness.items()
            if by_graph
        )
        alt = f"{title} of one clip; mean correlation with the teacher's TG 1 to 3: {likeness}"
        caption = (
            f"{whose} Drawn is the first clip of the first seed: mean squared edges per dimension "
            "of a vertex, light is far apart; a line has one scale, on which a distance counts by "
            "its root. max: largest edge of a map. r: correlation with the teacher's edges over "
            "all pairs of frames, mean over "
            f"all clips that trials keep, and over {plural(MOST_SEEDS, 'seed')} at most."
        )
        yield "graphs", title, alt, caption, draw_graphs(title, graphs)


def _is_clear(gain: Difference) -> bool:
    return gain.interval is not None and not gain.interval.low <= 0 <= gain.interval.high


def _measured(table: Table) -> str:
    evidence = table.evidence
    return (
        f"{len(table.test.clips)} test clips of {evidence.data} ({evidence.data_kind}, data_id "
        f"{evidence.data_id}), {folds_text(table)}, {_seeds(table)}; selected epoch: "
        f"{evidence.selection}."
    )


def _seeds(table: Table) -> str:
    counts = sorted({len(one.outcomes.seeds) for one in table.measured if one.outcomes.seeds})
    if not counts:
        return "no complete seed"
    fewest, most = counts[0], counts[-1]
    return plural(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
