"""What a report says of the data it rests on, before any number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cmkd.config.data import OfficialPart
from cmkd.config.sweep import load_sweep
from cmkd.report.evidence import collect
from cmkd.report.latex import render_latex
from cmkd.report.page import render_html, render_json, render_markdown
from cmkd.report.paper import TABLES
from cmkd.report.table_page import build_page
from cmkd.report.tables import Table, build_table
from cmkd.report.text import comparable_columns, notice_text

if TYPE_CHECKING:
    from conftest import MemoryStore

WHOLE = OfficialPart(name="UCF-101", split="all", clips=13320, annotated=13320, complete=True)
PART = OfficialPart(name="UCF-101", split="all", clips=12, annotated=13320, complete=False)
SPEC = """
name: ablation
description: made up
data: made-up
seeds: 1
base: {method.lambda_2: 1.0, student.backbone: BACKBONE, teacher.backbone: BACKBONE}
blocks:
  both: {method.lambda_1: [0.1]}
"""


@pytest.fixture
def table(store: MemoryStore, tmp_path: Path) -> Callable[..., Table]:
    """Makes a table of one finished arm on a data set."""

    def make(
        part: OfficialPart | None,
        backbone: str = "tsm_r50",
        folds: int = 1,
        number: str = "4",
        ranks: list[int] | None = None,
    ) -> Table:
        path = tmp_path / "made_up.yaml"
        path.write_text(SPEC.replace("BACKBONE", backbone))
        store.sweep = load_sweep(str(path))
        tags = {"data_kind": "official", "data_official": part.model_dump_json()} if part else {}
        tags = {**tags, "folds": str(folds)} if part else {"data_kind": "folder"}
        store.trial("both", 0, [1, 0], tags=tags, ranks=ranks)
        return build_table(TABLES[number], collect(store, store.sweep, "made-up"))

    return make


def test_a_table_says_that_its_data_set_has_no_groups(store: MemoryStore) -> None:
    store.trial("both", 0, [1, 0], tags={"data_kind": "folder", "leak_warning": "no groups here"})
    found = build_table(TABLES["4"], collect(store, store.sweep, "made-up"))
    page = build_page(found, version="test")
    assert page.warnings == ("no groups here.",)
    assert "> **Warning:** no groups here." in render_markdown(page).splitlines()
    assert "Warning:</strong> no groups here." in render_html((page,), {}, title="t")
    assert json.loads(render_json(page))["warnings"] == ["no groups here."]
    assert "no groups here" in render_latex(page)


def test_a_table_says_that_its_teacher_is_not_ahead(store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "one_family.yaml"
    control = "  control: {method.lambda_1: [0.0], method.lambda_2: [0.0]}\n"
    path.write_text(SPEC.replace("BACKBONE", "tiny_tsm") + control)
    store.sweep = load_sweep(str(path))

    def said(accuracy: float) -> list[str]:
        store.runs.clear()
        for seed in range(3):
            store.trial("control", seed, [1, 1, 0])
            store.trial("both", seed, [1, 1, 0])
        store.teacher(0, accuracy)
        found = build_table(TABLES["4"], collect(store, store.sweep, "made-up"))
        return list(build_page(found, version="test").warnings)

    (line,) = said(60.0)
    assert "60.0 %" in line and "66.7 %" in line and "teacher.untrained" in line
    assert not said(70.0)


def test_a_teacher_near_chance_in_one_fold_is_named_whatever_its_mean_is(
    store: MemoryStore,
) -> None:
    classes = 10
    for fold in range(2):
        run_id = store.trial("both", 0, [1] * 30, fold=fold)
        header, *rows = store.texts[run_id].splitlines()
        rows = [row.replace(",1,1,1", 3 * f",{n % classes}") for n, row in enumerate(rows)]
        store.texts[run_id] = "\n".join([header, *rows]) + "\n"
    # Guessing reaches 10 %, and a tenth of 30 clips is 11 points uncertain at two standard errors.
    store.teacher(0, 22.0)
    store.teacher(1, 20.0)
    found = build_table(TABLES["4"], collect(store, store.sweep, "made-up"))
    (line,) = build_page(found, version="test").warnings
    assert "near chance in fold 1: 20.0 % of 30 test clips" in line


def test_a_whole_published_set_stands_beside_its_own_column(table: Callable[..., Table]) -> None:
    whole = table(WHOLE)
    headline, text = notice_text(whole)
    assert headline == "UCF-101 by its official annotations, our preparation."
    assert text.startswith(
        "made-up is UCF-101, official splits 1, 2 and 3, complete (13,320 clips)"
    )
    assert "Of the paper's columns UCF-101 is of this data set" in text and "small" not in text
    assert comparable_columns(whole) == ("UCF-101",)


def test_top5_stands_beside_its_column_where_it_was_measured(table: Callable[..., Table]) -> None:
    found = table(WHOLE.model_copy(update={"name": "SSV2"}), ranks=[1, 9])
    assert comparable_columns(found) == ("SSV2-top1", "SSV2-top5")
    assert "columns SSV2-top1 and SSV2-top5 are of this data set" in notice_text(found)[1]


def test_a_subset_is_marked_as_one(table: Callable[..., Table]) -> None:
    part = table(PART)
    headline, text = notice_text(part)
    assert headline == "These are NOT results on UCF-101: made-up is a SUBSET of it."
    assert "12 of the 13,320 clips" in text and "do not compare their values" in text
    assert not comparable_columns(part)


@pytest.mark.parametrize(
    "options",
    [{"backbone": "tiny_tsm"}, {"folds": 3}, {"number": "2"}],
    ids=["tiny", "one fold", "SSV2"],
)
def test_what_else_keeps_a_whole_set_from_comparison(
    table: Callable[..., Table], options: dict[str, object]
) -> None:
    other = table(WHOLE, **options)
    assert not comparable_columns(other) and "do not compare their values" in notice_text(other)[1]


def test_a_folder_is_no_data_set_of_the_paper(table: Callable[..., Table]) -> None:
    mine = table(None)
    headline, text = notice_text(mine)
    assert headline == "made-up is NOT a data set of the paper."
    assert text.startswith("It is a folder of the user's own clips.")
    assert not comparable_columns(mine)
