from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cmkd.config.sweep import Sweep, load_sweep
from cmkd.errors import ConfigError
from cmkd.report.evidence import collect
from cmkd.report.paper import TABLES
from cmkd.report.table_page import build_page
from cmkd.report.tables import ArmResult, Row, Table, build_table

if TYPE_CHECKING:
    from conftest import MemoryStore

LONG = """
  motion_svm: {model: [motion_svm], method.lambda_1: [0.0], method.lambda_2: [0.0]}
  control_long: {method.lambda_1: [0.0], method.lambda_2: [0.0], training.epochs: [60]}
  spatial_long: {method.lambda_2: [0.0], training.epochs: [60]}
  logits: {method.logits: [mse]}
"""

TDN = """
  x:
    student.backbone: [tiny_tdn]
    method.decoder: [false]
    method.lambda_1: [0.0]
    method.lambda_2: [0.0]
  y: {student.backbone: [tiny_tdn], method.lambda_1: [0.0], method.lambda_2: [0.0]}
  z: {student.backbone: [tiny_tdn]}
"""


def build(store: MemoryStore, name: str = "4") -> Table:
    evidence = collect(store, store.sweep, "made-up")
    return build_table(TABLES[name], evidence)


def row_of(table: Table, arm: str) -> Row:
    return next(row for row in table.rows if arm_of(row) == arm)


def arm_of(row: Row) -> str | None:
    return row.measured.arm.name if row.measured is not None else None


def measured(table: Table, arm: str) -> ArmResult:
    return next(one for one in table.measured if one.arm.name == arm)


def test_rows_in_the_order_of_the_paper_then_the_rest(full_store: MemoryStore) -> None:
    table = build(full_store)
    assert [(row.method, arm_of(row)) for row in table.rows] == [
        ("TSM [17]", "baseline"),
        ("TSM+ours", "spatial"),
        ("TSM +ours", "temporal"),
        ("TSM+ours", "both"),
        ("TSM, decoder, no KD (control)", "control"),
        ("RGB teacher of the TSM family", None),
        ("TDN [18]", None),
        ("TDN+ours", None),
        ("TDN +ours", None),
        ("TDN+ours", None),
    ]
    control, teacher = table.rows[4:6]
    assert (control.labels, control.printed) == (("No", "No"), None)
    assert teacher.teacher is not None
    assert (teacher.teacher.ids, teacher.teacher.scores["selected"].mean) == (("teacher-0",), 90.0)


def test_both_halves_have_their_rows_references_and_teachers(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    full_store.sweep = make_sweep(TDN)
    for arm, count in (("x", 2), ("y", 3), ("z", 9)):
        full_store.trial(arm, 0, [1] * count + [0] * (10 - count), tags={"teacher": "taught"})
    table = build(full_store)
    assert [(row.family, arm_of(row)) for row in table.rows] == [
        ("TSM", "baseline"),
        ("TSM", "spatial"),
        ("TSM", "temporal"),
        ("TSM", "both"),
        ("TSM", "control"),
        ("TSM", None),
        ("TDN", "x"),
        ("TDN", None),
        ("TDN", None),
        ("TDN", "z"),
        ("TDN", "y"),
        ("TDN", None),
    ]
    # The names of the arms say nothing; references are of the row's own half.
    both = measured(table, "z").differences["selected"]
    assert {role: one and (one.reference, one.mean) for role, one in both.items()} == {
        "baseline": ("x", 70.0),
        "control": ("y", 60.0),
    }
    assert [row.teacher.ids for row in table.rows if row.teacher is not None] == [
        ("teacher-0",),
        ("taught",),
    ]
    # The best of a half is sought in that half alone.
    assert measured(table, "both").best == {"selected", "last"}


def test_cells_value_by_value(full_store: MemoryStore) -> None:
    table = build(full_store)
    means = {}
    for one in table.measured:
        deltas = [delta and delta.mean for delta in one.differences["selected"].values()]
        means[one.arm.name] = (one.selected.mean, *deltas)
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
    before = measured(build(full_store), "both")
    full_store.sweep = make_sweep(LONG)
    full_store.trial("logits", 0, [1] * 10)
    full_store.trial("logits", 1, [1] * 10)
    table = build(full_store)
    assert measured(table, "both").selected == before.selected
    assert row_of(table, "both").printed is not None
    assert row_of(table, "logits").printed is None
    assert measured(table, "logits").selected.mean == 100.0


def test_a_variant_never_stands_for_the_whole(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep], tmp_path: Path
) -> None:
    # The variant comes first in the file, and fits the row as well as the default does.
    path = tmp_path / "variants.yaml"
    text = (tmp_path / "made_up.yaml").read_text()
    path.write_text(text.replace("blocks:", "blocks:\n  gated: {method.gate: [softmax]}"))
    full_store.sweep = load_sweep(str(path))
    full_store.trial("gated", 0, [1] * 10)
    table = build(full_store)
    assert row_of(table, "both").printed is not None
    assert row_of(table, "gated").printed is None


