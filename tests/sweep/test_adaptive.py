"""Seeds until an order is decided: what is compared, when it is decided, and how often wrongly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from cmkd.config.sweep import Arm, Sweep, load_sweep
from cmkd.config.trial import Setting
from cmkd.sweep.interim_looks import LEVEL, compared_arms, comparisons, interim_looks, seeds_needed

CLEAR = [7.0, 8.0, 7.5, 6.5, 7.9, 7.2, 7.7, 6.9, 7.4, 8.1]
"""Differences in points that leave no doubt, and `NONE` that leave every."""
NONE = [3.0, -3.0, 2.0, -2.0, 1.0, -1.5, 4.0, -3.5, 0.5, -0.5]


def names(sweep: Sweep) -> set[tuple[str, str]]:
    return {(arm.name, other.name) for arm, other in compared_arms(sweep)}


def arm(name: str, weight: float) -> Arm:
    method = {"lambda_1": weight, "lambda_2": 0.0}
    return Arm(name, Setting.model_validate({"method": method}))


CONTROL, NEAR, FAR = arm("control", 0.0), arm("near", 0.1), arm("far", 1.0)
PAIRS = [(NEAR, CONTROL), (FAR, CONTROL)]


def scores(by_arm: Mapping[Arm, Iterable[float]], fold: int = 0) -> dict[tuple[str, int, int], Any]:
    """Test accuracies of seeds 0, 1, ... by the key that the store has them under."""
    return by_seed({one.setting.id: values for one, values in by_arm.items()}, fold)


def by_seed(by_id: Mapping[str, Iterable[float]], fold: int = 0) -> dict[tuple[str, int, int], Any]:
    return {
        (key, fold, seed): value
        for key, values in by_id.items()
        for seed, value in enumerate(values)
    }


def test_each_arm_is_compared_with_what_it_departs_from() -> None:
    halves = [
        {
            (f"{half}_control", f"{half}_baseline"),
            (f"{half}_spatial", f"{half}_control"),
            (f"{half}_temporal", f"{half}_control"),
            (f"{half}_both", f"{half}_control"),
        }
        for half in ("tsm", "tdn")
    ]
    further = {
        ("tsm_logits", "tsm_control"),
        ("tdn_logits", "tdn_control"),
        ("tsm_printed", "tsm_both"),
    }
    assert names(load_sweep("ablation")) == halves[0] | halves[1] | further
    assert names(load_sweep("comparison")) == {
        ("tsm_ours", "tsm_baseline"),
        ("tdn_ours", "tdn_baseline"),
    }, "without a control it is the baseline"
    schedule = names(load_sweep("schedule"))
    assert ("spatial_long", "control_long") in schedule
    assert not any("svm" in one or "svm" in other for one, other in schedule)


def test_variants_of_a_component_are_compared_with_the_standard() -> None:
    found = names(load_sweep("components"))
    standard = "gate[gate=off]"
    assert {other for _, other in found} == {standard, "decoder_without_kd"}
    assert ("motion[motion=per_frame]", standard) in found
    assert (standard, "decoder_without_kd") in found
    assert len(found) == len({one.setting.id for one in load_sweep("components").arms}) - 1


def test_candidates_of_a_selection_are_compared_with_each_other() -> None:
    low, middle, high = (f"spatial[lambda_1={value}]" for value in (0.01, 0.1, 1.0))
    printed = [f"printed[lambda_2={value}]" for value in (0.1, 1.0, 5.0)]
    printed += [f"printed_logits[lambda_2={value}]" for value in (0.0, 1.0)]
    assert names(load_sweep("hyperparameters")) == {
        ("control", "baseline"),
        *((one, "control") for one in (low, middle, high, *printed)),
        *((low, middle), (low, high), (middle, high)),
    }


def test_looks_are_declared_from_the_first_to_the_last() -> None:
    assert interim_looks(5, 20) == (5, 7, 9, 12, 15, 19, 20)
    assert interim_looks(3, 5) == (3, 4, 5)


def test_a_clear_order_is_decided_at_once_and_an_open_one_asks_for_seeds() -> None:
    at = interim_looks(5, 9)
    reached = scores({CONTROL: [0.0] * 5, NEAR: NONE[:5], FAR: CLEAR[:5]})
    open_one, clear = comparisons(PAIRS, reached, folds=1, at=at)
    assert (clear.decided, clear.seeds, open_one.decided, open_one.seeds) == (True, 5, False, 5)
    assert clear.mean == pytest.approx(7.38)
    assert clear.describe().startswith("far vs control: +7.38 [+")
    assert clear.describe().endswith("], decided after 5 seeds")
    assert ", open after 5 seeds" in open_one.describe()
    assert seeds_needed((open_one, clear), at) == {"near": 7, "control": 7, "far": 5}


def test_an_interval_has_the_level_of_its_look_and_what_is_decided_leaves_it_to_the_rest() -> None:
    at = interim_looks(5, 9)
    reached = scores({CONTROL: [0.0] * 5, NEAR: NONE[:5], FAR: CLEAR[:5]})
    open_one, clear = comparisons(PAIRS, reached, folds=1, at=at)

    def half(values: list[float], level: float) -> float:
        from scipy.stats import t

        spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        return float(t.ppf(1 - level / 2, len(values) - 1)) * spread

    assert clear.half_width == pytest.approx(half(CLEAR[:5], LEVEL / (len(at) * 2)))
    assert open_one.half_width == pytest.approx(half(NONE[:5], LEVEL / len(at)))


def test_a_decision_stands_whatever_later_seeds_say() -> None:
    reached = scores({CONTROL: [0.0] * 9, FAR: [*CLEAR[:5], -90.0, -90.0, -90.0, -90.0]})
    (order,) = comparisons([(FAR, CONTROL)], reached, folds=1, at=interim_looks(5, 9))
    assert (order.decided, order.seeds) == (True, 5)
    assert seeds_needed([order], interim_looks(5, 9)) == {"far": 5, "control": 5}


def test_the_last_look_is_the_end() -> None:
    at = interim_looks(5, 9)
    reached = scores({CONTROL: [0.0] * 10, NEAR: NONE})
    (order,) = comparisons([(NEAR, CONTROL)], reached, folds=1, at=at)
    assert (order.decided, order.seeds) == (False, 9)
    assert seeds_needed([order], at) == {"near": 9, "control": 9}


def test_only_seeds_that_finished_in_every_fold_count_and_none_is_passed_over() -> None:
    at = interim_looks(5, 9)
    one_fold = scores({CONTROL: [0.0] * 9, FAR: CLEAR[:9]})
    both = one_fold | scores({CONTROL: [0.0] * 9, FAR: CLEAR[:9]}, fold=1)
    assert comparisons([(FAR, CONTROL)], one_fold, folds=2, at=at) == ()
    assert comparisons([(FAR, CONTROL)], both, folds=2, at=at)[0].mean == pytest.approx(7.38)
    del both[FAR.setting.id, 1, 3]
    assert comparisons([(FAR, CONTROL)], both, folds=2, at=at) == ()


def test_equal_differences_decide_nothing() -> None:
    reached = scores({CONTROL: [50.0] * 5, FAR: [51.25] * 5})
    (order,) = comparisons([(FAR, CONTROL)], reached, folds=1, at=interim_looks(5, 9))
    assert not order.decided, "a coarse accuracy, and no sign of certainty"


def test_few_sweeps_of_equal_arms_decide_anything_falsely() -> None:
    """The error over four comparisons that share a control, and seven looks, is LEVEL at most.

    2,000 sweeps in which nothing differs: more than the bound of three standard deviations
    would be seen once in a thousand times. Without a correction it would be about a third.
    """
    rng = np.random.default_rng(20)
    at = interim_looks(5, 20)
    arms = [arm(f"arm {index}", 0.1 * index) for index in range(5)]
    pairs = [(one, arms[0]) for one in arms[1:]]
    ids = [one.setting.id for one in arms]
    sweeps, wrong, naive = 2000, 0, 0
    for drawn in rng.normal(70.0, 4.0, (sweeps, len(arms), at[-1])):
        reached = by_seed(dict(zip(ids, drawn.tolist(), strict=True)))
        wrong += any(order.decided for order in comparisons(pairs, reached, folds=1, at=at))
        differences = drawn[1:] - drawn[0]
        naive += any(uncorrected(differences[:, :look]) for look in at)
    bound = LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / sweeps)
    assert 0 < wrong / sweeps <= bound
    assert naive / sweeps > 3 * LEVEL, "the test would see a missing correction"


def uncorrected(differences: np.ndarray) -> bool:
    from scipy.special import stdtrit

    n = differences.shape[1]
    t = differences.mean(axis=1) / (differences.std(axis=1, ddof=1) / math.sqrt(n))
    return bool((np.abs(t) > stdtrit(n - 1, 1 - LEVEL / 2)).any())


@pytest.mark.slow
def test_the_command_adds_seeds_says_why_and_goes_on_from_there(
    new_workspace: Callable[..., Any],
) -> None:
    space = new_workspace(1)
    command = ("sweep", "tiny.yaml", "--seeds", "3", "--until-decided")
    code, output = space.run(*command, "4")
    assert code == 0, output
    # Networks that have not learnt yet are equally good, or nearly so.
    assert re.search(r"both vs control: .*, open after 3 seeds", output)
    assert re.search(r"both vs control: .*, open after 4 seeds", output)
    assert "\n8 of 8 done, 8 of them now" in output
    assert space.repeats() == []
    why = space.query(
        "select r.name, t.value from tags t join runs r using (run_uuid) "
        "where t.key = 'added_for' order by 1"
    )
    assert [name for name, _ in why] == ["both seed 3 fold 0", "control seed 3 fold 0"]
    assert all("both vs control: " in str(text) and "after 3 seeds" in str(text) for _, text in why)

    before = space.metrics()
    code, output = space.run(*command, "4")
    assert (code, output.splitlines()[-1]) == (0, "nothing to train: 8 of 8 done")
    assert space.metrics() == before
