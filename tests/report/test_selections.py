from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cmkd.config.sweep import Sweep
from cmkd.report.claims import read_claims
from cmkd.report.claims_page import judge
from cmkd.report.evidence import collect
from cmkd.report.gather import Gatherer, Request
from cmkd.report.paper import TABLES
from cmkd.report.table_page import build_page
from cmkd.report.tables import build_table

if TYPE_CHECKING:
    from conftest import MemoryStore

SEARCH = """
  search: {method.lambda_1: [0.01, 0.1, 1.0], method.lambda_2: [0.0]}
  later: {method.lambda_1: [$best], method.lambda_2: [5.0]}
select:
  best: {key: method.lambda_1, among: [search], rule: best_mean_val_acc}
"""
RIGHT = [1, 0]


@pytest.fixture
def searched(make_sweep: Callable[[str], Sweep], store: MemoryStore) -> MemoryStore:
    """Two seeds of a search that 0.01 wins on validation, and a third that lacks a candidate."""
    store.sweep = make_sweep(SEARCH)
    wins = {"0.01": (90.0, 70.0, 0.0), "0.1": (80.0, 70.0, 100.0), "1.0": (70.0, 60.0)}
    for value, accuracies in wins.items():
        for seed, accuracy in enumerate(accuracies):
            name = f"search[lambda_1={value}]"
            store.trial(name, seed, RIGHT, metrics={"best_val_acc": accuracy})
    return store


def test_the_selection_is_made_from_the_seeds_that_all_candidates_have(
    searched: MemoryStore,
) -> None:
    evidence = collect(searched, searched.sweep, "made-up")
    (choice,) = evidence.choices
    assert (choice.value, choice.trials) == (0.01, 2)
    assert not evidence.sweep.waiting
    (later,) = [arm for arm in evidence.sweep.arms if arm.name == "later"]
    assert later.setting.method.lambda_1 == 0.01


def test_runs_of_a_later_stage_are_found(searched: MemoryStore) -> None:
    plain = searched.sweep
    searched.sweep = plain.select("best", 0.01)
    run_id = searched.trial("later", 0, RIGHT)
    found = collect(searched, plain, "made-up").trials
    assert run_id in {trial.run_id for trial in found}


def test_the_page_says_what_was_selected_and_what_waits(searched: MemoryStore) -> None:
    def circumstances() -> str:
        evidence = collect(searched, searched.sweep, "made-up")
        table = build_table(TABLES["5"], evidence, command="cmkd sweep it")
        return "\n".join(build_page(table, version="v").circumstances)

    assert "Selected: best = 0.01: best mean validation accuracy of method.lambda_1" in (
        circumstances()
    )
    searched.runs = [run for run in searched.runs if run.tags["arm"] != "search[lambda_1=1.0]"]
    text = circumstances()
    assert "Selected" not in text
    assert "Rows that wait for the selection of best: run: cmkd sweep it." in text


CLAIMS = """
level: 0.05
arms:
  printed: {method: {lambda_1: 0.1, lambda_2: 5.0}}
  searched: {method: {lambda_1: 0.1}}
claims:
  later: {says: s, source: t, kind: better, sweep: ablation, families: [TSM],
    pairs: [[printed, searched]]}
"""


def test_a_claim_says_what_was_selected_in_place_of_the_papers_value(
    searched: MemoryStore, tmp_path: Path
) -> None:
    (path := tmp_path / "claims.yaml").write_text(CLAIMS)
    request = Request((), "made-up", str(searched.sweep.path))
    (result,) = judge(read_claims(path), Gatherer(request, searched), {}).results
    assert result.verdict == "no runs"
    assert result.reason.endswith(
        "has no arm 'printed' in the TSM family; its search selected best = 0.01"
    )
