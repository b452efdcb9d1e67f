"""Figures of a table with titles, alternative texts and captions, and those of one trial."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cmkd.config.paths import slug
from cmkd.report.arms import find_references
from cmkd.report.figures.arms import differences, draw_arms, draw_cost, draw_differences
from cmkd.report.figures.classes import (
    Group,
    class_gains,
    compared_groups,
    draw_confusion,
    draw_confusions,
    draw_gains,
    shown_classes,
)
from cmkd.report.figures.curves import (
    METRICS,
    along_weights,
    draw_searches,
    draw_training,
    searched_scores,
    training_curves,
)
from cmkd.report.figures.diagnostics import (
    GATE_CLIPS,
    MOST_SEEDS,
    Runs,
    diagnostics_of,
    draw_gates,
    draw_graphs,
    gate_correlations,
    gated,
    graph_correlations,
)
from cmkd.report.figures.style import Figure, is_clear, note, save
from cmkd.report.page import Picture
from cmkd.report.predictions import FILE, parse_diagnostics, parse_predictions
from cmkd.report.tables import Table
from cmkd.report.text import (
    folds_text,
    heading,
    interval_text,
    notice_text,
    plural,
    uneven_text,
)

Drawn = tuple[str, str, str, str, Figure]
"""Name, title, what a reader without the picture should know, caption, figure."""

ROLE = "control"
"""Reference of curves and classes: the pseudo-decoder alone, without KD."""


def draw_pictures(table: Table, *, pdf: bool = False) -> tuple[Picture, ...]:
    """All figures of `table` that there are values for; that of its arms has no name."""
    pictures = []
    for name, title, alt, caption, figure in draw_all(table):
        if table.evidence.trials:
            note(figure, notice_text(table)[0])
        svg, png = save(figure, "svg"), save(figure, "png")
        page = save(figure, "pdf") if pdf else b""
        pictures.append(Picture(name, title, f"{title}, {alt}", caption, svg, png, page))
    return tuple(pictures)


def draw_all(table: Table) -> Iterator[Drawn]:
    """The figures of `draw_pictures` as matplotlib has them."""
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
        for group in compared_groups(table, ROLE):
            yield from _classes(table, group)
    if "diagnostics" in figures and table.evidence.trials:
        yield from _diagnostics(table)


def _arms(table: Table) -> Drawn:
    caption = f"{_measured(table)} Intervals: {interval_text(table)}."
    alt = "seeds as points; the values are those of the table"
    # A table outside the paper has nothing printed to stand beside.
    if not table.published.columns and differences(table):
        title = f"{heading(table)}: difference of every arm to its reference"
        return "", title, alt, caption, draw_differences(table)
    return "", f"{heading(table)}: accuracy of every arm", alt, caption, draw_arms(table)


def _search(table: Table) -> Iterator[Drawn]:
    found = along_weights(searched_scores(table))
    if found:
        best = "; ".join(
            f"{symbol} = {max(scores, key=lambda weight: scores[weight].mean or 0.0):g}"
            for symbol, (_, scores) in found.items()
        )
        caption = (
            f"{_measured(table)} Intervals: {interval_text(table)}. The paper's values, of other "
            f"data and networks, have axes of their own. {uneven_text(table) or ''}"
        )
        alt = f"highest measured mean at {best}; the values are those of the table"
        title = f"{heading(table)}: accuracy along the weights of the losses"
        yield "search", title, alt, caption.rstrip(), draw_searches(table)


def _cost(table: Table) -> Drawn:
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
    curves = {metric: training_curves(table, metric) for metric in METRICS}
    if not curves["val_acc"]:
        return
    references = {arm: own.name for arm, own in find_references(table.sweep, ROLE).items()}
    ends = ", ".join(
        f"{arm} {curve.iloc[-1].mean():.1f} %" for arm, curve in curves["val_acc"].items()
    )
    folds = len(table.evidence.folds)
    over = f" (each the mean over {plural(folds, 'fold')})" if folds > 1 else ""
    caption = (
        f"Validation clips of {table.evidence.data}, {_seeds(table)}{over}; no epoch is selected. "
        "The loss is the cross-entropy alone, which arms with and without KD share."
    )
    title = f"{heading(table)}: accuracy and loss over the epochs"
    alt = f"mean validation accuracy after the last epoch: {ends}"
    yield "training", title, alt, caption, draw_training(curves, references)


def _classes(table: Table, group: Group) -> Iterator[Drawn]:
    reference, arms = group
    name, classes = reference.arm.name, shown_classes(reference, arms)
    order = f"Classes that {name} finds hardest come first."
    left_out = len(set(reference.test.labels)) - len(classes)
    order += f" The {left_out} classes that change least are left out." if left_out else ""
    yield (
        f"confusions_{slug(name)}",
        f"{heading(table)}: confusion matrices, beside {name}",
        f"{name} in per cent, differences of {', '.join(own.arm.name for own in arms)}",
        f"{_measured(table)} Per cent of a true class's clips, over all seeds. {order}",
        draw_confusions(table, reference, arms),
    )
    clear = {
        own.arm.name: [is_clear(gain.interval) for gain in class_gains(own, reference, classes)]
        for own in arms
    }
    moved = "; ".join(f"{arm}: {sum(known)} of {len(known)}" for arm, known in clear.items())
    yield (
        f"gains_{slug(name)}",
        f"{heading(table)}: gain of every class over {name}",
        f"classes whose 95 % interval excludes 0: {moved}",
        f"{_measured(table)} Paired by seed; intervals: {interval_text(table)}, not corrected for "
        f"the number of classes. {order}",
        draw_gains(reference, arms),
    )


def _diagnostics(table: Table) -> Iterator[Drawn]:
    found = diagnostics_of(table)
    clips = (
        f"Test clips of {table.evidence.data}, the first of every class, fold "
        f"{min(table.evidence.folds)}; selected epoch: {table.evidence.selection}."
    )
    gates = {family: runs for family, runs in found.items() if gated(runs)}
    if gates:
        caption = (
            f"{clips} At most {plural(GATE_CLIPS, 'clip')} and {plural(MOST_SEEDS, 'seed')} an arm "
            "are drawn. r: correlation of weight and motion over the frames, mean over all clips."
        )
        title = f"{heading(table)}: weights of the gate, and motion"
        follows = [pair for runs in gates.values() for pair in gate_correlations(runs).items()]
        means = "; ".join(f"{arm} {value:.2f}" for arm, value in follows)
        alt = f"mean correlation of weight and motion: {means}"
        yield "gate", title, alt, caption, draw_gates(gates)
    if found:
        caption = (
            f"{clips} The first clip of the first seed: mean squared edges per dimension of a "
            "vertex, one scale a line. r: correlation with the teacher's edges, mean over clips."
        )
        title = f"{heading(table)}: temporal graphs"
        alike = [pair for runs in found.values() for pair in graph_correlations(runs).items()]
        means = "; ".join(
            f"{arm} {', '.join(f'{value:.2f}' for value in values.values())}"
            for arm, values in alike
            if values
        )
        alt = f"one clip; mean correlation with the teacher's TG 1 to 3: {means}"
        yield "graphs", title, alt, caption, draw_graphs(found)


def _measured(table: Table) -> str:
    evidence = table.evidence
    return (
        f"{len(evidence.test.clips)} test clips of {evidence.data} ({evidence.data_kind}, data_id "
        f"{evidence.data_id}), {folds_text(table)}, {_seeds(table)}; selected epoch: "
        f"{evidence.selection}."
    )


def _seeds(table: Table) -> str:
    counts = {len(own.seeds) for own in table.measured if own.seeds}
    if not counts:
        return "no complete seed"
    fewest, most = min(counts), max(counts)
    return plural(most, "seed") if fewest == most else f"{fewest} to {most} seeds"


def pictures_of(files: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """PNGs of one trial, drawn from its files and written into `folder`, which is there.

    ``confusion.png`` comes from ``predictions.csv``, ``gate.png`` and ``graphs.png`` from
    ``inside.json``, the trial's id from ``config.json``; what `files` do not hold is not drawn.

    Raises:
        InputError: a file that is there is not what its name says.
        OSError: `folder` cannot be written to.
    """
    wanted = ("config.json", "predictions.csv", FILE)
    texts = {path.name: path.read_text(encoding="utf-8") for path in files if path.name in wanted}
    trial = str(json.loads(texts.get("config.json", "{}")).get("trial_id", "one trial"))
    figures: dict[str, tuple[Figure, str]] = {}
    if "predictions.csv" in texts:
        predictions = parse_predictions(texts["predictions.csv"], trial)
        accuracy = 100 * float(predictions.selected.mean())
        about = f"selected epoch, {accuracy:.1f} % of {len(predictions.clips)} clips"
        figures["confusion.png"] = draw_confusion(predictions), about
    clips = parse_diagnostics(texts[FILE], trial) if FILE in texts else ()
    if clips:
        gate: Mapping[str, Runs] = {"": {"weight α": [clips]}}
        if gated(gate[""]):
            figures["gate.png"] = draw_gates(gate), "gate"
        graphs = draw_graphs({"": {"student": [clips]}})
        figures["graphs.png"] = graphs, f"temporal graphs, {clips[0].clip}"
    written = []
    for name, (figure, about) in figures.items():
        note(figure, f"{trial}: {about}")
        path = folder / name
        path.write_bytes(save(figure, "png"))
        written.append(path)
    return tuple(written)
