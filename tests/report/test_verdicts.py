"""Known effects give the known verdicts, with the error rates that are promised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from cmkd import stats as statistics
from cmkd.report.claims import AccuracyClaim
from cmkd.report.comparisons import Contrast
from cmkd.report.verdicts import Case, Paired, Ruling, rule
from cmkd.stats import detectable

CLIPS = 200


def values(per_seed: Sequence[float], changed: float = 0.2) -> np.ndarray:
    """Clips of which the share `changed` differs between the arms, with the given means by seed."""
    assert all(abs(mean) < 100 * changed for mean in per_seed)
    rows = []
    for mean in per_seed:
        up = round(CLIPS * (changed + mean / 100) / 2)
        down = round(CLIPS * (changed - mean / 100) / 2)
        row = np.zeros(CLIPS)
        row[:up], row[up : up + down] = 100.0, -100.0
        rows.append(row)
    rng = np.random.default_rng(len(per_seed))
    return np.stack([rng.permutation(row) for row in rows])


def case(kind: str, *pairs: Sequence[float], margin: float = 0.0, dead: bool = False) -> Case:
    claim = AccuracyClaim.model_validate_json(
        f'{{"kind": "{kind}", "margin": {margin}, "says": "x", "source": "x", "sweep": "x",'
        f' "halves": ["TSM"], "pairs": {str([["a", "b"]] * len(pairs)).replace(chr(39), chr(34))}}}'
    )
    contrasts = [Contrast(values(one), np.arange(CLIPS), ("t1",)) for one in pairs]
    paired = tuple(Paired("a", "b", one, dead) for one in contrasts)
    return Case("claim", "TSM", claim, paired)


def verdict(*cases: Case) -> Ruling:
    return rule(cases, 0.05)[0]


CLEAR, MORE = (6.0, 7.0, 6.5, 7.5, 6.0), (1.0, 4.0, -1.0, 3.0, 2.0)
NOTHING = (0.5, -0.5, 0.0, 0.5, -0.5)


@pytest.mark.parametrize(
    ("kind", "margin", "seeds", "expected"),
    [
        ("better", 0.0, CLEAR, "supported"),
        ("better", 0.0, [-one for one in CLEAR], "contradicted"),
        ("better", 0.0, MORE, "inconclusive"),
        ("near", 2.0, [4.5, 5.0, 4.0, 5.5, 4.5], "supported"),
        ("near", 2.0, [-9.0, -9.5, -10.0, -8.5, -9.0], "contradicted"),
        ("near", 2.0, [-1.0, 3.0, -4.0, 1.0, -2.0], "inconclusive"),
        ("equal", 5.0, NOTHING, "supported"),
        ("equal", 2.0, [8.0, 8.5, 7.5, 8.0, 9.0], "contradicted"),
        ("equal", 2.0, [-8.0, -8.5, -7.5, -8.0, -9.0], "contradicted"),
        ("equal", 2.0, [1.0, 4.0, -1.0, 3.0, 2.0], "inconclusive"),
    ],
)
def test_planted_effects(kind: str, margin: float, seeds: Sequence[float], expected: str) -> None:
    assert verdict(case(kind, seeds, margin=margin)).verdict == expected


def test_every_pair_must_hold_and_one_contrary_is_enough() -> None:
    assert verdict(case("better", CLEAR, CLEAR)).verdict == "supported"
    assert verdict(case("better", CLEAR, MORE)).verdict == "inconclusive"
    assert verdict(case("better", CLEAR, [-one for one in CLEAR])).verdict == "contradicted"


def test_no_verdict_from_two_seeds_however_clear() -> None:
    ruling = verdict(case("better", (15.0, 15.5)))
    assert (ruling.verdict, ruling.more_seeds, ruling.p) == ("inconclusive", 1, None)
    assert "no verdict from fewer than 3" in ruling.reason


def test_a_dead_toggle_is_no_equivalence() -> None:
    ruling = verdict(case("equal", [0.0] * 5, margin=2.0, dead=True))
    assert (ruling.verdict, ruling.p) == ("dead", None)
    assert "a and b: the same predictions" in ruling.reason


def test_what_was_not_run_is_no_test_of_the_family() -> None:
    borderline = case("better", (2.5, 5.0, 4.0, 6.5, 3.0))
    absent = Case("other", "TSM", borderline.claim, (), "run: cmkd sweep ablation")
    alone, beside = rule([borderline], 0.05)[0], rule([borderline, absent, absent], 0.05)
    assert beside[0] == alone
    assert (beside[1].verdict, beside[1].reason) == ("no runs", "run: cmkd sweep ablation")
    tested = rule([borderline, case("better", MORE), case("better", NOTHING)], 0.05)[0]
    assert tested.p_holm == pytest.approx(3 * alone.p)


def test_the_seeds_that_are_missing_are_those_of_the_power_calculation() -> None:
    ruling = verdict(case("better", MORE))
    mean, sd = float(np.mean(MORE)), float(np.std(MORE, ddof=1))
    assert ruling.more_seeds is not None
    n = 5 + ruling.more_seeds

    def power(count: int) -> float:
        return float(stats.nct.sf(stats.t.isf(0.025, count - 1), count - 1, mean / sd * count**0.5))

    assert power(n - 1) < 0.8 <= power(n)
    clips = ", and perhaps more test clips"
    assert ruling.reason == f"needs about {ruling.more_seeds} more seeds{clips}"


@pytest.mark.parametrize(("changed", "clips_decide"), [(0.7, False), (0.05, True)])
def test_seeds_and_clips_that_both_bar_a_verdict_are_both_asked_for(
    changed: float, clips_decide: bool
) -> None:
    one = case("better", MORE)
    noisy = Contrast(values((4.0, 1.0, 4.5, 0.5, 4.0), changed), np.arange(CLIPS), ())
    assert (2 * noisy.p_above()[0] > 0.02, 2 * noisy.p_above()[1] < 0.02) == (True, clips_decide)
    ruling = rule([Case("c", "TSM", one.claim, (Paired("a", "b", noisy),))], 0.01)[0]
    assert ruling.more_seeds is not None
    assert ruling.reason.endswith("more seeds" if clips_decide else ", and perhaps more test clips")


def test_clips_that_decide_are_asked_for_and_not_seeds() -> None:
    # Every seed gains the same 2 clips of 200: other seeds change nothing, other clips may.
    same = np.zeros((5, CLIPS))
    same[:, :5], same[:, 5:8] = 100.0, -100.0
    one = case("better", CLEAR)
    fixed = Contrast(same, np.arange(CLIPS), ())
    ruling = rule([Case("c", "TSM", one.claim, (Paired("a", "b", fixed),))], 0.05)[0]
    assert (ruling.verdict, ruling.more_seeds) == ("inconclusive", None)
    assert ruling.reason == "needs more test clips rather than seeds"


def test_a_difference_of_nothing_asks_for_no_number_of_seeds() -> None:
    ruling = verdict(case("better", (1.0, -1.0, 0.5, -0.5, 0.0)))
    assert (ruling.verdict, ruling.more_seeds) == ("inconclusive", None)
    assert "too near the bound" in ruling.reason


SWEEPS, SEEDS, FAMILY, SPREAD, CHANGED = 1000, 5, 3, 4.0, 0.3


def simulate(effects: Sequence[float]) -> np.ndarray:
    """Verdicts of 1,000 sweeps with true `effects` in points: "sweeps claims"."""
    rng = np.random.default_rng(7)
    claim = case("better", CLEAR).claim
    found = []
    for _ in range(SWEEPS):
        cases = []
        for effect in effects:
            means = rng.normal(effect, SPREAD, SEEDS)
            chance = rng.random((SEEDS, CLIPS))
            up = chance < (CHANGED + means[:, None] / 100) / 2
            down = chance > 1 - (CHANGED - means[:, None] / 100) / 2
            one = Contrast(100.0 * up - 100.0 * down, np.arange(CLIPS), ())
            cases.append(Case("c", "TSM", claim, (Paired("a", "b", one),)))
        found.append([ruling.verdict for ruling in rule(cases, 0.05)])
    return np.array(found)


@pytest.fixture
def quick_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 399)


@pytest.mark.usefixtures("quick_bootstrap")
def test_false_verdicts_are_as_rare_as_promised() -> None:
    wrong = (simulate([0.0] * FAMILY) != "inconclusive").any(axis=1).sum()
    # 5 % of 1,000 sweeps, and not far less, or Holm's adjustment is not what it should be.
    low, high = stats.binom.interval(0.999, SWEEPS, 0.05)
    assert 0.6 * low <= wrong <= high


@pytest.mark.usefixtures("quick_bootstrap")
def test_a_detectable_effect_is_found_four_times_of_five() -> None:
    clip_noise = 100 * (CHANGED / CLIPS) ** 0.5
    sd = (SPREAD**2 + clip_noise**2) ** 0.5
    effect = detectable(sd, SEEDS, 0.05 / 2 / FAMILY)
    found = simulate([effect, 0.0, 0.0])
    low, high = stats.binom.interval(0.999, SWEEPS, 0.8)
    assert low <= (found[:, 0] == "supported").sum() <= high
    assert not (found[:, 0] == "contradicted").any()
