"""Tables of a user's own sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cmkd.config.sweep import Sweep
from cmkd.report.evidence import collect
from cmkd.report.gather import stored_sweep
from cmkd.report.latex import escape
from cmkd.report.page import Page, render_html, render_markdown
from cmkd.report.paper import TABLES, own_table
from cmkd.report.table_page import build_page
from cmkd.report.tables import build_table
from cmkd.sweep.trials import flat

if TYPE_CHECKING:
    from conftest import MemoryStore


def own(store: MemoryStore, sweep: Sweep) -> Page:
    table = build_table(own_table(sweep), collect(store, sweep, "made-up"))
    return build_page(table, version="test")


def cells(page: Page, arm: str) -> Mapping[str, str]:
    grid = page.grids[0]
    line = next(line for line in grid.lines if line.cells[0].text == arm)
    return dict(zip(grid.columns, (cell.text for cell in line.cells), strict=True))


def test_a_row_per_arm_and_a_column_per_swept_key(full_store: MemoryStore) -> None:
    page = own(full_store, full_store.sweep)
    columns = page.grids[0].columns
    assert "Sweep ablation on made-up" == page.heading
    assert columns[1:4] == ("method.decoder", "method.lambda_1", "method.lambda_2")
    assert not any("UCF-101" in column or "Paper" in column for column in columns)
    both = cells(page, "both")
    assert (both["method.lambda_1"], both["method.lambda_2"], both["n"]) == ("0.1", "1.0", "3")
    assert both["Δ to control [95 % CI]"].startswith("+30.0 [")
    assert cells(page, "control")["Δ to control [95 % CI]"] == "reference"
    shown = render_html([page], {}, title="t")
    assert '<th scope="col">made-up: last epoch</th>' in shown
    assert "<details open>\n<summary>Runs</summary>" in shown
    assert "Table 4" not in render_markdown(page)
    assert not any("top-5" in column for column in columns)


def test_top5_is_a_column_where_it_was_measured(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0], ranks=[1, 6])
    store.trial("both", 0, [1, 0], ranks=[1, 2])
    page = own(store, store.sweep)
    column = "made-up: top-5, selected epoch"
    assert [cells(page, arm)[column][:5] for arm in ("control", "both")] == ["50.0 ", "100.0"]
    assert cells(page, "spatial")[column] == "—"


def test_without_a_control_the_first_arm_is_the_reference(full_store: MemoryStore) -> None:
    sweep = full_store.sweep.only(["spatial", "both"])
    assert own_table(sweep).references == ("spatial",)
    page = own(full_store, sweep)
    assert cells(page, "both")["Δ to spatial [95 % CI]"].startswith("+6.7 ")


def test_partial_folds_are_shown_as_such(store: MemoryStore) -> None:
    for fold in (0, 1):
        store.trial("control", 0, [1, 0], fold=fold, tags={"folds": "2"})
    store.trial("both", 0, [1, 1], fold=1, tags={"folds": "2"})
    found = cells(own(store, store.sweep), "both")
    assert found["n"] == "0 + 1 without all of 2 folds"
    assert found["made-up: selected epoch"] == "100.0 (1 of 2 folds)"


def test_a_store_of_variants_fills_no_row_of_the_paper(
    make_sweep: Callable[[str], Sweep], store: MemoryStore
) -> None:
    store.sweep = make_sweep("  gated: {method.gate: [softmax]}\n  graph: {method.tg: [[1]]}\n")
    sweep = store.sweep.only(["gated", "graph"])
    for arm in ("gated", "graph"):
        store.trial(arm, 0, [1, 0])
    evidence = collect(store, store.sweep, "made-up")
    page = build_page(build_table(TABLES["4"], evidence), version="test")
    lines = {line.cells[0].text: line.cells for line in page.grids[0].lines}
    arm = page.grids[0].columns.index("Arm")
    assert lines["TSM+ours"][arm].text != "gated"
    assert lines["gated †"][arm].text == "gated"
    arms = next(grid for grid in page.grids if grid.name == "arms")
    departing = {line.cells[0].text: line.cells[-1].text for line in arms.lines}
    assert departing["gated"] == 'method.gate="softmax"'
    assert departing["graph"] == "method.tg=[1]"
    assert own_table(sweep).references == ("gated",)


def test_a_longer_arm_is_marked_in_the_row_that_it_fills(
    make_sweep: Callable[[str], Sweep], store: MemoryStore
) -> None:
    more = "  long: {training.epochs: [60], method.lambda_2: [5.0]}\n"
    store.sweep = make_sweep(more).only(["baseline", "control", "spatial", "temporal", "long"])
    store.trial("long", 0, [1, 0])
    evidence = collect(store, store.sweep, "made-up")
    page = build_page(build_table(TABLES["4"], evidence), version="test")
    marked = [line.cells[0].text for line in page.grids[0].lines if "§" in line.cells[0].text]
    assert marked == ["TSM+ours §"]
    assert any("long departs in training.epochs 60" in line for line in page.circumstances)


def test_a_sweep_without_a_spec_is_read_from_its_runs(full_store: MemoryStore) -> None:
    settings = {arm.name: arm.setting for arm in full_store.sweep.arms}
    full_store.runs = [
        replace(
            run,
            tags={**run.tags, "sweep": "lost"},
            params=flat(settings[run.tags["arm"]].as_json()),
        )
        for run in full_store.runs
        if run.tags["kind"] == "trial"
    ]
    sweep = stored_sweep(full_store, "lost", "made-up")
    assert sweep is not None
    assert [arm.name for arm in sweep.arms] == list(settings)
    assert all(arm.setting == settings[arm.name] for arm in sweep.arms)
    assert sweep.spec.seeds == 3
    assert stored_sweep(full_store, "other", None) is None
    assert cells(own(full_store, sweep), "both")["n"] == "3"


def test_latex_sets_letters_beyond_latin_1() -> None:
    names: Sequence[str] = ("Łukasz", "čeština", "Erdős")
    assert [escape(name) for name in names] == list(names)
    assert escape("\N{GREEK SMALL LETTER OMEGA}") == "?"
