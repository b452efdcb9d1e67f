"""Tests, adjustment and power against scipy's own, published values and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cmkd.stats import (
    Spread,
    cluster_interval,
    cluster_p,
    detectable,
    exceeds_p,
    holm,
    moderated,
    resample_units,
    resampled_p,
    seeds_for,
    spread_bound,
)

VALUES = [1.2, -0.4, 2.1, 0.9, 0.3]


@pytest.mark.parametrize("bound", [-1.0, 0.0, 0.5, 3.0])
def test_the_t_test_is_that_of_scipy(bound: float) -> None:
    reference = stats.ttest_1samp(VALUES, bound, alternative="greater").pvalue
    assert exceeds_p(VALUES, bound) == pytest.approx(reference, rel=1e-9)


def test_a_t_test_without_spread_or_values() -> None:
    assert exceeds_p([5.0]) == 1.0
    assert exceeds_p([2.0, 2.0, 2.0], 1.0) == 0.0
    assert exceeds_p([0.0, 0.0, 0.0]) == 1.0


def test_holm_by_hand() -> None:
    # 4 x 0.005, 3 x 0.01, 2 x 0.03 and then no less than that; in the order given.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


def test_units_are_drawn_whole() -> None:
    # Two sessions of 50 clips, one gaining 100 points: 0, 50 or 100 with 1/4, 1/2, 1/4.
    means = resample_units(np.repeat([[0.0, 100.0]], 50, axis=1), np.repeat([0, 1], 50))
    assert set(np.unique(means)) == {0.0, 50.0, 100.0}
    assert resampled_p(means) == pytest.approx(0.25, abs=0.02)
    assert resampled_p(means, 100.0) == 1.0


def test_units_of_unequal_size_weigh_by_their_clips() -> None:
    units = np.array([0, 1, 1, 1])
    means = resample_units(np.array([[100.0, 0.0, 0.0, 0.0]]), units)
    # (a, a), (a, b), (b, b): 100, 100 / 4, 0.
    assert set(np.unique(means)) == {0.0, 25.0, 100.0}


def test_the_bootstrap_over_clips_agrees_with_the_normal_case() -> None:
    values = np.random.default_rng(0).choice([-100.0, 0.0, 100.0], (3, 1000), p=[0.1, 0.75, 0.15])
    per_clip = values.mean(axis=0)
    means = resample_units(values, np.arange(1000))
    assert means.std() == pytest.approx(per_clip.std() / 1000**0.5, rel=0.03)
    assert means.mean() == pytest.approx(per_clip.mean(), abs=0.1)
    z = (per_clip.mean() - 3.0) / (per_clip.std() / 1000**0.5)
    assert resampled_p(means, 3.0) == pytest.approx(stats.norm.sf(z), abs=0.02)


def test_over_sessions_of_one_size_it_is_the_t_test_of_their_means() -> None:
    values = np.random.default_rng(3).normal(1.0, 4.0, (3, 40))
    units = np.repeat(np.arange(8), 5)
    means = values.mean(axis=0).reshape(8, 5).mean(axis=1)
    for bound in (0.0, 1.5):
        reference = stats.ttest_1samp(means, bound, alternative="greater").pvalue
        assert cluster_p(values, units, bound) == pytest.approx(reference, rel=1e-9)
    interval = cluster_interval(values, units)
    known = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((known.low, known.high))


def test_sessions_of_unequal_size_by_hand() -> None:
    # Mean 25; sums of deviations 75, -25, -50: sqrt(3 / 2 x 8750) / 4 = 28.64.
    values, units = np.array([[100.0, 0.0, 0.0, 0.0]]), np.array([0, 1, 2, 2])
    error = (1.5 * (75**2 + 25**2 + 50**2)) ** 0.5 / 4
    assert cluster_p(values, units) == pytest.approx(stats.t.sf(25 / error, 2))


def test_two_sessions_decide_nothing() -> None:
    values, units = np.full((3, 4), 50.0), np.array([0, 0, 1, 1])
    assert (cluster_p(values, units), cluster_interval(values, units)) == (1.0, None)
    three = np.array([0, 1, 2, 2])
    assert (cluster_p(values, three), cluster_p(-values, three)) == (0.0, 1.0)


@pytest.mark.parametrize(("n", "level"), [(3, 0.025), (5, 0.025), (12, 0.0025)])
def test_what_is_detectable_is_found_four_times_of_five(n: int, level: float) -> None:
    effect = detectable(2.0, n, level)
    noncentrality = effect * n**0.5 / 2.0
    power = stats.nct.sf(stats.t.isf(level, n - 1), n - 1, noncentrality)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert seeds_for(effect * 1.0001, 2.0, level) == n
    assert seeds_for(effect * 0.999, 2.0, level) == n + 1


def test_the_number_of_seeds_of_a_textbook() -> None:
    # G*Power: paired t test, two-sided 5 %, power 80 %: d = 0.5 needs 34 pairs, d = 0.8 needs 15.
    assert seeds_for(0.5, 1.0, 0.025) == 34
    assert seeds_for(0.8, 1.0, 0.025) == 15


def test_seeds_that_nobody_has() -> None:
    assert seeds_for(0.01, 1.0, 0.025) is None
    assert seeds_for(-1.0, 1.0, 0.025) is None
    assert seeds_for(50.0, 1.0, 0.025) == 3
    assert (seeds_for(1.0, 0.0, 0.025), seeds_for(0.0, 0.0, 0.025)) == (3, None)


def test_the_bound_of_two_samples() -> None:
    # t(1 - 0.05 / 2, 8) = 2.306004
    bound = spread_bound(Spread(2.0, 8), (5, 5), level=0.05, family=1)
    assert bound == pytest.approx(2.306004 * 2.0 * (2 / 5) ** 0.5, rel=1e-6)
    wider = spread_bound(Spread(2.0, 8), (5, 5), level=0.05, family=10)
    assert wider == pytest.approx(stats.t.isf(0.0025, 8) * 2.0 * (2 / 5) ** 0.5, rel=1e-6)


def test_spreads_that_differ_by_chance_are_one() -> None:
    sds = (1.0, 1.1, 0.9, 1.05, 0.95)
    found = moderated([Spread(sd, 4) for sd in sds])
    shared = float(np.mean(np.square(sds))) ** 0.5
    assert [one.sd for one in found] == pytest.approx([max(sd, shared) for sd in sds])
    assert {one.degrees for one in found} == {20}


def test_spreads_that_differ_much_are_kept() -> None:
    given = [Spread(sd, 100) for sd in (0.1, 0.5, 2.0, 10.0, 50.0)]
    found = moderated(given)
    assert [one.sd for one in found] == pytest.approx([one.sd for one in given], rel=0.05)
    assert all(100 < one.degrees < 102 for one in found)
    # Of thousands of samples the prior is found: s0 = 2 with 6 degrees of freedom.
    rng = np.random.default_rng(0)
    variances = 4 * 6 / rng.chisquare(6, 5000) * rng.chisquare(4, 5000) / 4
    many = moderated([Spread(float(v) ** 0.5, 4) for v in variances])
    assert many[0].degrees == pytest.approx(10, rel=0.1)
    least = min(one.sd for one in many) ** 2
    assert least == pytest.approx(6 * 4 / 10, rel=0.1)


def test_few_spreads_are_left_alone() -> None:
    given = [Spread(1.0, 4), Spread(2.0, 4)]
    assert moderated(given) == tuple(given)
