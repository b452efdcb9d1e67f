from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cmkd.config.sweep import Sweep, load_sweep
from cmkd.errors import ConfigError
from cmkd.report.evidence import collect
from cmkd.report.published import load_published
from cmkd.report.tables import Row, Table, build_table

if TYPE_CHECKING:
    from conftest import MemoryStore

LONG = """
  motion_svm: {model: [motion_svm], method.lambda_1: [0.0], method.lambda_2: [0.0]}
  control_long: {method.lambda_1: [0.0], method.lambda_2: [0.0], training.epochs: [60]}
  spatial_long: {method.lambda_2: [0.0], training.epochs: [60]}
  logits: {method.logits: [mse]}
"""


def build(store: MemoryStore) -> Table:
    evidence = collect(store, store.sweep, "made-up")
    return build_table(load_published("table_4"), store.sweep, evidence)


def row_of(table: Table, arm: str) -> Row:
    return next(row for row in table.rows if row.measured and row.measured.arm.name == arm)


def test_rows_in_the_order_of_the_paper_then_the_rest(full_store: MemoryStore) -> None:
    table = build(full_store)
    assert [(row.method, row.measured and row.measured.arm.name) for row in table.rows] == [
        ("TSM [17]", "baseline"),
        ("TSM+ours", "spatial"),
        ("TSM +ours", "temporal"),
        ("TSM+ours", "both"),
        ("TDN [18]", None),
        ("TDN+ours", None),
        ("TDN +ours", None),
        ("TDN+ours", None),
        ("decoder, no KD (control)", "control"),
    ]
    control = table.rows[-1]
    assert (control.spatial_kd, control.temporal_kd, control.printed) == ("No", "No", None)
    assert table.teacher is not None
    assert (table.teacher.ids, table.teacher.selected) == (("teacher-0",), 90.0)


def test_cells_value_by_value(full_store: MemoryStore) -> None:
    table = build(full_store)
    means = {
        row.measured.arm.name: (
            row.measured.selected.mean,
            row.measured.to_baseline and row.measured.to_baseline.mean,
            row.measured.to_control and row.measured.to_control.mean,
        )
        for row in table.rows
        if row.measured
    }
    assert means == {
        "baseline": pytest.approx((50, 0, -10 / 3)),
        "spatial": pytest.approx((230 / 3, 80 / 3, 70 / 3)),
        "temporal": pytest.approx((170 / 3, 20 / 3, 10 / 3)),
        "both": pytest.approx((250 / 3, 100 / 3, 30)),
        "control": pytest.approx((160 / 3, 10 / 3, 0)),
    }


def test_a_logits_trial_never_reaches_the_row_of_both(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    before = row_of(build(full_store), "both").measured
    full_store.sweep = make_sweep(LONG)
    full_store.trial("logits", 0, [1] * 10)
    full_store.trial("logits", 1, [1] * 10)
    table = build(full_store)
    both, logits = row_of(table, "both").measured, row_of(table, "logits").measured
    assert before is not None and both is not None and logits is not None
    assert both.selected == before.selected
    assert logits.selected.mean == 100.0


def test_differences_compare_equal_schedules(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    full_store.sweep = make_sweep(LONG)
    full_store.trial("control_long", 0, [1] * 8 + [0] * 2)
    full_store.trial("spatial_long", 0, [1] * 9 + [0])
    full_store.trial("motion_svm", 0, [1] * 7 + [0] * 3)
    table = build(full_store)
    long = row_of(table, "spatial_long").measured
    assert long is not None and long.to_control is not None
    assert (long.to_control.reference, long.to_control.mean) == ("control_long", 10.0)
    assert long.to_baseline is None
    svm = row_of(table, "motion_svm")
    assert (svm.method, svm.spatial_kd) == ("SVM on motion vectors", "n/a")
    assert svm.measured is not None and svm.measured.to_baseline is not None
    assert (svm.measured.to_baseline.reference, svm.measured.to_baseline.mean) == ("baseline", 20)


def test_differences_of_both_epochs(full_store: MemoryStore) -> None:
    full_store.trial("control", 3, [1] * 5 + [0] * 5)
    full_store.trial("spatial", 3, [0] * 10, last=[1] * 10)
    spatial = row_of(build(full_store), "spatial").measured
    assert spatial is not None
    assert spatial.to_control is not None and spatial.last_to_control is not None
    assert spatial.to_control.mean == pytest.approx((20 + 20 + 30 - 50) / 4)
    assert spatial.last_to_control.mean == pytest.approx((20 + 20 + 30 + 50) / 4)
    assert spatial.last_to_baseline is not None
    assert (spatial.last_to_baseline.reference, spatial.last_to_baseline.pairs) == ("baseline", 3)


def test_only_the_svm_can_be_deterministic(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    full_store.sweep = make_sweep(LONG)
    for seed in (0, 1, 2):
        for name in ("motion_svm", "logits"):
            full_store.trial(name, seed, [1] * 10)
    table = build(full_store)
    svm, logits = row_of(table, "motion_svm").measured, row_of(table, "logits").measured
    assert svm is not None and logits is not None
    assert (svm.selected.deterministic, svm.last.deterministic) == (True, True)
    assert not logits.selected.deterministic


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("spatial: {method.lambda_2: [0.0]}", "spatial: {method.lambda_1: [0.2]}"),
        ("method.decoder: [false]", "method.decoder: [true], method.heads: [2]"),
        ("both: {method.lambda_1: [0.1]}", "both: {method.logits: [mse]}"),
    ],
)
def test_an_arm_must_be_what_its_row_says(
    full_store: MemoryStore, tmp_path: Path, old: str, new: str
) -> None:
    path = tmp_path / "made_up.yaml"
    changed = path.read_text().replace(old, new)
    assert changed != path.read_text()
    path.write_text(changed)
    sweep = load_sweep(str(path))
    evidence = collect(full_store, full_store.sweep, "made-up")
    with pytest.raises(ConfigError, match=r"made_up.yaml: arm .* is not the row 'TSM"):
        build_table(load_published("table_4"), sweep, evidence)


def test_a_sweep_of_other_arms_has_no_table_4(full_store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("name: other\ndescription: d\nblocks: {mine: {method.lambda_1: [0.3]}}\n")
    evidence = collect(full_store, full_store.sweep, "made-up")
    with pytest.raises(ConfigError, match=r"other.yaml: none of its arms.*baseline, both, spatial"):
        build_table(load_published("table_4"), load_sweep(str(path)), evidence)
