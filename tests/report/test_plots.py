from __future__ import annotations

import io
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from matplotlib.image import imread

from cmkd.report.evidence import collect
from cmkd.report.plots import render_figure
from cmkd.report.published import load_published
from cmkd.report.tables import Table, build_table

if TYPE_CHECKING:
    from conftest import MemoryStore


def build(store: MemoryStore, data: str = "made-up") -> Table:
    return build_table(load_published("table_4"), store.sweep, collect(store, store.sweep, data))


def test_svg_is_whole_and_repeats(full_store: MemoryStore) -> None:
    table = build(full_store)
    svg = render_figure(table, "svg")
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert b"dc:date" not in svg
    assert render_figure(table, "svg") == svg


def test_png_has_the_stated_resolution(full_store: MemoryStore) -> None:
    png = render_figure(build(full_store), "png")
    height, width, _ = imread(io.BytesIO(png), format="png").shape
    assert width == 9.5 * 150
    assert height > 500


def test_every_seed_changes_the_picture(full_store: MemoryStore) -> None:
    before = render_figure(build(full_store), "svg")
    full_store.trial("both", 3, [1] * 10)
    assert render_figure(build(full_store), "svg") != before


def test_a_long_legend_stays_inside(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0, 1, 1], groups=["s1", "s1", "", ""], tags={"folds": "12"})
    store.teacher(0, 90.0)
    png = imread(io.BytesIO(render_figure(build(store), "png")), format="png")
    for edge in (png[:, :4], png[:, -4:]):
        assert (edge[..., :3] == 1).all()


def test_gaps_and_odd_names_are_drawn(store: MemoryStore) -> None:
    name = "$x^{$ <b> & \\frac"
    store.trial("control", 0, [1, 0], tags={"data": name})
    ElementTree.fromstring(render_figure(build(store, name), "svg"))