def test_differences_compare_equal_schedules(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    full_store.sweep = make_sweep(LONG)
    full_store.trial("control_long", 0, [1] * 8 + [0] * 2)
    full_store.trial("spatial_long", 0, [1] * 9 + [0])
    full_store.trial("motion_svm", 0, [1] * 7 + [0] * 3)
    table = build(full_store)
    long = measured(table, "spatial_long").differences["selected"]
    assert long["control"] is not None
    assert (long["control"].reference, long["control"].mean) == ("control_long", 10.0)
    assert long["baseline"] is None
    svm = row_of(table, "motion_svm")
    assert (svm.method, svm.labels) == ("SVM on motion vectors", ("n/a", "n/a"))
    to_baseline = measured(table, "motion_svm").differences["selected"]["baseline"]
    assert to_baseline is not None
    assert (to_baseline.reference, to_baseline.mean) == ("baseline", 20)


def test_a_control_of_another_interpretation_is_marked(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    full_store.sweep = make_sweep("  gated: {method.gate: [softmax]}\n")
    for seed in (0, 1, 2):
        full_store.trial("gated", seed, [1] * 7 + [0] * 3)
    table = build(full_store)
    gaps = {}
    for one in table.measured:
        to_control = one.differences["selected"]["control"]
        assert to_control is not None
        gaps[one.arm.name] = to_control.gap
    assert {name: gap for name, gap in gaps.items() if gap} == {"gated": ("method.gate",)}
    page = build_page(table, version="cmkd test")
    marked = [cell.arm for line in page.grids[0].lines for cell in line.cells if "§" in cell.text]
    assert marked == ["gated"]
    note = next(line for line in page.circumstances if line.startswith("§ gated"))
    assert "control" in note and "method.gate" in note


def test_differences_of_both_epochs(full_store: MemoryStore) -> None:
    full_store.trial("control", 3, [1] * 5 + [0] * 5)
    full_store.trial("spatial", 3, [0] * 10, last=[1] * 10)
    spatial = measured(build(full_store), "spatial").differences
    selected, last = spatial["selected"]["control"], spatial["last"]["control"]
    assert selected is not None and last is not None
    assert selected.mean == pytest.approx((20 + 20 + 30 - 50) / 4)
    assert last.mean == pytest.approx((20 + 20 + 30 + 50) / 4)
    to_baseline = spatial["last"]["baseline"]
    assert to_baseline is not None
    assert (to_baseline.reference, len(to_baseline.seeds)) == ("baseline", 3)


def test_only_the_svm_can_be_deterministic(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    full_store.sweep = make_sweep(LONG)
    for seed in (0, 1, 2):
        for name in ("motion_svm", "logits"):
            full_store.trial(name, seed, [1] * 10)
    table = build(full_store)
    svm = measured(table, "motion_svm")
    assert (svm.selected.deterministic, svm.scores["last"].deterministic) == (True, True)
    assert not measured(table, "logits").selected.deterministic


def test_rows_of_table_5_are_exact_weights(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    full_store.sweep = make_sweep(
        "  weak: {method.lambda_1: [0.01], method.lambda_2: [0.0]}\n"
        "  odd: {method.lambda_1: [0.5], method.lambda_2: [0.0]}\n"
        "  logits: {method.logits: [mse]}\n"
    )
    for name in ("weak", "odd", "logits"):
        full_store.trial(name, 0, [1] * 10)
    rows = build(full_store, "5").rows
    found = {row.labels + (row.method,): arm_of(row) for row in rows if row.printed}
    assert found == {
        ("0.0", "0.0", "TSM [17]"): "baseline",
        ("0.01", "0.0", "TSM+ours"): "weak",
        ("0.1", "0.0", "TSM+ours"): "spatial",
        ("1.0", "0.0", "TSM+ours"): None,
        ("0.1", "0.0", "TSM+ours+logits"): None,
        ("0.1", "0.1", "TSM+ours"): None,
        ("0.1", "1.0", "TSM+ours"): "both",
        ("0.1", "5.0", "TSM+ours"): None,
        ("0.1", "1.0", "TSM+ours+logits"): "logits",
    }
    outside = {arm_of(row): row.labels for row in rows if arm_of(row) and not row.printed}
    assert outside == {"control": ("0", "0"), "odd": ("0.5", "0"), "temporal": ("0", "1")}


def test_table_2_puts_ours_beside_the_literature(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    rows = build(full_store, "2").rows
    ours = [(r.method, r.labels[1], arm_of(r)) for r in rows if r.measured is not None]
    assert ours == [
        ("TSM [17]", "CD", "baseline"),
        ("TSM+ours", "CD", "both"),
        ("control", "CD", "control"),
        ("spatial", "CD", "spatial"),
        ("temporal", "CD", "temporal"),
    ]
    # The TSM students were taught by a TDN, so it is the teacher of the TDN row, and of no other.
    teachers = [r for r in rows if r.teacher is not None]
    assert [(row.method, row.labels[1]) for row in teachers] == [("TDN [18]", "RD")]
    assert sum(row.family is None for row in rows) == 5


def test_components_compare_with_the_whole_however_it_is_spelt(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    full_store.sweep = make_sweep("  gate: {method.gate: ['off', softmax]}\n")
    for seed in (0, 1, 2):
        full_store.trial("gate[gate=softmax]", seed, [1] * 7 + [0] * 3)
    table = build(full_store, "components")
    assert {row.printed for row in table.rows} == {None}
    on = measured(table, "gate[gate=softmax]").differences["selected"]["both"]
    assert on is not None
    assert (on.reference, on.mean) == ("both", pytest.approx(-40 / 3))
    # The same setting as `both` under another name is that arm, not a rival of it.
    same = measured(table, "gate[gate=off]").differences["selected"]["both"]
    assert same is not None
    assert (same.reference, same.mean) == ("gate[gate=off]", 0.0)


def test_a_sweep_of_other_arms_has_no_table_4(full_store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(
        "name: other\ndescription: d\nblocks:\n"
        "  mine: {model: [motion_svm], method.lambda_1: [0.0], method.lambda_2: [0.0]}\n"
    )
    full_store.sweep = load_sweep(str(path))
    full_store.trial("mine", 0, [1] * 10)
    with pytest.raises(ConfigError, match=r"other.yaml: none of its arms is a row of table 4"):
        build(full_store)
