"""The statistics of all reports: by hand, by simulation, and beside scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from cmkd.stats import (
    LEVEL,
    Estimate,
    decide,
    estimate,
    holm,
    tied_with_best,
)


def paired(
    rng: np.random.Generator,
    replicates: int,
    *,
    effect: float = 0.0,
    clips: int = 240,
    teacher: float = 0.08,
    clip: float = 0.5,
    sessions: int = 0,
) -> np.ndarray:
    """Right minus wrong of two arms near 80 %, in points: replicates and clips both vary.

    Args:
        effect: true difference in points, about.
        teacher: SD of a replicate's (teacher draw and seed) effect on an arm, in probits.
        clip: SD of an arm's effect on a clip, or on a session where there are `sessions`.
    """
    scale = (2 + clip**2 + teacher**2) ** 0.5
    shared = rng.normal(0, 1, clips)
    right = []
    for shift in (effect, 0.0):
        own = rng.normal(0, clip, sessions or clips)
        own = own if not sessions else own.repeat(clips // sessions)
        drawn = rng.normal(0, teacher, (replicates, 1)) + rng.normal(0, 1, (replicates, clips))
        right.append(scale * ndtri(0.8 + shift / 100) + shared + own + drawn > 0)
    ours, theirs = right
    points: np.ndarray = 100.0 * ours - 100.0 * theirs
    return points


def test_variance_and_degrees_of_freedom_by_hand() -> None:
    values = np.array([[6.0, 0, 3, 3], [4, 2, 2, 0], [8, 1, 1, 0]])
    found = estimate(values)
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    rest = values - rows[:, None] - columns + values.mean()
    interaction = (rest**2).sum() / 6 / 12
    of_clips = columns.var(ddof=1) / 4 - interaction
    assert of_clips > 0
    assert (found.mean, found.replicates, found.groups) == (2.5, 3, 4)
    assert found.sd == pytest.approx(rows.std(ddof=1))
    assert found.of_replicates == pytest.approx(rows.var(ddof=1) / 3)
    assert found.of_clips == pytest.approx(of_clips)
    share = found.of_replicates / (found.of_replicates + of_clips)
    assert found.df == pytest.approx(1 / (share / 2 + (1 - share) / 3))
    error = (found.of_replicates + of_clips) ** 0.5
    assert found.error == pytest.approx(error)
    known = stats.t(found.df, loc=2.5, scale=error)
    interval = found.interval()
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(known.interval(0.95))
    assert found.p_above(1.0) == pytest.approx(known.cdf(1.0))
    assert found.p_below(1.0) == pytest.approx(known.sf(1.0))
    assert found.p == pytest.approx(2 * known.cdf(0.0))
    assert found.p_within(3.0) == pytest.approx(known.sf(3.0))


def test_clips_of_one_kind_leave_the_paired_t_test() -> None:
    """Without an effect of clips, and for values that are no clips, it is Student's test."""
    per_replicate = np.array([1.2, -0.4, 2.1, 0.9, 0.3])
    known = stats.ttest_1samp(per_replicate, 0.0)
    for width in (1, 7):
        found = estimate(np.repeat(per_replicate[:, None], width, axis=1))
        assert (found.df, found.of_clips) == pytest.approx((4, 0))
        assert found.p == pytest.approx(known.pvalue)
        interval = found.interval()
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx(tuple(known.confidence_interval()))


def test_replicates_that_agree_leave_the_t_test_over_clips() -> None:
    clips = np.random.default_rng(0).normal(1, 3, 40)
    found = estimate(np.repeat(clips[None], 4, axis=0))
    assert found.p == pytest.approx(stats.ttest_1samp(clips, 0.0).pvalue)
    assert found.df == pytest.approx(39)
    # One run of a deterministic method says as much as four, and has no spread over seeds.
    once = estimate(clips[None], deterministic=True)
    assert (once.p, once.sd) == (pytest.approx(found.p), None)


def test_groups_of_one_size_are_their_means() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(1, 4, (4, 40)) + rng.normal(0, 3, (1, 8)).repeat(5, axis=1)
    groups = np.arange(8).repeat(5)
    found, known = estimate(values, groups), estimate(values.reshape(4, 8, 5).mean(axis=2))
    assert found.groups == 8
    assert (found.mean, found.error, found.df) == pytest.approx((known.mean, known.error, known.df))
    assert estimate(values, np.arange(40)) == estimate(values)


