"""Figures of a table with titles, alternative texts and captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cmkd.config.paths import slug
from cmkd.report.arms import find_references
from cmkd.report.confusions import ClassView, class_views
from cmkd.report.diagnostics import GATE_CLIPS, MOST_SEEDS, diagnostics_of, gate_view, graph_view
from cmkd.report.page import Picture
from cmkd.report.searches import searches, training_curves
from cmkd.report.tables import Difference, Table
from cmkd.report.text import (
    folds_text,
    heading,
    interval_text,
    notice_text,
    plural,
    uneven_text,
)

if TYPE_CHECKING:
    from cmkd.report.figures.style import Figure

    Drawn = tuple[str, str, str, str, Figure]
    """Name, title, what a reader without the picture should know, caption, figure."""

ROLE = "control"
"""Reference of curves and classes: the pseudo-decoder alone, without KD."""


def draw_pictures(table: Table) -> tuple[Picture, ...]:
    """All figures of `table` that there are values for; that of its arms has no name."""
    # Matplotlib takes a second to load: only who wants figures waits for it.
    from cmkd.report.figures.style import note, save

    pictures = []
    for name, title, alt, caption, figure in _all(table):
        if table.evidence.trials:
            note(figure, notice_text(table)[0])
        svg, png = save(figure)
        pictures.append(Picture(name, title, f"{title}, {alt}", caption, svg, png))
    return tuple(pictures)


def _all(table: Table) -> Iterator[Drawn]:
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
    if "diagnostics" in figures:
        yield from _inside(table)


def _arms(table: Table) -> Drawn:
    from cmkd.report.figures.arms import differences, draw_arms, draw_differences

    caption = f"{_measured(table)} Intervals: {interval_text(table)}."
    alt = "seeds as points; the values are those of the table"
    # A table outside the paper has nothing printed to stand beside.
    if not table.published.columns and differences(table):
        title = f"{heading(table)}: difference of every arm to its reference"
        return "", title, alt, caption, draw_differences(table)
    return "", f"{heading(table)}: accuracy of every arm", alt, caption, draw_arms(table)


def _search(table: Table) -> Iterator[Drawn]:
    from cmkd.report.figures.curves import draw_searches

    found = searches(table)
    if not found.ours:
        return
    best = "; ".join(
        f"{symbol} = {max(search.points, key=lambda point: point[1].mean or 0.0)[0]:g}"
        for symbol, search in found.ours.items()
    )
    caption = " ".join(
        [
            f"{_measured(table)} Intervals: {interval_text(table)}. The paper's values, of other",
            "data and networks, have axes of their own.",
            *filter(None, [uneven_text(table)]),
        ]
    )
    alt = f"highest measured mean at {best}; the values are those of the table"
    title = f"{heading(table)}: accuracy along the weights of the losses"
    yield "search", title, alt, caption, draw_searches(table, found)


def _cost(table: Table) -> Drawn:
    from cmkd.report.figures.arms import draw_cost

    title = f"Table {table.spec.name}: {table.published.title.rstrip('.')}, and computation"
    known = sum(row.cost is not None for row in table.rows)
    alt = f"GMACs measured here for {plural(known, 'row')}; the values are those of the table"
    caption = (
        "Accuracies as the paper prints them; rows without a printed computation are left out. "
        "GFLOPs of the paper are multiply-accumulates."
    )
    caption += " GMACs of ours are of the full-size networks at 224 x 224." if known else ""
    return "cost", title, alt, caption, draw_cost(table)


def _training(table: Table) -> Iterator[Drawn]:
    from cmkd.report.figures.curves import draw_training

    curves = training_curves(table)
    if not curves["val_acc"]:
        return
    references = {arm: found.name for arm, found in find_references(table.sweep, ROLE).items()}
    ends = ", ".join(
        f"{arm} {curve.per_seed[:, -1].mean():.1f} %" for arm, curve in curves["val_acc"].items()
    )
    folds = len(table.evidence.folds)
    over = f" (each the mean over {plural(folds, 'fold')})" if folds > 1 else ""
    caption = (
        f"Validation clips of {table.evidence.data}, {_seeds(table)}{over}; no epoch is selected. "
        "The loss is the cross-entropy alone, which arms with and without KD share."
    )
    title = f"{heading(table)}: accuracy and loss over the epochs"
    alt = f"mean validation accuracy after the last epoch: {ends}"
    yield "training", title, alt, caption, draw_training(table, curves, references)


def _classes(table: Table, view: ClassView) -> Iterator[Drawn]:
    from cmkd.report.figures.students import draw_confusions, draw_gains

    order = f"Classes that {view.reference} finds hardest come first."
    if view.left_out:
        order += f" The {view.left_out} classes that change least are left out."
    arms = ", ".join(arm.arm for arm in view.arms)
    caption = f"{_measured(table)} Per cent of a true class's clips, over all seeds. {order}"
    yield (
        f"confusions_{slug(view.reference)}",
        f"{heading(table)}: confusion matrices, beside {view.reference}",
        f"{view.reference} in per cent, differences of {arms}",
        caption,
        draw_confusions(view),
    )
    moved = "; ".join(
        f"{arm.arm}: {sum(_is_clear(gain) for gain in arm.gains)} of {len(arm.gains)}"
        for arm in view.arms
    )
    caption = (
        f"{_measured(table)} Paired by seed; intervals: {interval_text(table)}, not corrected for "
        f"the number of classes. {order}"
    )
    yield (
        f"gains_{slug(view.reference)}",
        f"{heading(table)}: gain of every class over {view.reference}",
        f"classes whose 95 % interval does not hold 0: {moved}",
        caption,
        draw_gains(view),
    )


def _inside(table: Table) -> Iterator[Drawn]:
    from cmkd.report.figures.students import draw_gates, draw_graphs

    found = dict(diagnostics_of(table))
    clips = (
        f"Test clips of {table.evidence.data}, the first of every class, fold "
        f"{min(table.evidence.folds)}; selected epoch: {table.evidence.selection}."
    )
    gates = tuple(filter(None, (gate_view(f"{name} family", arms) for name, arms in found.items())))
    if gates:
        follows = _values({arm: [r] for view in gates for arm, r in view.follows.items()})
        caption = (
            f"{clips} At most {plural(GATE_CLIPS, 'clip')} and {plural(MOST_SEEDS, 'seed')} an arm "
            "are drawn. r: correlation of weight and motion over the frames, mean over all clips."
        )
        title = f"{heading(table)}: weights of the gate, and motion"
        alt = f"mean correlation of weight and motion: {follows}"
        yield "gate", title, alt, caption, draw_gates(gates)
    graphs = tuple(
        filter(None, (graph_view(f"{name} family", arms) for name, arms in found.items()))
    )
    if graphs:
        likeness = _values(
            {arm: [*r.values()] for view in graphs for arm, r in view.likeness.items() if r}
        )
        caption = (
            f"{clips} The first clip of the first seed: mean squared edges per dimension of a "
            "vertex, one scale a line. r: correlation with the teacher's edges, mean over clips."
        )
        title = f"{heading(table)}: temporal graphs"
        alt = f"one clip; mean correlation with the teacher's TG 1 to 3: {likeness}"
        yield "graphs", title, alt, caption, draw_graphs(graphs)


def _values(by_arm: Mapping[str, list[float]]) -> str:
    return "; ".join(f"{arm} {', '.join(f'{r:.2f}' for r in rs)}" for arm, rs in by_arm.items())


def _is_clear(gain: Difference) -> bool:
    return gain.interval is not None and not gain.interval.low <= 0 <= gain.interval.high


def _measured(table: Table) -> str:
    evidence = table.evidence
    return (
        f"{len(evidence.test.clips)} test clips of {evidence.data} ({evidence.data_kind}, data_id "
        f"{evidence.data_id}), {folds_text(table)}, {_seeds(table)}; selected epoch: "
        f"{evidence.selection}."
    )


def _seeds(table: Table) -> str:
    counts = sorted({len(measured.seeds) for measured in table.measured if measured.seeds})
    if not counts:
        return "no complete seed"
    fewest, most = counts[0], counts[-1]
    return plural(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
