"""Contrasts of arms on a made-up store whose numbers can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from cmkd import stats as statistics
from cmkd.config.sweep import Sweep
from cmkd.report.cells import outcomes, shared_test_set
from cmkd.report.comparisons import Contrast, against, contrast, factorial
from cmkd.report.evidence import Evidence, collect

if TYPE_CHECKING:
    from conftest import MemoryStore

RIGHT = {"baseline": 50, "control": 52, "spatial": 70, "temporal": 58, "both": 81}


def fill(store: MemoryStore, seeds: int = 3, groups: tuple[str, ...] = ()) -> Evidence:
    """Of 100 clips, `RIGHT` and one more per seed are right; both have another spread."""
    for arm, count in RIGHT.items():
        for seed in range(seeds):
            more = seed * (2 if arm == "both" else 1)
            right = [1] * (count + more) + [0] * (100 - count - more)
            store.trial(arm, seed, right, groups=groups)
    return collect(store, store.sweep, "made-up")


def test_differences_to_the_control(store: MemoryStore) -> None:
    evidence = fill(store)
    rows = against([(evidence, shared_test_set(evidence))], "control")
    found = {one.name: one for one in rows}
    assert list(found) == [
        "baseline − control",
        "spatial − control",
        "temporal − control",
        "both − control",
    ]
    both = found["both − control"].contrast
    assert both is not None
    assert both.per_seed == pytest.approx((29.0, 30.0, 31.0))
    assert (both.mean, both.sd, both.effect_size) == pytest.approx((30.0, 1.0, 30.0))
    assert both.seeds == 3
    assert both.trials[:1] == ("trial-run-both-0-0",)
    # Over seeds t = 30 / (1 / sqrt 3); over 100 clips p is the least that the bootstrap can give.
    assert both.p_above()[0] == pytest.approx(stats.t.sf(30 * 3**0.5, 2))
    assert both.p == pytest.approx(2 * max(both.p_above()))
    p_values = [one.contrast.p for one in rows if one.contrast is not None]
    assert [one.p_holm for one in rows] == pytest.approx(
        [min(1.0, p) for p in _holm_by_definition(p_values)]
    )


def _holm_by_definition(p_values: list[float]) -> list[float]:
    """The largest (m - rank) p of all that are no larger."""
    order = sorted(p_values)
    m = len(order)
    return [max((m - rank) * one for rank, one in enumerate(order) if one <= p) for p in p_values]


def test_the_factorial_view(store: MemoryStore) -> None:
    evidence = fill(store)
    rows = {one.name: one.contrast for one in factorial(evidence, shared_test_set(evidence))}
    spatial, temporal, interaction = rows.values()
    assert spatial is not None and temporal is not None and interaction is not None
    # Seed 0: control 52, spatial 70, temporal 58, both 81; "both" gains one more with every seed.
    assert spatial.per_seed == pytest.approx(((70 + 81 - 52 - 58) / 2, 21.0, 21.5))
    assert temporal.per_seed == pytest.approx(((58 + 81 - 52 - 70) / 2, 9.0, 9.5))
    assert interaction.per_seed == pytest.approx((81 - 70 - 58 + 52, 6.0, 7.0))
    assert interaction.interval is not None
    half = stats.t.ppf(0.975, 2) / 3**0.5
    assert interaction.interval.low <= 6.0 - half + 1e-9
    assert interaction.interval.high >= 6.0 + half - 1e-9


def test_no_factorial_view_without_all_four_arms(
    make_sweep: Callable[[str], Sweep], store: MemoryStore
) -> None:
    evidence = fill(store)
    partial = collect(store, store.sweep.only(["baseline", "control", "both"]), "made-up")
    assert factorial(partial, shared_test_set(evidence)) == ()


def test_seeds_that_not_all_arms_have_are_left_out(store: MemoryStore) -> None:
    fill(store)
    store.trial("both", 9, [1] * 100)
    evidence = collect(store, store.sweep, "made-up")
    both, control = (
        outcomes(evidence, store.sweep.only([name]).arms[0].setting.id)
        for name in ("both", "control")
    )
    delta = contrast([(1.0, both), (-1.0, control)], shared_test_set(evidence))
    assert delta is not None
    assert delta.seeds == 3
    assert delta.trials == tuple(
        f"trial-run-{name}-{seed}-0" for name in ("both", "control") for seed in range(3)
    )


def test_sessions_are_drawn_whole(store: MemoryStore) -> None:
    # All gains lie in one of four sessions: other sessions may show none.
    groups = tuple(f"s{i // 25}" for i in range(100))
    evidence = fill(store, seeds=5, groups=groups)
    rows = against([(evidence, shared_test_set(evidence))], "control")
    both = next(one.contrast for one in rows if one.name.startswith("both"))
    assert both is not None
    over_seeds, over_sessions = both.p_above()
    assert over_seeds < 0.001
    assert over_sessions > 0.05
    assert both.p > 0.1
    assert both.interval is not None and both.interval.low <= 0.0


@pytest.mark.parametrize("sessions", [3, 5, 15])
def test_few_sessions_do_not_make_it_optimistic(
    sessions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No difference but of sessions: 5 % of the p over clips are below 0.05, and not 24 %."""
    monkeypatch.setattr(statistics, "RESAMPLES", 399)
    rng, false, intervals = np.random.default_rng(11), 0, 0
    for _ in range(400):
        effects = rng.normal(0.0, 10.0, sessions).repeat(4)
        values = effects + rng.normal(0.0, 5.0, (3, 4 * sessions))
        one = Contrast(values, np.arange(sessions).repeat(4), ())
        false += 2 * min(one.p_above()[1], one.p_below()[1]) <= 0.05
        assert one.interval is not None
        intervals += not one.interval.low <= 0.0 <= one.interval.high
    most = stats.binom.ppf(0.999, 400, 0.05)
    assert false <= most and intervals <= most


def test_one_seed_has_no_interval_and_two_no_p() -> None:
    values = np.full((2, 10), 100.0)
    one = Contrast(values[:1], np.arange(10), ())
    assert (one.sd, one.effect_size, one.interval) == (None, None, None)
    assert Contrast(values, np.arange(10), ()).p == 1.0
