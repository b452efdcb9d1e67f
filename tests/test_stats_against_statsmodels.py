"""The statistics of a report beside statsmodels, which takes long to start."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.regression.linear_model import OLS
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from cmkd.stats import POWER, estimate, holm

LEVELS = (0.05, 0.0025)


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_holm(size: int) -> None:
    rng = np.random.default_rng(size)
    for p in (rng.random(size) ** 3, np.full(size, 0.02)):
        assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])


def crossed(replicates: int, clips: int) -> tuple[np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(replicates)
    values = 3 + rng.normal(0, 2, (replicates, 1)) + rng.normal(0, 6, clips)
    values = values + rng.normal(0, 5, (replicates, clips))
    rows, columns = np.indices(values.shape)
    frame = {"d": values.ravel(), "replicate": rows.ravel(), "clip": columns.ravel()}
    return values, pd.DataFrame(frame)


@pytest.mark.parametrize("replicates", [5, 12])
def test_mean_squares_of_a_crossed_design(replicates: int) -> None:
    values, frame = crossed(replicates, 30)
    table = anova_lm(ols("d ~ C(replicate) + C(clip)", frame).fit())
    of_rows, of_columns, rest = (table["sum_sq"] / table["df"]).to_list()
    found = estimate(values)
    assert found.of_replicates == pytest.approx(of_rows / values.size)
    assert found.of_clips == pytest.approx((of_columns - rest) / values.size)


def test_the_standard_error_is_that_of_a_mixed_model() -> None:
    """REML of crossed random effects gives the same mean and, balanced, the same error."""
    values, frame = crossed(12, 30)
    parts = {"replicate": "0 + C(replicate)", "clip": "0 + C(clip)"}
    whole = np.ones(len(frame))
    fit = MixedLM.from_formula("d ~ 1", frame, groups=whole, vc_formula=parts).fit(reml=True)
    found = estimate(values)
    assert found.mean == pytest.approx(float(fit.fe_params["Intercept"]))
    assert found.error == pytest.approx(float(fit.bse_fe["Intercept"]), rel=0.01)


@pytest.mark.parametrize("sessions", [3, 15])
def test_cluster_robust_error(sessions: int) -> None:
    rng = np.random.default_rng(sessions)
    units = rng.permutation(np.arange(sessions * 8 + 2) % sessions)
    of_items = rng.normal(1.0, 2.0, len(units)) + rng.normal(0.0, 1.0, sessions)[units]
    fit = OLS(of_items, np.ones_like(of_items)).fit(
        cov_type="cluster",
        cov_kwds={"groups": units, "df_correction": True},
        use_t=True,
    )
    found = estimate(of_items[None], units, deterministic=True)
    # statsmodels multiplies by (N - 1) / (N - K) as well, which is 1 here.
    assert found.error == pytest.approx(float(fit.bse[0]))
    assert found.df == pytest.approx(sessions - 1)
    interval = found.interval()
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(tuple(fit.conf_int(0.05)[0]))


@pytest.mark.parametrize("n", [3, 5, 12])
def test_tost_and_one_sided_tests(n: int) -> None:
    values = np.random.default_rng(n).normal(0.3, 1.0, n)
    found, known = estimate(values[:, None]), DescrStatsW(values)
    assert found.p_within(2.0) == pytest.approx(known.ttost_mean(-2.0, 2.0)[0])
    assert found.p_above(-1.0) == pytest.approx(known.ttest_mean(-1.0, "larger")[1])
    assert found.p_below(1.0) == pytest.approx(known.ttest_mean(1.0, "smaller")[1])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [3, 5, 12])
def test_power(n: int, level: float) -> None:
    found = estimate(np.random.default_rng(n).normal(0.0, 1.7, (n, 1)))
    assert found.sd is not None
    size = TTestPower().solve_power(nobs=n, alpha=level, power=POWER, alternative="larger")
    assert found.detectable(level) == pytest.approx(found.sd * size, rel=1e-6)
    for effect in (0.8, 2.0):
        wanted = TTestPower().solve_power(effect, alpha=level, power=POWER, alternative="larger")
        assert found.replicates_for(effect * found.sd, level) == max(3, math.ceil(wanted))
