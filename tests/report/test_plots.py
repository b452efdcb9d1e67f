from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Annotation

from cmkd.config.sweep import Sweep
from cmkd.report.evidence import collect
from cmkd.report.figures.arms import draw_arms
from cmkd.report.figures.style import save
from cmkd.report.paper import TABLES
from cmkd.report.tables import Table, build_table

if TYPE_CHECKING:
    from conftest import MemoryStore


def build(store: MemoryStore, data: str = "made-up", name: str = "4") -> Table:
    return build_table(TABLES[name], collect(store, store.sweep, data))


def test_svg_is_whole_and_repeats(full_store: MemoryStore) -> None:
    table = build(full_store)
    svg = save(draw_arms(table), "svg")
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert b"dc:date" not in svg
    assert save(draw_arms(table), "svg") == svg


def test_png_has_the_stated_resolution(full_store: MemoryStore) -> None:
    png = save(draw_arms(build(full_store)), "png")
    height, width, _ = imread(io.BytesIO(png), format="png").shape
    assert width == 7.2 * 150
    assert height > 300


def test_every_seed_changes_the_picture(full_store: MemoryStore) -> None:
    before = save(draw_arms(build(full_store)), "svg")
    full_store.trial("both", 3, [1] * 10)
    assert save(draw_arms(build(full_store)), "svg") != before


def test_seeds_of_equal_accuracy_do_not_hide_each_other(store: MemoryStore) -> None:
    for seed, right in enumerate((1, 2, 1, 1)):
        store.trial("control", seed, [1] * right + [0] * (3 - right))
    (points,) = (
        line for line in draw_arms(build(store)).axes[0].lines if len(line.get_xdata()) > 2
    )
    places = set(zip(points.get_xdata(), points.get_ydata(), strict=True))
    assert len(places) == 4


def test_the_value_of_the_least_accuracy_stands_beside_no_name(store: MemoryStore) -> None:
    for arm, right in (("baseline", 2), ("control", 9)):
        store.trial(arm, 0, [1] * right + [0] * (10 - right))
    figure = draw_arms(build(store))
    FigureCanvasAgg(figure).draw()
    ours = figure.axes[0]
    values = [one for one in ours.texts if isinstance(one, Annotation)]
    assert len(values) == 2
    for one in values:
        box = one.get_window_extent()
        assert ours.bbox.x0 <= box.x0 and box.x1 <= ours.bbox.x1


def test_a_long_legend_stays_inside(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0, 1, 1], groups=["s1", "s1", "", ""], tags={"folds": "12"})
    store.teacher(0, 90.0)
    png = imread(io.BytesIO(save(draw_arms(build(store)), "png")), format="png")
    for edge in (png[:, :4], png[:, -4:]):
        assert (edge[..., :3] == 1).all()


def test_gaps_and_odd_names_are_drawn(store: MemoryStore) -> None:
    name = "$x^{$ <b> & \\frac"
    store.trial("control", 0, [1, 0], tags={"data": name})
    ElementTree.fromstring(save(draw_arms(build(store, name)), "svg"))


def axes_of(svg: bytes) -> int:
    groups = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}g")
    return sum(one.get("id", "").startswith("axes_") for one in groups)


def test_every_half_has_axes_of_its_own(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    assert axes_of(save(draw_arms(build(full_store)), "svg")) == 2
    full_store.sweep = make_sweep("  tdn: {student.backbone: [tiny_tdn]}\n")
    missing = save(draw_arms(build(full_store)), "svg")
    assert axes_of(missing) == 4
    full_store.trial("tdn", 0, [1] * 10, tags={"teacher": "t"})
    assert save(draw_arms(build(full_store)), "svg") != missing


def test_without_printed_values_there_is_one_panel(full_store: MemoryStore) -> None:
    assert axes_of(save(draw_arms(build(full_store, name="components")), "svg")) == 1
