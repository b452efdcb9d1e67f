from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cmkd.config.sweep import Sweep
from cmkd.report.evidence import Evidence, collect
from cmkd.report.paper import TABLES
from cmkd.report.table_page import build_page
from cmkd.report.tables import (
    ArmResult,
    Difference,
    Epoch,
    arm_result,
    arm_results,
    build_table,
    score_of_teachers,
)
from cmkd.stats import estimate

if TYPE_CHECKING:
    from conftest import MemoryStore


def _first(count: int) -> list[int]:
    return [1] * count + [0] * (10 - count)


def result(store: MemoryStore, evidence: Evidence, name: str) -> ArmResult:
    return arm_result(evidence, store.sweep.only([name]).arms[0])


def minus(own: ArmResult, reference: ArmResult, epoch: Epoch = "selected") -> Difference:
    return Difference("", ((1.0, own), (-1.0, reference)), epoch)


def points(own: ArmResult, reference: ArmResult) -> np.ndarray:
    return 100.0 * own.right["selected"] - 100.0 * reference.right["selected"]


def test_score_and_paired_difference_by_hand(full_store: MemoryStore) -> None:
    evidence = collect(full_store, full_store.sweep, "made-up")
    spatial, control = (result(full_store, evidence, name) for name in ("spatial", "control"))
    assert evidence.test.sessions is None
    cell = spatial.selected
    assert cell.per_seed == pytest.approx((70, 80, 80))
    assert cell.mean == pytest.approx(230 / 3)
    assert cell.sd == pytest.approx((100 / 3) ** 0.5)
    assert spatial.scores["last"].mean == pytest.approx(200 / 3)
    # Pairs 70-50, 80-60, 80-50; the interval is the one of all reports.
    delta = minus(spatial, control)
    assert (delta.reference, delta.seeds) == ("control", (0, 1, 2))
    assert delta.per_seed == pytest.approx((20, 20, 30))
    assert delta.mean == pytest.approx(70 / 3)
    known = estimate(points(spatial, control)).interval()
    assert known is not None and delta.interval == known
    assert cell.interval is not None and cell.interval.high == 100.0


def test_only_shared_seeds_are_paired(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0])
    store.trial("control", 2, [0, 0])
    store.trial("spatial", 2, [1, 0])
    store.trial("spatial", 3, [1, 1])
    store.trial("temporal", 5, [1, 1])
    evidence = collect(store, store.sweep, "made-up")
    control = result(store, evidence, "control")
    delta = minus(result(store, evidence, "spatial"), control)
    assert (delta.mean, delta.interval, delta.seeds) == (50.0, None, (2,))
    none = minus(result(store, evidence, "temporal"), control)
    assert (none.mean, none.interval, none.seeds, none.trials) == (None, None, (), ())


def test_folds_are_pooled_by_clip(store: MemoryStore) -> None:
    # Seed 0: 1 of 1 and 1 of 3 right are 2 of 4 clips, not the mean of 100 % and 33 %.
    store.trial("spatial", 0, [1], fold=0)
    store.trial("spatial", 0, [1, 0, 0], fold=2)
    store.trial("spatial", 1, [1, 1, 0], fold=2)
    evidence = collect(store, store.sweep, "made-up")
    spatial = result(store, evidence, "spatial")
    assert evidence.test.folds == (0, 2, 2, 2)
    assert evidence.test.clips == ("f0/0000", "f2/0000", "f2/0001", "f2/0002")
    assert spatial.seeds == (0,)
    assert spatial.partial == {1: (0,)}
    assert spatial.selected.per_seed == (50.0,)
    store.teacher(0, 100.0)
    assert score_of_teachers(collect(store, store.sweep, "made-up"), "TSM", "last").mean is None
    store.teacher(2, 60.0)
    taught = collect(store, store.sweep, "made-up")
    # Seed 1 has a teacher of fold 2 alone.
    assert score_of_teachers(taught, "TSM", "last").per_seed == (70.0,)


def test_groups_decide_the_interval(store: MemoryStore) -> None:
    """Three seeds on four sessions of two clips; with two sessions there is no interval."""
    right = {"control": [0, 0, 1, 0, 0, 0, 1, 0], "spatial": [1, 1, 1, 0, 0, 0, 1, 1]}
    for name, values in right.items():
        for seed in range(3):
            own = [*values[seed:], *values[:seed]]
            for fold, names in enumerate(("aabbccdd", "aaaabbbb")):
                groups = [f"{fold}{letter}" for letter in names]
                store.trial(name, seed, own, groups=groups, fold=fold)
    evidence = collect(store, store.sweep, "made-up")
    spatial, control = (result(store, evidence, name) for name in ("spatial", "control"))
    assert evidence.test.sessions is not None
    delta = minus(spatial, control)
    assert delta.mean == pytest.approx(37.5)
    assert delta.interval == estimate(points(spatial, control), evidence.test.sessions).interval()
    assert delta.interval != estimate(points(spatial, control)).interval()
    second = np.array(evidence.test.folds) == 1
    few = minus(spatial.of_clips(second), control.of_clips(second))
    assert few.parts[0][1].test.group_names == ("1a", "1b")
    assert few.interval is None


