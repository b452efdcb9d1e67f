from __future__ import annotations

import numpy as np
import pytest

from cmkd.stats import group_interval, mean_sd, t_interval


def test_mean_and_sample_deviation() -> None:
    mean, sd = mean_sd([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert sd == pytest.approx((5 / 3) ** 0.5)
    assert mean_sd([7.0]) == (7.0, None)


def test_t_interval_by_hand() -> None:
    # mean 3, SD sqrt(2.5), standard error sqrt(0.5); t(0.975, 4 degrees of freedom) = 2.776445
    interval = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval is not None
    assert interval.low == pytest.approx(3 - 2.776445 * 0.5**0.5, abs=1e-5)
    assert interval.high == pytest.approx(3 + 2.776445 * 0.5**0.5, abs=1e-5)


def test_t_interval_needs_two_values_and_survives_equal_ones() -> None:
    assert t_interval([4.0]) is None
    same = t_interval([4.0, 4.0, 4.0])
    assert same is not None
    assert (same.low, same.high) == (4.0, 4.0)


def interval_of(values: object, groups: list[str]) -> tuple[float, float]:
    interval = group_interval(np.atleast_2d(np.asarray(values, float)), np.array(groups))
    assert interval is not None
    return interval.low, interval.high


def test_bootstrap_resamples_whole_groups() -> None:
    # Two sessions of 500 clips, one all right and one all wrong: a resample is 0, 50 or 100
    # with probability 1/4, 1/2, 1/4. Resampling clips would give about [47, 53].
    values = np.repeat([0.0, 100.0], 500)
    assert interval_of(values, ["a"] * 500 + ["b"] * 500) == (0.0, 100.0)


def test_bootstrap_weights_groups_by_their_items() -> None:
    # Sixteen groups; all of one item but the last, which has 100 items and the only hits.
    values = np.concatenate([np.zeros(15), np.full(100, 100.0)])
    low, high = interval_of(values, [f"g{i}" for i in range(15)] + ["big"] * 100)
    assert low == 0.0
    # Two to four draws of the big group among 16 (probability of more: 0.3 %).
    assert high in [pytest.approx(10000 * k / (100 * k + 16 - k)) for k in (2, 3, 4)]


def test_bootstrap_covers_the_normal_case_and_repeats() -> None:
    rng = np.random.default_rng(1)
    effects = rng.normal(5.0, 2.0, size=40)
    values, groups = np.repeat(effects, 7), [f"{i // 7}" for i in range(280)]
    half = 1.96 * effects.std() / 40**0.5
    expected = (effects.mean() - half, effects.mean() + half)
    assert interval_of(values, groups) == pytest.approx(expected, abs=0.1)
    assert interval_of(values, groups) == interval_of(values, groups)


def test_bootstrap_resamples_seeds_as_well() -> None:
    # The groups agree and the seeds do not: -20, 0 or +20 with probability 1/4, 1/2, 1/4.
    assert interval_of([[-20.0] * 4, [20.0] * 4], ["a", "a", "b", "b"]) == (-20.0, 20.0)


def test_bootstrap_adds_the_spread_of_seeds_to_that_of_groups() -> None:
    # Independent effects of SD 2 over 30 seeds and SD 3 over 50 groups of 4 items.
    rng = np.random.default_rng(2)
    seeds, groups = rng.normal(0, 2, (30, 1)), rng.normal(0, 3, 50)
    values, names = seeds + np.repeat(groups, 4), [f"{i // 4}" for i in range(200)]
    half = 1.96 * (seeds.var() / 30 + groups.var() / 50) ** 0.5
    expected = (values.mean() - half, values.mean() + half)
    assert interval_of(values, names) == pytest.approx(expected, abs=0.05)


def test_bootstrap_needs_two_groups_and_survives_equal_values() -> None:
    assert group_interval(np.ones((2, 5)), np.array(["a"] * 5)) is None
    assert interval_of(np.full((3, 4), 3.0), ["a", "a", "b", "b"]) == (3.0, 3.0)
