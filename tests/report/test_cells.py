from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cmkd.report import cells
from cmkd.report.cells import (
    ArmPredictions,
    best_arms,
    difference,
    fold_weighted,
    group_accuracies,
    outcomes,
    score,
    shared_test_set,
)
from cmkd.report.evidence import Evidence, collect
from cmkd.stats import estimate

if TYPE_CHECKING:
    from conftest import MemoryStore


def _first(count: int) -> list[int]:
    return [1] * count + [0] * (10 - count)


def arm(store: MemoryStore, evidence: Evidence, name: str) -> ArmPredictions:
    return outcomes(evidence, store.sweep.only([name]).arms[0].setting.id)


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
    # Pairs 70-50, 80-60, 80-50; the interval is the one of all reports.
    delta = difference(spatial, control, "control", test)
    assert (delta.reference, delta.pairs) == ("control", 3)
    assert delta.mean == pytest.approx(70 / 3)
    known = estimate(100.0 * spatial.selected - 100.0 * control.selected).interval()
    assert known is not None and delta.interval == known
    assert cell.interval is not None and cell.interval.high == 100.0


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
    assert score(control.selected, test).per_seed == (50.0,)
    assert fold_weighted({0: 100.0, 2: 60.0}, test) == 70.0
    assert fold_weighted({0: 100.0}, test) is None
    assert fold_weighted({0: 100.0, 2: None}, test) is None


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
    test = shared_test_set(evidence)
    spatial, control = (arm(store, evidence, name) for name in ("spatial", "control"))
    assert test.grouped
    delta = difference(spatial, control, "control", test)
    assert delta.mean == pytest.approx(37.5)
    values = 100.0 * spatial.selected - 100.0 * control.selected
    assert delta.interval == estimate(values, test.units).interval()
    assert delta.interval != estimate(values).interval()
    few = cells.TestSet(test.clips[8:], test.groups[8:], test.folds[8:])
    parts = (replace(one, selected=one.selected[:, 8:]) for one in (spatial, control))
    assert difference(*parts, "control", few).interval is None
    assert group_accuracies(spatial, test)["0a"] == pytest.approx(100 * 5 / 6)


def test_clips_without_a_group_are_groups_of_their_own(store: MemoryStore) -> None:
    groups = ["s1"] * 2 + [""] * 8
    store.trial("control", 0, [1, 1] + [1, 0] * 4, groups=groups)
    store.trial("control", 0, [1, 0], groups=["s1", ""], fold=1)
    evidence = collect(store, store.sweep, "made-up")
    test = shared_test_set(evidence)
    assert test.grouped
    assert test.group_names == ("s1",)
    # The clips of s1 share a number across folds; the others share theirs with no clip.
    units = test.units.tolist()
    assert units[0] == units[1] == units[10]
    assert len(set(units)) == 1 + 9
    assert group_accuracies(arm(store, evidence, "control"), test) == {"s1": 100.0}
    cell = score(arm(store, evidence, "control").selected, test)
    assert cell.interval is None, "one seed"


def test_differences_at_the_last_epoch(full_store: MemoryStore) -> None:
    full_store.trial("control", 3, _first(5), last=_first(5))
    full_store.trial("spatial", 3, _first(5), last=_first(9))
    evidence = collect(full_store, full_store.sweep, "made-up")
    spatial, control = (arm(full_store, evidence, name) for name in ("spatial", "control"))
    test = shared_test_set(evidence)
    # Pairs 60-40, 70-50, 70-40, 90-50
    last = difference(spatial, control, "control", test, "last")
    assert last.mean == pytest.approx(27.5)
    assert last.interval is not None
    assert last.interval.low < 27.5 < last.interval.high
    assert difference(spatial, control, "control", test).mean == pytest.approx(17.5)


def test_what_no_seed_changes_has_no_spread(store: MemoryStore) -> None:
    for seed in (0, 1):
        store.trial("control", seed, [1, 0, 1, 0])
        store.trial("spatial", seed, [1, 0, 1, seed])
    evidence = collect(store, store.sweep, "made-up")
    test = shared_test_set(evidence)
    same, other = (arm(store, evidence, name).selected for name in ("control", "spatial"))
    cell = score(same, test, seedless=True)
    assert (cell.mean, cell.sd, cell.deterministic) == (50.0, None, True)
    known = estimate(100.0 * same[:1], deterministic=True).interval()
    assert known is not None and known.low < 0
    assert cell.interval is not None and cell.interval.low == 0.0
    # A student may get the same clips right with all its seeds, by chance or because it knows all.
    assert score(same, test).sd == 0.0
    assert not score(same, test).deterministic
    assert not score(other, test, seedless=True).deterministic
    assert not score(same[:1], test, seedless=True).deterministic


def test_every_clip_its_own_group_is_no_grouping(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0], groups=["a", "b"])
    assert not shared_test_set(collect(store, store.sweep, "made-up")).grouped


def test_bold_are_the_best_and_what_is_near_it(full_store: MemoryStore) -> None:
    """Means 50, 53.3, 76.7, 56.7 and 83.3; two seeds have no part in it."""
    evidence = collect(full_store, full_store.sweep, "made-up")
    names = ("baseline", "control", "spatial", "temporal", "both")
    arms = {name: arm(full_store, evidence, name) for name in names}
    assert best_arms(arms, "selected") == {"both"}
    short = replace(arms["both"], seeds=(0, 1), selected=arms["both"].selected[:2])
    assert best_arms({**arms, "both": short}, "selected") == {"spatial"}
    unknown = {**arms, "none": outcomes(evidence, "unknown")}
    assert best_arms(unknown, "last") == {"both"}
    assert best_arms({"both": arms["both"]}, "selected") == frozenset()


def test_cells_know_their_trials(store: MemoryStore) -> None:
    for seed in (0, 1):
        for fold in (0, 1):
            store.trial("control", seed, [1, 0], fold=fold)
    store.trial("control", 2, [1, 0])
    store.trial("spatial", 0, [1, 0])
    store.trial("spatial", 0, [1, 0], fold=1)
    evidence = collect(store, store.sweep, "made-up")
    control, spatial = (arm(store, evidence, name) for name in ("control", "spatial"))
    of_control = tuple(f"trial-run-control-{seed}-{fold}" for seed in (0, 1) for fold in (0, 1))
    assert control.trials == of_control
    delta = difference(spatial, control, "control", shared_test_set(evidence))
    assert delta.trials == ("trial-run-spatial-0-0", "trial-run-spatial-0-1", *of_control)


def test_an_arm_without_runs(full_store: MemoryStore) -> None:
    evidence = collect(full_store, full_store.sweep, "made-up")
    test = shared_test_set(evidence)
    nothing = outcomes(evidence, "unknown")
    cell = score(nothing.selected, test)
    assert (cell.mean, cell.sd, cell.interval, cell.per_seed) == (None, None, None, ())
    assert difference(nothing, arm(full_store, evidence, "both"), "both", test).pairs == 0
