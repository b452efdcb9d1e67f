"""The statistics of a report beside scipy.stats and statsmodels, which take long to start."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from cmkd.stats import (
    POWER,
    cluster_interval,
    cluster_p,
    detectable,
    exceeds_p,
    holm,
    seeds_for,
    t_interval,
)

LEVELS = (0.05, 0.0025)


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_holm(size: int) -> None:
    rng = np.random.default_rng(size)
    for p in (rng.random(size) ** 3, np.full(size, 0.02)):
        assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])


@pytest.mark.parametrize("n", [3, 5, 12])
@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_paired_t(n: int, bound: float) -> None:
    ours, theirs = np.random.default_rng(n).normal((82.0, 80.0), 2.0, (n, 2)).T
    delta = (ours - theirs).tolist()
    found = stats.ttest_rel(ours, theirs + bound, alternative="greater")
    assert exceeds_p(delta, bound) == pytest.approx(found.pvalue)
    interval, known = t_interval(delta), stats.ttest_1samp(delta, 0).confidence_interval(0.95)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((known.low, known.high))


@pytest.mark.parametrize("sessions", [3, 15])
def test_cluster_robust_t(sessions: int) -> None:
    rng = np.random.default_rng(sessions)
    units = rng.permutation(np.arange(sessions * 8) % sessions)
    values = rng.normal(1.0, 2.0, (4, len(units))) + rng.normal(0.0, 1.0, sessions)[units]
    of_items = values.mean(axis=0)
    fit = OLS(of_items, np.ones_like(of_items)).fit(
        cov_type="cluster", cov_kwds={"groups": units}, use_t=True
    )
    interval = cluster_interval(values, units)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(tuple(fit.conf_int(0.05)[0]))
    two_sided = 2 * min(cluster_p(values, units), 1 - cluster_p(values, units))
    assert two_sided == pytest.approx(float(fit.pvalues[0]))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [3, 5, 12])
def test_detectable_effect(n: int, level: float) -> None:
    effect = TTestPower().solve_power(nobs=n, alpha=level, power=POWER, alternative="larger")
    assert detectable(1.7, n, level) == pytest.approx(1.7 * effect, rel=1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("effect", [0.3, 0.8, 2.0])
def test_seeds_that_are_needed(effect: float, level: float) -> None:
    n = TTestPower().solve_power(effect, alpha=level, power=POWER, alternative="larger")
    assert seeds_for(effect, 1.0, level) == max(3, math.ceil(n))
