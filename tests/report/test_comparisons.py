"""Paired differences of arms on a made-up store whose numbers can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cmkd.config.sweep import Sweep
from cmkd.report.comparisons import against_control, factorial
from cmkd.report.evidence import Evidence, collect
from cmkd.report.tables import Difference, arm_result
from cmkd.stats import estimate, holm

if TYPE_CHECKING:
    from conftest import MemoryStore

RIGHT = {"baseline": 50, "control": 52, "spatial": 70, "temporal": 58, "both": 81}


def fill(store: MemoryStore, seeds: int = 3, groups: tuple[str, ...] = ()) -> Evidence:
    """Of 100 clips, `RIGHT` and one more per seed are right; "both" has another spread."""
    for arm, count in RIGHT.items():
        for seed in range(seeds):
            more = seed * (2 if arm == "both" else 1)
            right = [1] * (count + more) + [0] * (100 - count - more)
            store.trial(arm, seed, right, groups=groups)
    return collect(store, store.sweep, "made-up")


def per_replicate(values: np.ndarray) -> list[float]:
    means: list[float] = values.mean(axis=1).tolist()
    return means


def test_differences_to_the_control(store: MemoryStore) -> None:
    evidence = fill(store)
    rows = against_control([evidence])
    found = {one.difference.name: one for one in rows}
    assert list(found) == [
        "baseline − control",
        "spatial − control",
        "temporal − control",
        "both − control",
    ]
    both = found["both − control"].difference
    assert both.estimate is not None
    assert per_replicate(both.values) == pytest.approx((29.0, 30.0, 31.0))
    assert (both.estimate.mean, both.estimate.sd) == pytest.approx((30.0, 1.0))
    assert both.estimate == estimate(both.values)
    assert both.trials[:1] == ("trial-run-both-0-0",)
    p_values = [one.difference.estimate.p for one in rows if one.difference.estimate is not None]
    assert [one.p_holm for one in rows] == pytest.approx(holm(p_values))


def test_a_control_of_another_interpretation_is_named(
    make_sweep: Callable[[str], Sweep], store: MemoryStore
) -> None:
    fill(store)
    store.sweep = make_sweep("  gated: {method.gate: [softmax]}\n")
    store.trial("gated", 0, [1] * 60 + [0] * 40)
    evidence = collect(store, store.sweep, "made-up")
    rows = against_control([evidence])
    assert [one.difference.name for one in rows if "gate" in one.difference.name] == [
        "gated − control (other method.gate)"
    ]


def test_the_factorial_view(store: MemoryStore) -> None:
    evidence = fill(store)
    rows = {one.difference.name: one.difference for one in factorial(evidence)}
    spatial, temporal, interaction = rows.values()
    # Seed 0: control 52, spatial 70, temporal 58, both 81; "both" gains one more with every seed.
    assert per_replicate(spatial.values) == pytest.approx(((70 + 81 - 52 - 58) / 2, 21.0, 21.5))
    assert per_replicate(temporal.values) == pytest.approx(((58 + 81 - 52 - 70) / 2, 9.0, 9.5))
    assert per_replicate(interaction.values) == pytest.approx((81 - 70 - 58 + 52, 6.0, 7.0))


def test_no_factorial_view_without_all_four_arms(
    make_sweep: Callable[[str], Sweep], store: MemoryStore
) -> None:
    fill(store)
    partial = collect(store, store.sweep.only(["baseline", "control", "both"]), "made-up")
    assert factorial(partial) == ()


def test_seeds_that_not_all_arms_have_are_left_out(store: MemoryStore) -> None:
    fill(store)
    store.trial("both", 9, [1] * 100)
    evidence = collect(store, store.sweep, "made-up")
    both, control = (
        arm_result(evidence, store.sweep.only([name]).arms[0]) for name in ("both", "control")
    )
    delta = Difference("both", ((1.0, both), (-1.0, control)))
    assert delta.seeds == (0, 1, 2)
    assert delta.trials == tuple(
        f"trial-run-{name}-{seed}-0" for name in ("both", "control") for seed in range(3)
    )


def test_sessions_are_drawn_whole(store: MemoryStore) -> None:
    # All gains lie in one of four sessions: other sessions may show none.
    groups = tuple(f"s{i // 25}" for i in range(100))
    evidence = fill(store, seeds=5, groups=groups)
    rows = against_control([evidence])
    both = next(one.difference for one in rows if one.difference.name.startswith("both"))
    assert both.estimate is not None
    assert estimate(both.values).p < 0.001
    assert both.estimate.p > 0.1
    interval = both.estimate.interval()
    assert interval is not None and interval.low <= 0.0