def test_clips_without_a_group_are_groups_of_their_own(store: MemoryStore) -> None:
    groups = ["s1"] * 2 + [""] * 8
    store.trial("control", 0, [1, 1] + [1, 0] * 4, groups=groups)
    store.trial("control", 0, [1, 0], groups=["s1", ""], fold=1)
    evidence = collect(store, store.sweep, "made-up")
    test = evidence.test
    assert test.sessions is not None
    assert test.group_names == ("s1",)
    # The clips of s1 share a number across folds; the others share theirs with no clip.
    units = test.sessions.tolist()
    assert units[0] == units[1] == units[10]
    assert len(set(units)) == 1 + 9
    assert result(store, evidence, "control").selected.interval is None, "one seed"


def test_differences_at_the_last_epoch(full_store: MemoryStore) -> None:
    full_store.trial("control", 3, _first(5), last=_first(5))
    full_store.trial("spatial", 3, _first(5), last=_first(9))
    evidence = collect(full_store, full_store.sweep, "made-up")
    spatial, control = (result(full_store, evidence, name) for name in ("spatial", "control"))
    # Pairs 60-40, 70-50, 70-40, 90-50
    last = minus(spatial, control, "last")
    assert last.mean == pytest.approx(27.5)
    assert last.interval is not None
    assert last.interval.low < 27.5 < last.interval.high
    assert minus(spatial, control).mean == pytest.approx(17.5)


def test_what_no_seed_changes_has_no_spread(
    store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    store.sweep = make_sweep("  motion_svm: {model: [motion_svm]}\n")
    for seed in (0, 1):
        store.trial("motion_svm", seed, [1, 0, 1, 0])
        store.trial("control", seed, [1, 0, 1, 0])
    evidence = collect(store, store.sweep, "made-up")
    svm = result(store, evidence, "motion_svm")
    cell = svm.selected
    assert (cell.mean, cell.sd, cell.deterministic) == (50.0, None, True)
    known = estimate(100.0 * svm.right["selected"][:1], deterministic=True).interval()
    assert known is not None and known.low < 0
    assert cell.interval is not None and cell.interval.low == 0.0
    # A student may get the same clips right with all its seeds, by chance or because it knows all.
    control = result(store, evidence, "control")
    assert (control.selected.sd, control.selected.deterministic) == (0.0, False)
    moved = replace(svm, right={"selected": np.array([[1, 0, 1, 0], [1, 0, 1, 1]], bool)})
    assert not moved.selected.deterministic
    one = replace(svm, right={"selected": svm.right["selected"][:1]})
    assert not one.selected.deterministic


def test_every_clip_its_own_group_is_no_grouping(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0], groups=["a", "b"])
    assert collect(store, store.sweep, "made-up").test.sessions is None


def test_bold_are_the_best_and_what_is_near_it(full_store: MemoryStore) -> None:
    """Means 50, 53.3, 76.7, 56.7 and 83.3; an arm of two seeds has no part in it."""

    def best(epoch: Epoch) -> set[str]:
        evidence = collect(full_store, full_store.sweep, "made-up")
        found = arm_results(evidence)
        return {name for name, own in found.items() if epoch in own.best}

    assert best("selected") == best("last") == {"both"}
    full_store.runs = [run for run in full_store.runs if run.run_id != "run-both-2-0"]
    assert best("selected") == {"spatial"}
    full_store.runs = [run for run in full_store.runs if run.tags.get("arm") == "both"]
    assert best("selected") == set()


def test_cells_know_their_trials(store: MemoryStore) -> None:
    for seed in (0, 1):
        for fold in (0, 1):
            store.trial("control", seed, [1, 0], fold=fold)
    store.trial("control", 2, [1, 0])
    store.trial("spatial", 0, [1, 0])
    store.trial("spatial", 0, [1, 0], fold=1)
    evidence = collect(store, store.sweep, "made-up")
    control, spatial = (result(store, evidence, name) for name in ("control", "spatial"))
    of_control = tuple(f"trial-run-control-{seed}-{fold}" for seed in (0, 1) for fold in (0, 1))
    assert control.trials == of_control
    # A difference rests on the trials of the shared seeds alone.
    of_spatial = ("trial-run-spatial-0-0", "trial-run-spatial-0-1")
    assert minus(spatial, control).trials == of_spatial + of_control[:2]


def test_an_arm_without_runs(full_store: MemoryStore, make_sweep: Callable[[str], Sweep]) -> None:
    evidence = collect(full_store, full_store.sweep, "made-up")
    (other,) = make_sweep("  other: {method.lambda_1: [7.0]}\n").only(["other"]).arms
    nothing = arm_result(evidence, other)
    cell = nothing.selected
    assert (cell.mean, cell.sd, cell.interval, cell.per_seed) == (None, None, None, ())
    assert minus(nothing, result(full_store, evidence, "both")).seeds == ()


def test_accuracy_of_a_group_of_clips(store: MemoryStore) -> None:
    for seed in range(3):
        store.trial("control", seed, [1, 1, int(seed == 0)], groups=["a", "a", "b"])
    table = build_table(TABLES["4"], collect(store, store.sweep, "made-up"))
    grids = {grid.name: grid for grid in build_page(table, version="v").grids}
    at = grids["groups"].columns.index("control")
    values = {line.cells[0].text: line.cells[at].value for line in grids["groups"].lines}
    assert values == {"a": 100.0, "b": pytest.approx(100 / 3)}
