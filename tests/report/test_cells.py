from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cmkd.report.cells import (
    Outcomes,
    difference,
    fold_weighted,
    group_accuracies,
    outcomes,
    score,
    shared_test_set,
)
from cmkd.report.evidence import Evidence, collect

if TYPE_CHECKING:
    from conftest import MemoryStore


def arm(store: MemoryStore, evidence: Evidence, name: str) -> Outcomes:
    return outcomes(evidence, store.sweep.arm(name).setting.id)


def test_score_and_paired_difference_by_hand(full_store: MemoryStore) -> None:
    evidence = collect(full_store, full_store.sweep, "made-up")
    test = shared_test_set(evidence)
    spatial, control = (arm(full_store, evidence, name) for name in ("spatial", "control"))
    assert not test.grouped
    cell = score(spatial.selected, test)
    assert cell.per_seed == pytest.approx((70, 80, 80))
    assert cell.mean == pytest.approx(230 / 3)
    assert cell.sd == pytest.approx((100 / 3) ** 0.5)
    assert score(spatial.last, test).mean == pytest.approx(200 / 3)
    # Pairs 70-50, 80-60, 80-50: mean 70/3, SD sqrt(100/3), t(0.975, 2) = 4.302653
    delta = difference(spatial, control, "control", test)
    assert (delta.reference, delta.pairs) == ("control", 3)
    assert delta.mean == pytest.approx(70 / 3)
    assert delta.interval is not None
    assert delta.interval.low == pytest.approx(70 / 3 - 4.302653 * 10 / 3, abs=1e-4)
    assert delta.interval.high == pytest.approx(70 / 3 + 4.302653 * 10 / 3, abs=1e-4)


def test_only_shared_seeds_are_paired(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0])
    store.trial("control", 2, [0, 0])
    store.trial("spatial", 2, [1, 0])
    store.trial("spatial", 3, [1, 1])
    store.trial("temporal", 5, [1, 1])
    evidence = collect(store, store.sweep, "made-up")
    test = shared_test_set(evidence)
    control = arm(store, evidence, "control")
    delta = difference(arm(store, evidence, "spatial"), control, "control", test)
    assert (delta.mean, delta.interval, delta.pairs) == (50.0, None, 1)
    none = difference(arm(store, evidence, "temporal"), control, "control", test)
    assert (none.mean, none.interval, none.pairs) == (None, None, 0)


def test_folds_are_pooled_by_clip(store: MemoryStore) -> None:
    # Seed 0: 1 of 1 and 1 of 3 right are 2 of 4 clips, not the mean of 100 % and 33 %.
    store.trial("control", 0, [1], fold=0)
    store.trial("control", 0, [1, 0, 0], fold=2)
    store.trial("control", 1, [1, 1, 0], fold=2)
    evidence = collect(store, store.sweep, "made-up")
    test = shared_test_set(evidence)
    control = arm(store, evidence, "control")
    assert test.folds == (0, 2, 2, 2)
    assert test.clips == ("f0/0000", "f2/0000", "f2/0001", "f2/0002")
    assert control.seeds == (0,)
    assert control.partial == {1: (0,)}
    assert control.run_ids == ("run-control-0-0", "run-control-0-2")
    assert score(control.selected, test).per_seed == (50.0,)
    assert fold_weighted({0: 100.0, 2: 60.0}, test) == 70.0
    assert fold_weighted({0: 100.0}, test) is None
    assert fold_weighted({0: 100.0, 2: None}, test) is None


def test_groups_decide_the_interval(store: MemoryStore) -> None:
    groups = ["s1"] * 2 + ["s2"] * 2
    for seed in (0, 1):
        store.trial("control", seed, [0, 0, 0, 0], groups=groups)
    store.trial("spatial", 0, [1, 1, 0, 0], groups=groups)
    store.trial("spatial", 1, [1, 0, 0, 0], groups=groups)
    evidence = collect(store, store.sweep, "made-up")
    test = shared_test_set(evidence)
    spatial, control = (arm(store, evidence, name) for name in ("spatial", "control"))
    assert test.grouped
    # Averaged over seeds, session s1 gains 75 points and s2 none; resamples are 0, 37.5 or 75.
    delta = difference(spatial, control, "control", test)
    assert delta.mean == pytest.approx(37.5)
    assert delta.interval is not None
    assert (delta.interval.low, delta.interval.high) == (0.0, 75.0)
    assert group_accuracies(spatial, test) == {"s1": 75.0, "s2": 0.0}


def test_every_clip_its_own_group_is_no_grouping(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0], groups=["a", "b"])
    assert not shared_test_set(collect(store, store.sweep, "made-up")).grouped


def test_an_arm_without_runs(full_store: MemoryStore) -> None:
    evidence = collect(full_store, full_store.sweep, "made-up")
    test = shared_test_set(evidence)
    nothing = outcomes(evidence, "unknown")
    cell = score(nothing.selected, test)
    assert (cell.mean, cell.sd, cell.interval, cell.per_seed) == (None, None, None, ())
    assert difference(nothing, arm(full_store, evidence, "both"), "both", test).pairs == 0
