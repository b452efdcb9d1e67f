"""Figures: the values behind them by hand, and what is true of every picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from cmkd.config.sweep import Sweep, load_sweep
from cmkd.report.evidence import collect, no_evidence
from cmkd.report.figures.arms import differences, draw_cost
from cmkd.report.figures.classes import (
    LEGIBLE,
    class_gains,
    compared_groups,
    confusion,
    draw_confusions,
    other_classes,
    shown_classes,
)
from cmkd.report.figures.curves import (
    along_weights,
    printed_values,
    searched_scores,
    training_curves,
)
from cmkd.report.figures.pictures import Drawn, draw_all, draw_pictures
from cmkd.report.figures.style import plain
from cmkd.report.paper import TABLES, ModelCost
from cmkd.report.tables import Table, build_table

if TYPE_CHECKING:
    from conftest import MemoryStore


def build(store: MemoryStore, name: str = "4") -> Table:
    table = build_table(TABLES[name], collect(store, store.sweep, "made-up"))
    return replace(table, store=store)


def classified(
    store: MemoryStore, arm: str, seed: int, labels: Sequence[str], said: Sequence[str]
) -> None:
    """A trial that took the clips of `labels` for `said`."""
    right = [int(a == b) for a, b in zip(labels, said, strict=True)]
    run_id = store.trial(arm, seed, right)
    rows = [f"{i:03d},,{a},{b},{b}" for i, (a, b) in enumerate(zip(labels, said, strict=True))]
    store.texts[run_id] = "\n".join(["clip,group,label,selected,last", *rows])


def test_confusions_and_gains_by_hand(store: MemoryStore) -> None:
    labels = "aabbbb"
    classified(store, "control", 0, labels, "abaabb")
    classified(store, "control", 1, labels, "abaabc")
    classified(store, "spatial", 0, labels, "aaabbb")
    classified(store, "spatial", 1, labels, "aaabbb")
    classified(store, "spatial", 2, labels, "bbbbbb")
    table = build(store)
    ((control, (spatial,)),) = compared_groups(table, "control")
    assert control.arm.name == "control"
    classes = shown_classes(control, [spatial])
    assert classes == ("b", "a")
    # No clip is of class c, but one was taken for it.
    assert other_classes(table, classes) == 1
    assert confusion(table, control, classes).tolist() == [[37.5, 50.0, 12.5], [50.0, 50.0, 0.0]]
    shares = confusion(table, spatial, classes)
    assert shares[1].tolist() == pytest.approx([100 / 3, 200 / 3, 0])
    gains = class_gains(spatial, control, classes)
    # Seed 2 has no partner.
    assert [gain.per_seed for gain in gains] == [(25.0, 50.0), (50.0, 50.0)]
    assert (gains[0].mean, gains[0].seeds) == (37.5, (0, 1))
    assert gains[0].interval is None, "two seeds"


def test_of_many_classes_those_that_change_are_shown(store: MemoryStore) -> None:
    labels = [f"c{i:02d}" for i in range(LEGIBLE + 3)] * 2
    classified(store, "control", 0, labels, ["c00"] * len(labels))
    better = [name if name > "c02" else "c00" for name in labels]
    classified(store, "both", 0, labels, better)
    table = build(store)
    ((control, arms),) = compared_groups(table, "control")
    classes = shown_classes(control, arms)
    assert classes == tuple(sorted(set(labels) - {"c00", "c01", "c02"}))
    assert other_classes(table, classes) == 3
    shares = confusion(table, arms[0], classes)
    assert shares.shape == (LEGIBLE, LEGIBLE + 1)
    assert confusion(table, control, classes)[:, -1].tolist() == [100.0] * LEGIBLE
    assert np.trace(shares) == 100.0 * LEGIBLE


def test_curves_are_means_over_folds_of_complete_seeds(store: MemoryStore) -> None:
    for seed, fold in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
        run_id = store.trial("control", seed, [1, 0], fold=fold)
        values = {1: 10.0 * seed + fold, 2: 50.0, 3: 60.0}
        if (seed, fold) == (1, 1):
            del values[3]
        store.logged.setdefault("val_acc", {})[run_id] = values
    # One value is no curve: that of a support vector machine, say.
    for fold in (0, 1):
        run_id = store.trial("spatial", 0, [1, 0], fold=fold)
        store.logged["val_acc"][run_id] = {1: 85.0}
    assert training_curves(build(store), "loss_ce") == {}
    curves = training_curves(build(store), "val_acc")
    assert list(curves) == ["control"]
    curve = curves["control"]
    assert (curve.index.tolist(), curve.columns.tolist()) == ([1, 2], [0, 1])
    assert curve.T.to_numpy().tolist() == [[0.5, 50.0], [10.5, 50.0]]


@pytest.fixture
def searched(store: MemoryStore, make_sweep: Callable[[str], Sweep]) -> MemoryStore:
    """A search of λ1 at λ2 = 0, and of λ2 at λ1 = 0.1."""
    more = (
        "  first: {method.lambda_1: [0.01, 1.0], method.lambda_2: [0.0]}\n"
        "  second: {method.lambda_1: [0.1], method.lambda_2: [5.0]}\n"
        "  logits: {method.lambda_1: [0.1], method.lambda_2: [0.0], method.logits: [mse]}\n"
    )
    store.sweep = make_sweep(more)
    right = {"baseline": 2, "control": 3, "spatial": 6, "temporal": 4, "both": 8, "logits": 9}
    right |= {"first[lambda_1=0.01]": 4, "first[lambda_1=1.0]": 5, "second": 7}
    for arm, count in right.items():
        for seed in range(2):
            labels = ["x_$y", "b"] * 5
            wrong = ["b", "x_$y"] * 5
            classified(store, arm, seed, labels, labels[: count + seed] + wrong[count + seed :])
    return store


def test_searches_hold_the_other_weight(searched: MemoryStore) -> None:
    table = build(searched, "5")
    ours = {
        symbol: (held, {weight: score.mean for weight, score in scores.items()})
        for symbol, (held, scores) in along_weights(searched_scores(table)).items()
    }
    assert ours == {
        "λ1": (0.0, {0.0: 35.0, 0.01: 45.0, 0.1: 65.0, 1.0: 55.0}),
        "λ2": (0.1, {0.0: 65.0, 1.0: 85.0, 5.0: 75.0}),
    }
    assert along_weights(printed_values(table, "UCF-101")) == {
        "λ1": (0.0, {0.01: 93.7, 0.1: 94.5, 1.0: 93.6}),
        "λ2": (0.1, {0.0: 94.5, 0.1: 94.9, 1.0: 95.8, 5.0: 95.3}),
    }


@pytest.fixture
def pictured(searched: MemoryStore) -> MemoryStore:
    """The same store with curves."""
    for number, run in enumerate(searched.runs):
        for metric in ("val_acc", "loss_ce"):
            searched.logged.setdefault(metric, {})[run.run_id] = {1: 1.0 * number, 2: 2.0}
    return searched


DRAWN: dict[str, list[Drawn]] = {}


def drawn(pictured: MemoryStore, name: str = "4") -> list[Drawn]:
    """Figures of a table of that store, drawn once."""
    if name not in DRAWN:
        DRAWN[name] = list(draw_all(build(pictured, name)))
    return DRAWN[name]


def test_every_picture_says_what_it_shows(pictured: MemoryStore) -> None:
    for name, wanted in (
        ("4", ["", "training", "confusions_control", "gains_control"]),
        ("5", ["", "search"]),
        ("components", [""]),
    ):
        pictures = draw_pictures(build(pictured, name))
        assert [one.name for one in pictures] == wanted
        for one in pictures:
            assert ElementTree.fromstring(one.svg).tag.endswith("svg")
            assert one.png.startswith(b"\x89PNG")
            assert "made-up" in one.title and one.alt.startswith(one.title)
            assert "2 seeds" in one.caption
            rule = "no epoch is selected" if one.name == "training" else "best validation"
            assert rule in one.caption
    assert draw_pictures(build(pictured, "5")) == draw_pictures(build(pictured, "5"))


def test_an_empty_place_among_matrices_leaves_the_names_to_the_panel_above(
    pictured: MemoryStore,
) -> None:
    table = build(pictured)
    ((control, arms),) = compared_groups(table, "control")
    assert len(arms) % 2 == 0, "with the reference, one panel is left over"
    figure = draw_confusions(table, control, arms)
    FigureCanvasAgg(figure).draw()
    *panels, empty = figure.axes
    assert len(panels) == 1 + len(arms)
    assert not empty.axison
    named = [one for one in panels if any(t.get_visible() and t.get_text() for t in labels(one))]
    assert named == panels[-2:]
    assert [t.get_text() for t in labels(panels[-1])] == [
        plain(name) for name in shown_classes(control, arms)
    ]


def labels(axes: Axes) -> list[Text]:
    return [tick.label1 for tick in axes.xaxis.get_major_ticks() if tick.label1.get_visible()]


@pytest.mark.parametrize("name", ["2", "4", "5", "components"])
def test_no_text_is_cut_and_no_two_titles_or_labels_overlap(
    pictured: MemoryStore, name: str
) -> None:
    for _, title, _, _, figure in drawn(pictured, name):
        FigureCanvasAgg(figure).draw()
        texts = [
            one
            for one in figure.findobj(Text)
            if one.get_text() and one.get_visible() and getattr(one.axes, "axison", True)
        ]
        for one in set(texts) - set(beyond(figure.axes)):
            box = one.get_window_extent()
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1
            assert inside and box.y1 <= figure.bbox.y1, (name, title, one.get_text())
        words = [part for axes in figure.axes if axes.axison for part in heads(axes)]
        for number, first in enumerate(words):
            for other in words[:number]:
                overlap = first.get_window_extent().overlaps(other.get_window_extent())
                assert not overlap, (name, title, first.get_text(), other.get_text())


def beyond(panels: Sequence[Axes]) -> Iterator[Text]:
    """Labels of ticks that lie outside their axis and are not drawn."""
    for axes in panels:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    yield from (tick.label1, tick.label2)


def heads(axes: Axes) -> list[Text]:
    return [one for one in (axes.title, axes.xaxis.label, axes.yaxis.label) if one.get_text()]


def test_components_are_differences_with_every_setting_once(pictured: MemoryStore) -> None:
    table = build(pictured, "components")
    rows = differences(table)
    arms = [[result.arm.name for _, result in known.parts] for known in rows.values()]
    assert {reference for _, reference in arms} == {"control"}
    assert "control" not in [own for own, _ in arms] and len(arms) == len(table.measured) - 1
    (picture,) = draw_pictures(table)
    assert "difference" in picture.title


def test_a_layout_is_drawn_without_a_solver(pictured: MemoryStore) -> None:
    for *_, figure in drawn(pictured):
        assert figure.get_layout_engine() is None


def test_letters_are_large_enough_for_print(pictured: MemoryStore) -> None:
    for name in ("2", "3", "4", "5"):
        for _, title, *_, figure in drawn(pictured, name):
            inches = figure.get_figwidth()
            sizes = [one.get_fontsize() for one in figure.findobj(Text) if one.get_text()]
            # Of a page that is 7.2 inches wide.
            assert min(sizes) * min(1, 7.2 / inches) > 6.99, title


def test_what_was_not_run_is_not_drawn(store: MemoryStore) -> None:
    store.trial("both", 0, [1, 0])
    assert [one.name for one in draw_pictures(build(store))] == [""]
    store.trial("baseline", 0, [1, 0])
    assert [one.name for one in draw_pictures(build(store, "5"))] == [""]


def test_the_curve_of_a_search_says_where_seeds_differ(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    full_store.sweep = make_sweep("  weak: {method.lambda_1: [0.01], method.lambda_2: [0.0]}\n")
    for seed in range(5):
        full_store.trial("weak", seed, [1] * 6 + [0] * 4)
    captions = {name: caption for name, _, _, caption, _ in draw_all(build(full_store, "5"))}
    assert captions["search"].endswith(
        "Arms have 3 to 5 seeds; differences are over the seeds that both have, and differ from "
        "the difference of the means."
    )


@pytest.mark.parametrize("name", ["2", "3"])
def test_computation_has_a_line_for_every_row_that_prints_it(name: str) -> None:
    spec = TABLES[name]
    cost = ModelCost(model="tsm_r50_16f", gmacs_per_view=1, views=6, gmacs=6, parameters=1)
    evidence = no_evidence(load_sweep(spec.sweep), "made-up")
    table = build_table(spec, evidence, {"tsm_r50_16f": cost})
    accuracy, computation = draw_cost(table).axes
    printed = [row for row in table.rows if row.gflops is not None]
    assert len(accuracy.get_lines()) == len(printed) == len(accuracy.get_yticklabels())
    # Of ours there is one figure of computation, and no accuracy.
    (measured,) = (one for one in computation.get_lines() if one.get_marker() == "^")
    assert [float(x) for x in np.asarray(measured.get_xdata())] == [6.0 if name == "2" else 30.0]
    assert len(computation.get_lines()) == len(printed) + 1
