"""Known effects give the known verdicts, with the error rates that are promised."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from cmkd.config.sweep import Arm
from cmkd.config.trial import Setting
from cmkd.report.claims import AccuracyClaim, ClaimResult, Claims, decide_claims
from cmkd.report.predictions import EvaluatedClips
from cmkd.report.tables import ArmResult, Difference

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


def claims(*looks: int, margin: float = 2.0) -> Claims:
    only = {"says": "x", "source": "x", "kind": "better", "sweep": "x", "families": ["TSM"]}
    whole = {
        "level": 0.05,
        "margin": margin,
        "looks": looks,
        "arms": {"a": {}, "b": {}},
        "claims": {"x": {**only, "pairs": [["a", "b"]]}},
    }
    return Claims.model_validate_json(json.dumps(whole))


def difference(points: np.ndarray, identical: bool) -> Difference:
    """A difference with the given `points`, Float "R N"."""
    test = EvaluatedClips(*[tuple(map(str, range(points.shape[1]))), ("",) * points.shape[1]])
    arm = ArmResult(
        Arm("a", Setting()), test, tuple(range(len(points))), {"selected": points / 100}, {}, ()
    )
    return Difference("a - b", ((1.0, arm),), identical=identical)


def result(
    kind: str, *pairs: Sequence[float] | np.ndarray, gap: str = "", identical: bool = False
) -> ClaimResult:
    whole = {"kind": kind, "says": "x", "source": "x", "sweep": "x", "families": ["TSM"]}
    claim = AccuracyClaim.model_validate_json(json.dumps({**whole, "pairs": [["a", "b"]]}))
    found = tuple(
        difference(one if isinstance(one, np.ndarray) else values(one), identical) for one in pairs
    )
    return ClaimResult("claim", "TSM", claim, found, gap=gap, command="cmkd sweep x")


def verdict(one: ClaimResult, *others: ClaimResult, looks: Sequence[int] = (5,)) -> ClaimResult:
    return decide_claims([one, *others], claims(*looks))[0]


CLEAR, MORE = (6.0, 7.0, 6.5, 7.5, 6.0), (1.0, 4.0, -1.0, 3.0, 2.0)
NOTHING = (0.5, -0.5, 0.0, 0.5, -0.5)


@pytest.mark.parametrize(
    ("kind", "seeds", "changed", "expected"),
    [
        ("better", CLEAR, 0.2, "supported"),
        ("better", [-one for one in CLEAR], 0.2, "contradicted"),
        ("better", MORE, 0.2, "inconclusive"),
        ("better", NOTHING, 0.02, "equal"),
        ("near", [4.5, 5.0, 4.0, 5.5, 4.5], 0.2, "supported"),
        ("near", [-9.0, -9.5, -10.0, -8.5, -9.0], 0.2, "contradicted"),
        ("near", [-1.0, 3.0, -4.0, 1.0, -2.0], 0.2, "inconclusive"),
        ("equal", NOTHING, 0.02, "supported"),
        ("equal", [8.0, 8.5, 7.5, 8.0, 9.0], 0.2, "contradicted"),
        ("equal", [-8.0, -8.5, -7.5, -8.0, -9.0], 0.2, "contradicted"),
        ("equal", [1.0, 4.0, -1.0, 3.0, 2.0], 0.2, "inconclusive"),
    ],
)
def test_planted_effects(kind: str, seeds: Sequence[float], changed: float, expected: str) -> None:
    found = verdict(result(kind, values(seeds, changed)))
    assert found.verdict == expected
    assert (found.look == 5) == (expected != "inconclusive")


def test_every_pair_must_hold_and_one_contrary_is_enough() -> None:
    assert verdict(result("better", CLEAR, CLEAR)).verdict == "supported"
    assert verdict(result("better", CLEAR, MORE)).verdict == "inconclusive"
    assert verdict(result("better", CLEAR, [-one for one in CLEAR])).verdict == "contradicted"


def test_no_verdict_before_the_first_look_however_clear() -> None:
    found = verdict(result("better", (15.0, 15.5, 15.2)))
    assert (found.verdict, found.more, found.p) == ("inconclusive", 2, None)
    assert found.reason == "3 of 5 replicates; run: cmkd sweep x --seeds 5"


def test_a_dead_toggle_is_no_equivalence() -> None:
    found = verdict(result("equal", [0.0] * 5, identical=True))
    assert (found.verdict, found.p) == ("dead", None)
    assert found.reason.startswith("a - b: the same predictions")


def test_a_claim_without_runs_is_a_test_of_the_family() -> None:
    borderline, absent = result("better", (2.5, 5.0, 4.0, 6.5, 3.0)), result("better", gap="run: x")
    alone = verdict(borderline)
    beside = decide_claims([borderline, absent, absent], claims(5))
    assert (beside[1].verdict, beside[1].reason) == ("no runs", "run: x")
    tested = verdict(borderline, result("better", MORE), result("better", MORE))
    assert alone.p is not None
    assert beside[0].p == tested.p == pytest.approx(3 * alone.p)


def test_a_later_look_costs_and_is_named() -> None:
    alone, twice = verdict(result("better", MORE)), verdict(result("better", MORE), looks=(5, 10))
    assert alone.p is not None and twice.p == pytest.approx(2 * alone.p)
    assert twice.reason.endswith("next look at 10: cmkd sweep x --seeds 10")
    # Ten replicates are looked at at both; what five decided stands.
    late = verdict(result("better", [*CLEAR, *[-one for one in CLEAR]]), looks=(5, 10))
    assert (late.verdict, late.look) == ("supported", 5)
    # Replicates beyond the last look have no part in a verdict.
    more = np.vstack([values(MORE), values(CLEAR)])
    assert verdict(result("better", more)).p == alone.p


def test_the_replicates_that_are_missing_are_those_of_the_power_calculation() -> None:
    one = result("better", MORE)
    found = verdict(one)
    assert found.more is not None
    estimate, n = one.pairs[0].at(5), 5 + found.more
    assert estimate.power(estimate.mean, n - 1, 0.025) < 0.8
    assert estimate.power(estimate.mean, n, 0.025) >= 0.8
    assert f"about {found.more} more would show" in found.reason
    assert "every look costs" in found.reason


def test_clips_that_bar_a_verdict_are_asked_for_and_not_replicates() -> None:
    # Every replicate gains the same clips: other replicates change nothing, other clips may.
    same = np.zeros((5, CLIPS))
    same[:, :10], same[:, 10:16] = 100.0, -100.0
    found = verdict(result("better", same))
    assert (found.verdict, found.more) == ("inconclusive", None)
    assert "more test clips" in found.reason


def test_a_difference_too_small_asks_for_no_number() -> None:
    found = verdict(result("near", (-2.0, -8.0, 4.0, -5.0, 1.0)))
    assert (found.verdict, found.more) == ("inconclusive", None)
    assert "50 replicates would not" in found.reason


FAMILY, SPREAD, CHANGED = 3, 4.0, 0.3


def simulate(
    effects: Sequence[float], replicates: int, looks: Sequence[int], sweeps: int
) -> np.ndarray:
    """Verdicts of sweeps with true `effects` in points, clips and teachers varying."""
    rng, found = np.random.default_rng(replicates), []
    for _ in range(sweeps):
        cases = []
        for effect in effects:
            drawn = rng.normal(effect, SPREAD, (replicates, 1)) + rng.normal(0, 20, CLIPS)
            chance = rng.random((replicates, CLIPS))
            up = chance < (CHANGED + drawn / 100) / 2
            down = chance > 1 - (CHANGED - drawn / 100) / 2
            cases.append(result("better", 100.0 * up - 100.0 * down))
        decided = decide_claims(cases, claims(*looks, margin=0.2))
        found.append([one.verdict for one in decided])
    return np.array(found)


@pytest.mark.parametrize(("replicates", "looks"), [(5, (5,)), (12, (12,)), (12, (5, 12))])
def test_false_verdicts_are_as_rare_as_promised(replicates: int, looks: Sequence[int]) -> None:
    wrong = (simulate([0.0] * FAMILY, replicates, looks, 1500) != "inconclusive").any(axis=1)
    assert wrong.mean() <= 0.055


def test_a_large_effect_is_found() -> None:
    found = simulate([9.0, 0.0, 0.0], 12, (12,), 200)
    assert (found[:, 0] == "supported").mean() > 0.9
    assert not (found[:, 0] == "contradicted").any()
