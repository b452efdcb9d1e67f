from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from cmkd.report import cells
from cmkd.report.cells import (
    Outcomes,
    difference,
    fold_weighted,
    group_accuracies,
    not_below_best,
    outcomes,
    score,
    shared_test_set,
)
from cmkd.report.evidence import Evidence, collect

if TYPE_CHECKING:
    from conftest import MemoryStore


def _first(count: int) -> list[int]:
    return [1] * count + [0] * (10 - count)


def arm(store: MemoryStore, evidence: Evidence, name: str) -> Outcomes:
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
    # Session s1 gains 100 points with one seed and 50 with the other, s2 none: seed 0 alone with
    # s1 alone gives 100 in one resample of 16.
    delta = difference(spatial, control, "control", test)
    assert delta.mean == pytest.approx(37.5)
    assert delta.interval is not None
    assert (delta.interval.low, delta.interval.high) == (0.0, 100.0)
    assert group_accuracies(spatial, test) == {"s1": 75.0, "s2": 0.0}


def test_seeds_that_disagree_widen_a_grouped_interval(store: MemoryStore) -> None:
    groups = ["s1"] * 5 + ["s2"] * 5
    right = {
        "control": ([1, 1, 0, 0, 0], [1, 1, 0, 0, 0]),
        "spatial": ([1, 0, 0, 0, 0], [1, 1, 1, 0, 0]),
    }
    for name, seeds in right.items():
        for seed, half in enumerate(seeds):
            store.trial(name, seed, half * 2, groups=groups)
    evidence = collect(store, store.sweep, "made-up")
    spatial, control = (arm(store, evidence, name) for name in ("spatial", "control"))
    # -20 points with one seed and +20 with the other, in both groups alike.
    delta = difference(spatial, control, "control", shared_test_set(evidence))
    assert delta.interval is not None
    assert delta.mean == pytest.approx(0)
    assert (delta.interval.low, delta.interval.high) == pytest.approx((-20, 20))


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
    # As one group, the clips without one would make resamples of 44 %, 67 % or 100 % alone.
    assert cell.interval is not None
    assert cell.interval.low < 44 and 80 < cell.interval.high < 100


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
    # SD sqrt(275 / 3), t(0.975, 3) = 3.182446
    half = 3.182446 * (275 / 3) ** 0.5 / 2
    assert last.interval.low == pytest.approx(27.5 - half, abs=1e-4)
    assert difference(spatial, control, "control", test).mean == pytest.approx(17.5)


def test_what_no_seed_changes_has_no_spread(store: MemoryStore) -> None:
    for seed in (0, 1):
        store.trial("control", seed, [1, 0, 1, 0])
        store.trial("spatial", seed, [1, 0, 1, seed])
    evidence = collect(store, store.sweep, "made-up")
    test = shared_test_set(evidence)
    same, other = (arm(store, evidence, name).selected for name in ("control", "spatial"))
    cell = score(same, test, seedless=True)
    assert (cell.mean, cell.sd, cell.interval, cell.deterministic) == (50.0, None, None, True)
    # A student may get the same clips right with all its seeds, by chance or because it knows all.
    assert score(same, test).sd == 0.0
    assert not score(same, test).deterministic
    assert not score(other, test, seedless=True).deterministic
    assert not score(same[:1], test, seedless=True).deterministic


def test_every_clip_its_own_group_is_no_grouping(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0], groups=["a", "b"])
    assert not shared_test_set(collect(store, store.sweep, "made-up")).grouped


def test_best_is_what_no_interval_rules_out(full_store: MemoryStore) -> None:
    evidence = collect(full_store, full_store.sweep, "made-up")
    test = shared_test_set(evidence)
    names = ("baseline", "control", "spatial", "temporal", "both")
    arms = {name: arm(full_store, evidence, name) for name in names}
    # One-sided, an arm against four: spatial - control is 20, 20, 30 by seed, t = 7, p = 0.0099;
    # both - control 30, 20, 40, t = 5.2, p = 0.0176; the level is 0.0125.
    left = set(names) - {"control"}
    assert not_below_best(arms, test, "selected") == left
    unknown = {**arms, "none": outcomes(evidence, "unknown")}
    assert not_below_best(unknown, test, "last") == left
    # Of two arms it is the one pair.
    pair = {name: arms[name] for name in ("both", "control")}
    assert not_below_best(pair, test, "selected") == {"both"}
    assert not_below_best({"both": arms["both"]}, test, "selected") == frozenset()


def test_two_seeds_rule_nothing_out(store: MemoryStore) -> None:
    groups = ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]
    for seed in (0, 1):
        store.trial("control", seed, _first(1), groups=groups)
        store.trial("spatial", seed, _first(9 + seed), groups=groups)
    evidence = collect(store, store.sweep, "made-up")
    arms = {name: arm(store, evidence, name) for name in ("control", "spatial")}
    assert not_below_best(arms, shared_test_set(evidence), "selected") == set(arms)


TABLES, ARMS, SEEDS, SESSIONS, OF_SESSION = 300, 5, 5, 12, 10


@pytest.mark.parametrize("grouped", [False, True])
def test_the_best_arm_loses_its_bold_in_one_table_of_twenty_at_most(grouped: bool) -> None:
    """All arms, seeds and, where they count, sessions have effects of their own, none a lead.

    Where all are the best, none may be left out more often than that.
    """
    rng, lost = np.random.default_rng(5), np.zeros(ARMS, int)
    clips = SESSIONS * OF_SESSION
    groups = tuple(f"s{i // OF_SESSION}" if grouped else "" for i in range(clips))
    test = cells.TestSet(tuple(f"c{i:03}" for i in range(clips)), groups, (0,) * clips)
    for _ in range(TABLES):
        chance = 0.7 + rng.normal(0, 0.04, (ARMS, SEEDS, 1))
        if grouped:
            chance = chance + rng.normal(0, 0.1, (ARMS, 1, SESSIONS)).repeat(OF_SESSION, axis=2)
        right = rng.random((ARMS, SEEDS, clips)) < chance
        arms = {
            f"arm{i}": Outcomes(tuple(range(SEEDS)), one, one, {}, ())
            for i, one in enumerate(right)
        }
        bold = not_below_best(arms, test, "selected")
        lost += [f"arm{i}" not in bold for i in range(ARMS)]
    assert max(lost) <= stats.binom.ppf(0.999, TABLES, 0.05)


def test_arms_that_are_clearly_below_lose_their_bold(store: MemoryStore) -> None:
    for seed in range(5):
        for name, count in {"control": 2, "spatial": 8, "both": 9}.items():
            # Neither is better by the same count with every seed, which would be no test at all.
            worse = {"control": seed % 2, "spatial": seed % 3 // 2, "both": seed // 3}[name]
            store.trial(name, seed, _first(count - worse))
    evidence = collect(store, store.sweep, "made-up")
    arms = {name: arm(store, evidence, name) for name in ("control", "spatial", "both")}
    test = shared_test_set(evidence)
    assert not_below_best(arms, test, "selected") == {"spatial", "both"}


def test_without_an_interval_nothing_is_ruled_out(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0])
    store.trial("spatial", 0, [1, 1])
    store.trial("temporal", 1, [0, 0])
    evidence = collect(store, store.sweep, "made-up")
    arms = {name: arm(store, evidence, name) for name in ("control", "spatial", "temporal")}
    assert not_below_best(arms, shared_test_set(evidence), "selected") == set(arms)


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