def test_groups_weigh_by_their_clips() -> None:
    # Mean 25 over clips; a small group has no more part in it than its clips.
    values = np.repeat([[100.0, 0.0, 0.0, 0.0]], 3, axis=0)
    found = estimate(values, np.array([0, 1, 2, 2]))
    # Sums of deviations 75, -25, -50: sqrt(3 / 2 x 8750) / 4.
    assert (found.mean, found.error) == pytest.approx((25.0, (1.5 * 8750) ** 0.5 / 4))


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        (np.random.default_rng(0).normal(5, 1, (2, 40)), None),
        (np.random.default_rng(0).normal(5, 1, (5, 40)), np.arange(40) % 2),
        (np.full((5, 40), 5.0), None),
        (np.zeros((5, 40)), None),
    ],
    ids=["two replicates", "two sessions", "no spread", "identical arms"],
)
def test_what_nothing_is_known_of(values: np.ndarray, groups: np.ndarray | None) -> None:
    found = estimate(values, groups)
    assert found.mean == pytest.approx(values.mean())
    assert (found.error, found.df, found.interval(), found.p) == (None, None, None, 1.0)
    assert (found.p_above(-9.0), found.p_below(9.0), found.p_within(9.0)) == (1.0, 1.0, 1.0)
    assert (found.detectable(0.05), found.replicates_for(1.0, 0.05)) == (None, None)


def test_replicates_that_agree_by_chance_differ_clip_by_clip() -> None:
    """Equal accuracies, and clips that add nothing to it: the interaction is the spread."""
    values = 100.0 * np.array([[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 1, 0], [0, 1, 0, 1]])
    found = estimate(values)
    assert (found.sd, found.of_clips, found.df) == (0.0, 0.0, 3)
    rest = values - 50
    assert found.error == pytest.approx(((rest**2).sum() / 9 / 16) ** 0.5)


def test_a_replicate_that_an_arm_lacks_is_left_out() -> None:
    values = np.random.default_rng(1).normal(0, 1, (5, 30))
    gaps = values.copy()
    gaps[2] = np.nan
    assert estimate(gaps) == estimate(np.delete(values, 2, axis=0))


SHAPES = [
    {"teacher": 0.0, "clip": 0.3},
    {"teacher": 0.08, "clip": 0.5},
    {"teacher": 0.08, "clip": 1.0},
    {"teacher": 0.3, "clip": 1.0},
    {"teacher": 0.08, "clip": 0.5, "sessions": 15},
]


@pytest.mark.parametrize("replicates", [5, 12])
def test_false_verdicts_are_at_most_one_in_twenty(replicates: int) -> None:
    """No effect, with teachers, seeds and clips drawn anew: 2,000 comparisons of five kinds."""
    rng = np.random.default_rng(replicates)
    rejected, covered = [], []
    for shape in SHAPES:
        groups = np.arange(240) // 16 if "sessions" in shape else None
        for _ in range(400):
            found = estimate(paired(rng, replicates, **shape), groups)
            rejected.append(found.p)
            interval = found.interval()
            assert interval is not None
            covered.append(interval.low <= 0 <= interval.high)
    assert np.mean(np.array(rejected) <= 0.05) <= 0.055
    # At the small levels that Holm's adjustment asks for, too.
    assert np.mean(np.array(rejected) <= 0.005) <= 0.0075
    assert 0.94 <= np.mean(covered) <= 0.965


def test_the_larger_of_two_p_values_would_err_more_often() -> None:
    """The test that this one replaces: over seeds, over clips, and the larger p counts."""
    rng, ours, larger = np.random.default_rng(8), 0, 0
    for _ in range(600):
        values = paired(rng, 5, teacher=0.08, clip=1.0)
        ours += estimate(values).p <= 0.05
        over = (stats.ttest_1samp(values.mean(axis=axis), 0).pvalue for axis in (0, 1))
        larger += max(over) <= 0.05
    assert ours < larger and larger / 600 > 0.06


def test_few_sessions_do_not_make_it_optimistic() -> None:
    rng, false = np.random.default_rng(11), 0
    for sessions in (3, 5, 15):
        for _ in range(300):
            effects = rng.normal(0.0, 10.0, sessions).repeat(4)
            values = effects + rng.normal(0.0, 5.0, (3, 4 * sessions))
            false += estimate(values, np.arange(sessions).repeat(4)).p <= 0.05
    assert false / 900 <= 0.055


def test_holm_by_hand() -> None:
    # 4 x 0.005, 3 x 0.01, 2 x 0.03 and then no less than that; in the order given.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


def test_every_look_has_its_part_of_the_level() -> None:
    # Two looks: 0.02 x 2 hypotheses x 2 looks is open, 0.012 x 2 x 2 is decided.
    assert decide([[0.02, 1.0]], 2) == ((pytest.approx(0.08), None), (1.0, None))
    assert decide([[0.012, 1.0]], 2) == ((pytest.approx(0.048), 0), (1.0, None))
    # What is decided leaves the whole level to the other, and stands.
    assert decide([[0.012, 0.5], [0.9, 0.02]], 2) == (
        (pytest.approx(0.048), 0),
        (pytest.approx(0.04), 1),
    )
    # A look without data changes nothing.
    assert decide([[0.1], [1.0]], 2) == ((pytest.approx(0.2), None),)
    assert decide([], 2) == ()


def test_looking_twice_is_paid_for() -> None:
    """Five comparisons without effect, looked at with 5 and with 10 replicates."""
    rng, false, tables = np.random.default_rng(2), 0, 400
    for _ in range(tables):
        drawn = [paired(rng, 10, teacher=0.15, clips=60) for _ in range(5)]
        p = [[estimate(one[:look]).p for one in drawn] for look in (5, 10)]
        false += any(look is not None for _, look in decide(p, 2))
    assert false / tables <= 0.055


@pytest.mark.parametrize(("n", "level"), [(3, 0.025), (5, 0.025), (12, 0.0025)])
def test_a_detectable_effect_is_found_four_times_of_five(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(0, 2, (n, 1))
    found = estimate(values)
    effect = found.detectable(level)
    assert effect is not None and found.error is not None
    known = stats.nct.sf(stats.t.isf(level, n - 1), n - 1, effect / found.error)
    assert known == pytest.approx(0.8, abs=1e-6)
    assert found.replicates_for(1.0001 * effect, level) == n
    assert found.replicates_for(0.999 * effect, level) == n + 1


def of(sd: float, replicates: int, of_clips: float = 0.0) -> Estimate:
    return Estimate(0.0, sd, replicates, sd**2 / replicates, of_clips, 240, True)


def test_the_number_of_replicates_of_a_textbook() -> None:
    # G*Power: paired t test, two-sided 5 %, power 80 %: d = 0.5 needs 34 pairs, d = 0.8 needs 15.
    one = of(1.0, 5)
    assert (one.replicates_for(0.5, 0.025), one.replicates_for(0.8, 0.025)) == (34, 15)
    assert one.replicates_for(50.0, 0.025) == 3
    assert one.replicates_for(0.3, 0.025) is None
    # Clips bound what replicates can do: a standard error of 0.5 stays.
    assert of(1.0, 5, 0.25).replicates_for(1.0, 0.025) is None
    bound = of(1.0, 5, 0.25)
    n = bound.replicates_for(2.0, 0.025)
    assert n is not None
    assert bound.power(2.0, n - 1, 0.025) < 0.8 <= bound.power(2.0, n, 0.025)


def test_arms_that_are_tied_with_the_best() -> None:
    means = {"a": 90.0, "b": 88.1, "c": 88.0, "d": 49.7, "e": 60.0}
    assert tied_with_best(means) == {"a", "b"}
    assert tied_with_best(means, margin=0.5) == {"a"}
    assert tied_with_best(means, margin=3.0) == frozenset(), "a mark on most says nothing"
    assert tied_with_best({"a": 90.0, "b": 80.0}) == {"a"}
    assert tied_with_best({"a": 90.0}) == tied_with_best({}) == frozenset()


def test_levels_agree() -> None:
    found = estimate(np.random.default_rng(4).normal(0.4, 1, (6, 50)))
    interval = found.interval(found.p)
    assert interval is not None
    assert min(abs(interval.low), abs(interval.high)) == pytest.approx(0, abs=1e-9)
    assert pytest.approx(0.05) == LEVEL
